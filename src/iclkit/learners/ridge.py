"""Ridge regression and its Bayesian reading, at every prefix from one triangular factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.prefixes import sums_before
from iclkit.learners.regression import LinearLearner, ProbabilisticLearner

# Penalties below this part of the largest ‖x‖² would lose digits in a product X Xᵀ (some 1e-10 are lost here).
_SMALL = 1e-6


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
        return weights_from(*factor(x[:, :seen], self.penalty), y[:, :seen], prefixes).to(x.dtype)


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
        lower, features = factor(x, (self.noise_std / self.weight_std) ** 2)
        weights = weights_from(lower, features, y, list(range(x.shape[1])))
        std = self.weight_std * lower.diagonal(dim1=-2, dim2=-1).abs()
        return torch.distributions.Normal(
            (weights * x).sum(-1).to(x.dtype), std.to(x.dtype), validate_args=False
        )


def factor(x: Float[Tensor, "B N d"], penalty: float) -> tuple[Float[Tensor, "B N N"], Float[Tensor, "B N d"]]:
    """The factor L of X Xᵀ + λI = L Lᵀ and V = L⁻¹ X, in float64.

    Row n of both needs the first n points alone, and the leading blocks of L are the factors of the leading
    blocks: so one factor serves every prefix. Under y ~ N(0, X Xᵀ + λI) the variance of y_n given the targets
    before it is L_nn².
    """
    x = x.double()
    noise = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    if x.numel() == 0 or penalty > _SMALL * x.square().sum(-1).max():
        lower = torch.linalg.cholesky(x @ x.mT + penalty * noise)
        return lower, torch.linalg.solve_triangular(lower, x, upper=False)
    # A product X Xᵀ would lose a small penalty. With [Xᵀ; √λ I] = Q R it is RᵀR that is X Xᵀ + λI, and the
    # upper part of Q is Xᵀ R⁻¹: exact to rounding for every λ, in some five times the time.
    q, r = torch.linalg.qr(torch.cat([x.mT, penalty**0.5 * noise.expand(len(x), -1, -1)], 1))
    return r.mT, q[:, : x.shape[-1]].mT


def weights_from(
    lower: Float[Tensor, "B N N"],
    features: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
    prefixes: list[int],
) -> Float[Tensor, "B P d"]:
    """Ridge weights after each prefix, from L and V.

    w_n = X_nᵀ (X_n X_nᵀ + λI)⁻¹ y_n = (L_n⁻¹ X_n)ᵀ (L_n⁻¹ y_n) = Σ_{j<n} z_j v_j, with z = L⁻¹ y.
    """
    z = torch.linalg.solve_triangular(lower, y[..., None].double(), upper=False)
    return sums_before(z * features, prefixes)
