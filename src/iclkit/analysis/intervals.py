"""Numbers by context size with their uncertainty; one value per dataset, so that curves can be paired."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.table import Table
from iclkit.errors import UserError

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and an interval around it, by context size (or for one number: zero-dimensional tensors)."""

    mean: Float[Tensor, "*P"]
    low: Float[Tensor, "*P"]
    high: Float[Tensor, "*P"]

    def __getitem__(self, index: int) -> Interval:
        return Interval(self.mean[index], self.low[index], self.high[index])

    def __str__(self) -> str:
        return f"{float(self.mean):.3f} [{float(self.low):.3f}, {float(self.high):.3f}]"

    @property
    def half_width(self) -> Float[Tensor, "*P"]:
        """Half the length of the interval."""
        return 0.5 * (self.high - self.low)


@dataclass(frozen=True)
class Curve:
    """A quantity measured on D datasets at P context sizes.

    Two curves of the same datasets may be subtracted: the interval of a paired difference is far narrower than
    the difference of two intervals, for what makes a dataset hard makes it hard for everyone.

    Args:
        context_sizes: How many points the learner had seen.
        values: The quantity, per dataset.

    Raises:
        UserError: A value is not finite, or the sizes do not belong to the values.
    """

    context_sizes: tuple[int, ...]
    values: Float[Tensor, "D P"]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.context_sizes) or not len(self.values):
            raise UserError(
                f"values must have shape [datasets, {len(self.context_sizes)}], given {list(self.values.shape)}"
            )
        if not self.values.isfinite().all():
            size = self.context_sizes[int((~self.values.isfinite()).any(0).nonzero()[0])]
            raise UserError(f"a value at context size {size} is not finite; an average of it would say nothing")

    @property
    def datasets(self) -> int:
        """How many data sets were measured."""
        return len(self.values)

    @property
    def mean(self) -> Float[Tensor, " P"]:
        """Mean over the datasets."""
        return self.values.double().mean(0)

    def interval(self, level: float = 0.95, seed: int = 0) -> Interval:
        """Mean over the datasets with its bootstrap interval (percentiles of means of resampled datasets).

        Args:
            level: Coverage of the interval.
            seed: Seed of the resampling.
        """
        values = self.values.double().cpu()
        means = _resampling(len(values), seed) @ values
        return _percentiles(values.mean(0), means, level)

    def table(self, quantity: str, context_sizes: Sequence[int] | None = None) -> Table:
        """Mean and 95 % interval at some context sizes (default all), one row each.

        Args:
            quantity: What the values are, with their unit.
            context_sizes: Rows of the table.
        """
        shown = self if context_sizes is None else self.at(*context_sizes)
        interval = shown.interval()
        rows = [
            [str(n), f"{interval.mean[i]:.3g}", f"{interval.low[i]:.3g} to {interval.high[i]:.3g}"]
            for i, n in enumerate(shown.context_sizes)
        ]
        return Table(["context size", quantity, "95 % interval"], rows)

    def overall(self, level: float = 0.95, seed: int = 0) -> Interval:
        """Mean over datasets and context sizes, each size counting the same; resampled by dataset."""
        means = self.values.double().mean(1, keepdim=True)
        return Curve((0,), means).interval(level, seed)[0]

    def at(self, *context_sizes: int) -> Curve:
        """The curve at some of its context sizes.

        Raises:
            UserError: A size that was not measured.
        """
        missing = [n for n in context_sizes if n not in self.context_sizes]
        if missing:
            raise UserError(f"context sizes {missing} were not measured (measured: {list(self.context_sizes)})")
        index = [self.context_sizes.index(n) for n in context_sizes]
        return Curve(tuple(context_sizes), self.values[:, index])

    def __sub__(self, other: Curve) -> Curve:
        """The paired difference, dataset by dataset."""
        _check_paired(self, other)
        return Curve(self.context_sizes, self.values - other.values)


def ratio(top: Curve, bottom: Curve, level: float = 0.95, seed: int = 0) -> Interval:
    """Ratio of the means of two curves of the same datasets, which are resampled together.

    Args:
        top: Its mean is divided.
        bottom: By the mean of this one; where that is zero the ratio is infinite, or NaN.
        level: Coverage of the interval.
        seed: Seed of the resampling.

    Raises:
        UserError: Curves of other datasets or context sizes.
    """
    _check_paired(top, bottom)
    above, below = top.values.double().cpu(), bottom.values.double().cpu()
    drawn = _resampling(len(above), seed)
    return _percentiles(above.mean(0) / below.mean(0), (drawn @ above) / (drawn @ below), level)


def cell(interval: Interval) -> str:
    """A mean with half of its interval, as text: both to the first digit of the half."""
    mean, half = float(interval.mean), float(interval.half_width)
    if half < 1e-4 * abs(mean):
        return f"{mean:.4g} ± {half:.1g}"
    if not (half > 0 and 1e-3 <= max(abs(mean), half) < 1e5):
        return f"{mean:.2g} ± {half:.1g}"
    decimals = max(0, -math.floor(math.log10(half)))
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def _check_paired(a: Curve, b: Curve) -> None:
    if a.context_sizes != b.context_sizes or a.values.shape != b.values.shape:
        raise UserError("only curves of the same datasets and context sizes can be paired")


@functools.lru_cache(maxsize=1)  # drawing them takes longer than the means; many curves share their datasets
def _resampling(count: int, seed: int) -> Float[Tensor, "R D"]:
    """Shares of the datasets in each resampled mean; they sum to one. To be read only."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=weights.dtype)) / count


def _percentiles(mean: Tensor, resampled: Float[Tensor, "R P"], level: float) -> Interval:
    tail = 0.5 * (1 - level)
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=resampled.dtype), dim=0)
    return Interval(mean, low, high)
