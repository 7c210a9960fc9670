"""The mean of several predictive densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner, Predictive


@dataclass(frozen=True)
class AverageLearner(DensityLearner):
    """Averages the densities of several learners with equal weights.

    Args:
        parts: At least one learner, all of one dimension.

    Raises:
        UserError: No learner, or learners of different dimensions.
    """

    parts: tuple[DensityLearner, ...]

    def __post_init__(self) -> None:
        if len({part.dim for part in self.parts}) != 1:
            raise UserError(
                f"parts must be learners of one dimension, given dimensions {[part.dim for part in self.parts]}"
            )

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.parts[0].dim

    def predictives(self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None) -> Predictive:
        return AveragePredictive(tuple(part.predictives(x, prefixes) for part in self.parts))


@dataclass(frozen=True)
class AveragePredictive(Predictive):
    """The mean of predictive densities of the same prefixes.

    Args:
        parts: The densities.
    """

    parts: tuple[Predictive, ...]

    def log_prob(self, candidates: Float[Tensor, "B P K d"]) -> Float[Tensor, "B P K"]:
        scored = torch.stack([part.log_prob(candidates) for part in self.parts])
        return scored.logsumexp(0) - math.log(len(self.parts))

    def sample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        draws = torch.stack([part.sample(size, generator) for part in self.parts])
        chosen = torch.randint(len(self.parts), draws.shape[1:-1], generator=generator, device=draws.device)
        return torch.take_along_dim(draws, chosen[None, ..., None], 0)[0]
