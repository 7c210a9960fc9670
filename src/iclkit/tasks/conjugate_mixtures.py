"""Mixtures whose every parameter integrates out: the broad prior with an exactly checkable reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iclkit.errors import UserError
from iclkit.tasks.base import DensityTask, Episodes
from iclkit.tasks.mixtures import Mixtures


@dataclass(frozen=True)
class ConjugateMixtures(DensityTask):
    """Mixtures of 1..max_components Gaussians with Dirichlet weights and normal-inverse-Wishart components.

    Given which point came from which component, weights, means and covariances integrate out in closed form:
    the number of components is uniform, w ~ Dirichlet(concentration), Σ ~ IW(ν, Ψ) with ν = d + 1 + tail and
    Ψ = tail · std² I, so that E Σ = std² I, and μ | Σ ~ N(0, Σ / strength). The defaults suit roughly
    standardised data: std² + std² / strength = 1.

    Args:
        max_components: Largest number of components.
        dim: Dimension of the points.
        concentration: Dirichlet concentration of the weights.
        std: Root of a component's mean variance along an axis.
        tail: How little covariances differ between components: large for nearly equal and isotropic ones.
        strength: Variance of a component over that of its mean (κ).

    Raises:
        UserError: A count below one, or another field that is not positive.

    Source: Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 9, for the
        parametrisation of the inverse Wishart.
    """

    rotation_invariant: ClassVar[bool] = True
    max_components: int = 6
    dim: int = 2
    concentration: float = 1.5
    std: float = 0.447
    tail: float = 2.0
    strength: float = 0.25

    def __post_init__(self) -> None:
        if self.max_components < 1 or self.dim < 1:
            raise UserError(
                f"max_components and dim must be at least 1, given {self.max_components} and {self.dim}"
            )
        for name in ("concentration", "std", "tail", "strength"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, given {getattr(self, name)}")

    @property
    def dof(self) -> float:
        """ν of the inverse Wishart."""
        return self.dim + 1 + self.tail

    @property
    def scale(self) -> float:
        """ψ of the inverse Wishart, whose scale matrix is ψ I."""
        return self.tail * self.std**2

    def laws(self, episodes: int, generator: torch.Generator | None = None) -> Mixtures:
        """Draw the mixtures alone."""
        k, d = self.max_components, self.dim
        count = torch.randint(1, k + 1, (episodes, 1), generator=generator)
        log_gamma = _gamma(torch.full((episodes, k), self.concentration), generator).log()
        log_weights = torch.log_softmax(log_gamma.masked_fill(torch.arange(k) >= count, -math.inf), -1)
        # Bartlett with an upper factor: U Uᵀ is Wishart(ν, I) if U_ii² ~ chi²(ν - d + 1 + i), i from 0, and the
        # rest is normal. Then Σ = ψ (U Uᵀ)⁻¹ = L Lᵀ with L = √ψ U⁻ᵀ, which is lower triangular.
        upper = torch.randn(episodes, k, d, d, generator=generator).triu(1)
        freedom = (self.dof - d + 1 + torch.arange(d)).expand(episodes, k, d)
        diagonal = (2 * _gamma(0.5 * freedom, generator)).sqrt()
        upper = upper + torch.diag_embed(diagonal)
        identity = math.sqrt(self.scale) * torch.eye(d).expand_as(upper)
        factor = torch.linalg.solve_triangular(upper, identity, upper=True).mT.contiguous()
        noise = torch.randn(episodes, k, d, generator=generator)
        means = torch.einsum("bkij,bkj->bki", factor, noise) / math.sqrt(self.strength)
        return Mixtures(log_weights, means, factor)

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        law = self.laws(episodes, generator)
        return Episodes(law.sample(points, generator), law)


def _gamma(shape: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Gamma(shape, 1) draws, kept off zero so that their logs are finite."""
    # torch.distributions takes no generator; its sampler does.
    draws = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return draws.clamp_min(1e-30)
