"""Numbers by context size with their uncertainty; one value per dataset, so that curves can be paired."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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
        count = len(values)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
        weights = torch.zeros(RESAMPLES, count, dtype=values.dtype)
        weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=values.dtype))
        means = weights @ values / count
        tail = 0.5 * (1 - level)
        low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=values.dtype), dim=0)
        return Interval(values.mean(0), low, high)

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
        if self.context_sizes != other.context_sizes or self.values.shape != other.values.shape:
            raise UserError("only curves of the same datasets and context sizes can be paired")
        return Curve(self.context_sizes, self.values - other.values)
