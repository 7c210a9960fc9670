"""Mixtures of isotropic Gaussians with random means: the prior of in-context learning of energy functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iclkit.errors import UserError
from iclkit.tasks.base import DensityTask, Episodes
from iclkit.tasks.mixtures import Mixtures


@dataclass(frozen=True)
class GaussianMixtures(DensityTask):
    """Each episode is a uniform mixture of isotropic Gaussians whose means are drawn from N(0, mean_std² I).

    The defaults are the published prior.

    Args:
        components: Number of components.
        dim: Dimension of the points.
        mean_std: Standard deviation of the component means.
        std: Standard deviation of every component.

    Raises:
        UserError: A count below one or a standard deviation that is not positive.

    Source: Schaeffer, Khona and Koyejo (2024), section 2.3, and their code.
    """

    rotation_invariant: ClassVar[bool] = True
    components: int = 3
    dim: int = 2
    mean_std: float = 5.0
    std: float = 0.33

    def __post_init__(self) -> None:
        if self.components < 1 or self.dim < 1:
            raise UserError(f"components and dim must be at least 1, given {self.components} and {self.dim}")
        if not (self.mean_std > 0 and self.std > 0):
            raise UserError(f"mean_std and std must be positive, given {self.mean_std} and {self.std}")

    def laws(self, episodes: int, generator: torch.Generator | None = None) -> Mixtures:
        """Draw the mixtures alone."""
        means = self.mean_std * torch.randn(episodes, self.components, self.dim, generator=generator)
        factor = self.std * torch.eye(self.dim).expand(episodes, self.components, -1, -1)
        weights = torch.full((episodes, self.components), -math.log(self.components))
        return Mixtures(weights, means, factor)

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        law = self.laws(episodes, generator)
        return Episodes(law.sample(points, generator), law)
