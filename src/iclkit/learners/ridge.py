"""Ridge regression and its Bayesian reading, at every prefix from one Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.prefixes import sums_before
from iclkit.learners.regression import LinearLearner, ProbabilisticLearner


@dataclass(frozen=True)
class Ridge(LinearLearner):
    """The minimiser of Σ (wᵀx_i − y_i)² + penalty ‖w‖² over the context.

    Args:
        penalty: λ; 0 is least squares of smallest norm. Bayes' answer for noise σ² and weights N(0, τ² I) is
            λ = σ²/τ².

    Raises:
        UserError: A negative penalty.

    Source: Akyürek et al. (2022), section 4.
    """

    penalty: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"penalty must not be negative, given {self.penalty}")

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        if self.penalty == 0:
            return LeastSquares()._weights(x, y, prefixes)
        seen = max(prefixes)
        factor = gram_factor(x[:, :seen], self.penalty)
        return ridge_weights(factor, x[:, :seen], y[:, :seen], prefixes).to(x.dtype)


@dataclass(frozen=True)
class BayesLinear(LinearLearner, ProbabilisticLearner):
    """Bayesian linear regression: w ~ N(0, weight_std² I), y = wᵀx + N(0, noise_std²).

    Args:
        noise_std: σ, positive; without noise the posterior mean is `LeastSquares`.
        weight_std: τ.

    Raises:
        UserError: A standard deviation that is not positive.

    Source: Akyürek et al. (2022), section 4.2 (minimum Bayes risk).
    """

    noise_std: float
    weight_std: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.noise_std < float("inf") and 0 < self.weight_std < float("inf")):
            raise UserError(
                f"noise_std and weight_std must be positive, given {self.noise_std} and {self.weight_std}; "
                "without noise take LeastSquares()"
            )

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        return Ridge((self.noise_std / self.weight_std) ** 2)._weights(x, y, prefixes)

    def _distribution(self, x: Tensor, y: Tensor) -> torch.distributions.Normal:
        factor = gram_factor(x, (self.noise_std / self.weight_std) ** 2)
        weights = ridge_weights(factor, x, y, list(range(x.shape[1])))
        std = self.weight_std * factor.diagonal(dim1=-2, dim2=-1)
        return torch.distributions.Normal(
            (weights * x).sum(-1).to(x.dtype), std.to(x.dtype), validate_args=False
        )


def gram_factor(x: Float[Tensor, "B N d"], penalty: float) -> Float[Tensor, "B N N"]:
    """The Cholesky factor L of X Xᵀ + λI, in float64.

    Its leading blocks are the factors of the leading blocks, so it serves every prefix. The conditional
    variance of y_n given the targets before it, under y ~ N(0, X Xᵀ + λI), is L_nn².
    """
    x = x.double()
    noise = penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.linalg.cholesky(x @ x.mT + noise)


def ridge_weights(
    factor: Float[Tensor, "B N N"], x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: list[int]
) -> Float[Tensor, "B P d"]:
    """Ridge weights after each prefix.

    w_n = X_nᵀ (X_n X_nᵀ + λI)⁻¹ y_n = (L_n⁻¹ X_n)ᵀ (L_n⁻¹ y_n) = Σ_{j<n} z_j v_j, with V = L⁻¹ X and z = L⁻¹ y,
    whose first n rows need the first n pairs alone.
    """
    both = torch.linalg.solve_triangular(factor, torch.cat([x, y[..., None]], -1).double(), upper=False)
    return sums_before(both[..., :-1] * both[..., -1:], prefixes)
