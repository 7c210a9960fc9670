"""One elliptical density fitted to each prefix: a shrunken Gaussian, and the Bayesian Student-t.

Both are standardised inside, column by column, like the other fitted learners.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.classical import FittedLearner


@dataclass(frozen=True)
class StudentLearner(FittedLearner):
    """The posterior predictive of one Gaussian under a normal-inverse-Wishart prior: a Student-t density.

    In standardised units the prior is μ | Σ ~ N(0, Σ / κ) and Σ ~ IW(Ψ = (ν - d - 1) I, ν), so that E Σ = I.

    Args:
        dim: Dimension of the points (d).
        strength: κ, the number of points that the prior mean counts as.
        dof: ν, above d + 1; the default d + 2 is the weakest whole number for which E Σ exists.

    Raises:
        UserError: A strength that is not positive, or too few degrees of freedom.

    Source: Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", section 9.
    """

    dim: int
    strength: float = 0.01
    dof: float | None = None

    def __post_init__(self) -> None:
        if not self.strength > 0 or (self.dof is not None and not self.dof > self.dim + 1):
            raise UserError(
                f"strength must be positive and dof above dim + 1 = {self.dim + 1}, given {self.strength} and "
                f"{self.dof}"
            )

    @property
    def _prior_dof(self) -> float:
        return self.dim + 2 if self.dof is None else self.dof

    def _dof(self, points: int) -> float:
        return self._prior_dof + points - self.dim + 1

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        points, dim = z.shape[1:]
        total = self.strength + points
        mean = z.mean(1)
        centred = z - mean[:, None]
        identity = torch.eye(dim, dtype=z.dtype, device=z.device)
        # Ψ_n = Ψ + Σ (z - z̄)(z - z̄)ᵀ + κ n / (κ + n) z̄ z̄ᵀ
        outer = self.strength * points / total * mean[:, :, None] * mean[:, None, :]
        psi = (self._prior_dof - dim - 1) * identity + centred.mT @ centred + outer
        scale = psi * (total + 1) / (total * self._dof(points))
        return z.new_zeros(len(z), 1), (points / total * mean)[:, None], _whitener(scale)[:, None]


@dataclass(frozen=True)
class ShrunkGaussianLearner(FittedLearner):
    """One Gaussian, its covariance shrunk by the formula of Ledoit and Wolf (scikit-learn's).

    Args:
        dim: Dimension of the points.

    Raises:
        UserError: scikit-learn is not installed.

    Source: Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices".
    """

    dim: int

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        try:
            from sklearn.covariance import ledoit_wolf
        except ImportError as error:
            raise UserError(
                "ShrunkGaussianLearner needs scikit-learn; install it with: pip install 'iclkit[sklearn]'"
            ) from error
        covariances = [ledoit_wolf(points)[0] for points in z.detach().cpu().double().numpy()]
        covariance = torch.stack([torch.as_tensor(found) for found in covariances]).to(z)
        return z.new_zeros(len(z), 1), z.mean(1, keepdim=True), _whitener(covariance)[:, None]


def _whitener(covariance: Float[Tensor, "B d d"]) -> Float[Tensor, "B d d"]:
    """The inverse of the lower Cholesky factor."""
    factor = torch.linalg.cholesky(covariance)
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)
