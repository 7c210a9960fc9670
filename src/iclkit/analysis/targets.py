"""The predictions that other learners are compared with, and how far others are from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Predictions of this many typical sizes count in full. Of normal ones, 6 in 100,000 are larger.
_TYPICAL = 4.0
# A median absolute value over a standard deviation, for the normal distribution.
_MEDIAN = 0.6745


@dataclass(frozen=True)
class Target:
    """A learner's predictions as what to come near to.

    The mean square of some learners does not exist: least squares with noise, at n = d. One episode then
    decides every average. So the differences at a prediction beyond 4 typical sizes of its context size are
    scaled down in proportion, whoever is compared, and no difference counts as more than 4 typical sizes: else
    one episode on which gradient descent diverges would. Where both predict about normally, nothing changes.

    Args:
        values: The predictions.
        factors: What differences from them are multiplied by.
        limits: The largest difference that counts, by context size.
        sizes: The context sizes that count.
    """

    values: Float[Tensor, "B N"]
    factors: Float[Tensor, "B N"]
    limits: Float[Tensor, " N"]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, values: Float[Tensor, "B N"], sizes: tuple[int, ...]) -> Target:
        """A target whose typical sizes are robust standard deviations, by context size."""
        typical = values.abs().median(0).values / _MEDIAN
        # Where half of the predictions are 0 nothing is typical, and all count in full.
        limit = torch.where(typical > 0, _TYPICAL * typical, torch.inf)
        return cls(values, (limit / values.abs().clamp(min=1e-300)).clamp(max=1.0), limit, sizes)

    def part(self, rows: slice) -> Target:
        """Some of the episodes."""
        return Target(self.values[rows], self.factors[rows], self.limits, self.sizes)

    def differences(self, predictions: Float[Tensor, "B N"]) -> Float[Tensor, "B S"]:
        """How far others are from it at the context sizes that count."""
        scaled = (predictions - self.values) * self.factors
        return torch.minimum(torch.maximum(scaled, -self.limits), self.limits)[:, list(self.sizes)]

    def differences_at(self, predictions: Float[Tensor, "B S"], sizes: list[int]) -> Float[Tensor, "B S"]:
        """The same of predictions at some context sizes alone."""
        scaled = (predictions - self.values[:, sizes]) * self.factors[:, sizes]
        return torch.minimum(torch.maximum(scaled, -self.limits[sizes]), self.limits[sizes])

    @property
    def power(self) -> float:
        """The mean square of the differences from predicting 0."""
        return float(self.differences(torch.zeros_like(self.values)).square().mean())

    @property
    def outliers(self) -> float:
        """The share of the predictions that do not count in full."""
        return float((self.factors[:, list(self.sizes)] < 1).double().mean())
