"""What training one layer of linear attention converges to, as weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.compiler.linear_attention import attention_layer, check_sizes, diagonal
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor


def trained_limit(gamma: Float[Tensor, "d d"], points: int, *, merged: bool = True) -> InContextRegressor:
    """What training one layer of linear attention from a small balanced start converges to.

    The prediction is xᵀ Γ⁻¹ (1/n) Σ y_i x_i: a step of gradient descent whose rate is the matrix Γ⁻¹.

    Args:
        gamma: Γ; `limit_gamma` for normal inputs, I/η* for independent coordinates whose best rate is η*.
        points: Longest context.
        merged: As in `gradient_descent`; merged it has the shape of the recipe `lsa`.

    Raises:
        UserError: A Γ that is not symmetric and positive definite, or points below one.

    Source: Zhang, Frei and Bartlett (2023), theorem 4.1.
    """
    return attention_layer(*limit_matrices(gamma), points, merged=merged)


def limit_matrices(gamma: Float[Tensor, "d d"]) -> tuple[Float[Tensor, "W W"], Float[Tensor, "W W"]]:
    """W_KQ = tr(Γ⁻²)^(-1/4) diag(Γ⁻¹, 0) and W_PV = tr(Γ⁻²)^(1/4) diag(0, 1), of one norm.

    Args:
        gamma: Γ.

    Raises:
        UserError: A Γ that is not symmetric and positive definite.

    Source: Zhang, Frei and Bartlett (2023), theorem 4.1.
    """
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    if gamma.ndim != 2 or gamma.shape[0] != gamma.shape[1] or not torch.allclose(gamma, gamma.mT):
        raise UserError(f"gamma must be a symmetric matrix [d, d], given one of shape {list(gamma.shape)}")
    factor, info = torch.linalg.cholesky_ex(gamma)
    if int(info):
        raise UserError("gamma must be positive definite; some combination of inputs has no variance")
    inverse = torch.cholesky_inverse(factor)
    balance = float(inverse.norm()) ** 0.5  # ‖Γ⁻¹‖² = tr(Γ⁻²)
    dim = len(gamma)
    key_query, value_out = diagonal(dim, 0.0, 0.0), diagonal(dim, 0.0, balance)
    key_query[:dim, :dim] = inverse / balance
    return key_query, value_out


def limit_gamma(covariance: Float[Tensor, "d d"], points: int) -> Float[Tensor, "d d"]:
    """Γ = (1 + 1/N) Σ + (tr Σ / N) I, for inputs N(0, Σ) and contexts of N pairs.

    Args:
        covariance: Σ.
        points: Pairs in the contexts that are trained on (N).

    Raises:
        UserError: Points below one, or a Σ that is no square matrix.

    Source: Zhang, Frei and Bartlett (2023), equation 4.1.
    """
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise UserError(f"covariance must be a matrix [d, d], given one of shape {list(covariance.shape)}")
    check_sizes(len(covariance), points)
    own = torch.eye(len(covariance), dtype=torch.float64)
    return (1 + 1 / points) * covariance + covariance.trace() / points * own
