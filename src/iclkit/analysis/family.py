"""A family of learners that differ in free parameters alone, and predictions of its members."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.prompts import Prompts, Spectrum
from iclkit.analysis.questions import answers, answers_after
from iclkit.errors import UserError
from iclkit.learners import RegressionLearner

Inputs = Literal["plain", "centred", "joined"]


@dataclass(frozen=True)
class Parameter:
    """A free parameter of a family, and where it is looked for.

    Args:
        name: The learner's own name of it.
        grid: Values from which the search starts, ascending and positive; it never leaves their range. The
            continuous ones are searched on a logarithmic scale.
        whole: Whether it is an integer.
        symbol: What tables and figures call it; by default its name.

    Raises:
        UserError: A grid that is empty, not ascending or not positive.
    """

    name: str
    grid: tuple[float, ...]
    whole: bool = False
    symbol: str = ""

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.grid, self.grid[1:], strict=False))
        if not (self.grid and self.grid[0] > 0 and ascending):
            raise UserError(f"the grid of {self.name} must be positive and ascending, given {self.grid}")


@dataclass(frozen=True)
class Family:
    """Learners that differ in free parameters alone.

    Args:
        name: As in tables.
        build: Makes the learner of given parameters.
        parameters: The free ones.
        response: For learners that are functions of a context's spectrum: f(s), see `Spectrum`. It gives the
            predictions of `build` faster; None to call the learner itself.
        note: What else the name stands for.
        inputs: Which spectrum the response is of: "plain"; "centred", to which the mean target is added; or
            "joined", on inputs (1, x).
        by_size: Whether parameters may be fitted to each context size too, which takes some predictions more.
    """

    name: str
    build: Callable[..., RegressionLearner]
    parameters: tuple[Parameter, ...] = ()
    response: Callable[..., Float[Tensor, "B N d"]] | None = None
    note: str = ""
    inputs: Inputs = "plain"
    by_size: bool = True

    def predict(self, prompts: Prompts, values: Mapping[str, float]) -> Float[Tensor, "B N"]:
        """Predictions of the member with these parameters."""
        if self.response is None:
            return answers(self.build(**values), prompts.asked)
        spectrum, offset = self._spectrum(prompts)
        return offset + (self.response(spectrum, **values) * spectrum.loads).sum(-1)

    def predict_each(
        self, prompts: Prompts, values: Mapping[str, Tensor], sizes: list[int]
    ) -> Float[Tensor, "B S"]:
        """Predictions after some context sizes, each of the member with its own parameters.

        Args:
            prompts: The episodes.
            values: For each parameter a value for each of the sizes.
            sizes: The context sizes.
        """
        if self.response is not None:
            spectrum, offset = self._spectrum(prompts)
            few = spectrum.at(sizes)
            made = self.response(few, **{name: value[:, None] for name, value in values.items()})
            at = offset[:, sizes] if isinstance(offset, Tensor) else 0.0
            return at + (made * few.loads).sum(-1)
        found = torch.empty(len(prompts.asked.x), len(sizes), dtype=torch.float64)
        rows = torch.stack([values[p.name] for p in self.parameters], 1)
        whole = [p.whole for p in self.parameters]
        for row in rows.unique(dim=0):
            places = (rows == row).all(1).nonzero()[:, 0].tolist()
            numbers = (int(v) if w else v for v, w in zip(row.tolist(), whole, strict=True))
            member = self.build(**dict(zip(values, numbers, strict=True)))
            found[:, places] = answers_after(member, prompts.asked, [sizes[place] for place in places])
        return found

    def _spectrum(self, prompts: Prompts) -> tuple[Spectrum, Tensor | float]:
        if self.inputs == "centred":
            return prompts.centred
        return (prompts.joined if self.inputs == "joined" else prompts.spectrum), 0.0

    def label(self, values: Mapping[str, float]) -> str:
        """The member with these parameters as text."""
        inside = ", ".join(f"{name}={value:.3g}" for name, value in values.items())
        return f"{self.name} ({inside})" if inside else self.name


def log_grid(low: float, high: float, per_decade: int) -> tuple[float, ...]:
    """Powers of ten from low to high, evenly spaced on a logarithmic scale."""
    count = round(math.log10(high / low) * per_decade)
    return tuple(low * (high / low) ** (i / count) for i in range(count + 1))


def whole_grid(high: int, ratio: float = 1.3) -> tuple[int, ...]:
    """Integers from 1 to high, ever farther apart."""
    values = [1]
    while values[-1] < high:
        values.append(min(high, max(values[-1] + 1, round(values[-1] * ratio))))
    return tuple(values)
