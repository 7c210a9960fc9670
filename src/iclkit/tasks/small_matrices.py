"""Linear algebra of many tiny matrices: closed forms for d <= 2, for a LAPACK call per matrix is slow."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Matrices = Float[Tensor, "*batch d d"]


def _lower(first: Tensor, below: Tensor, last: Tensor) -> Matrices:
    """The matrices [[first, 0], [below, last]]."""
    return torch.stack((first, torch.zeros_like(first), below, last), -1).unflatten(-1, (2, 2))


def cholesky(covariance: Matrices) -> Matrices:
    """Lower Cholesky factors."""
    if covariance.shape[-1] > 2:
        return torch.linalg.cholesky(covariance)
    if covariance.shape[-1] == 1:
        return covariance.sqrt()
    first = covariance[..., 0, 0].sqrt()
    below = covariance[..., 1, 0] / first
    return _lower(first, below, (covariance[..., 1, 1] - below.square()).sqrt())


def triangularise(factor: Matrices) -> Matrices:
    """The lower triangular L of positive diagonal with L Lᵀ = F Fᵀ, of any square root F of a covariance."""
    if factor.shape[-1] == 1:
        return factor.abs()
    if factor.shape[-1] == 2:
        # |row 1|, row 2 along row 1, and the area over |row 1|: no difference of near-equal squares.
        first = torch.hypot(factor[..., 0, 0], factor[..., 0, 1])
        along = factor[..., 0, 0] * factor[..., 1, 0] + factor[..., 0, 1] * factor[..., 1, 1]
        area = factor[..., 0, 0] * factor[..., 1, 1] - factor[..., 0, 1] * factor[..., 1, 0]
        return _lower(first, along / first, area.abs() / first)
    # F = L Q with Q orthogonal is the transpose of the QR factorisation of Fᵀ.
    upper = torch.linalg.qr(factor.mT, mode="r").R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT.contiguous()


def invert_lower(factor: Matrices) -> Matrices:
    """Inverses of lower triangular matrices."""
    if factor.shape[-1] == 1:
        return factor.reciprocal()
    if factor.shape[-1] == 2:
        first, last = factor[..., 0, 0].reciprocal(), factor[..., 1, 1].reciprocal()
        return _lower(first, -factor[..., 1, 0] * first * last, last)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def orthogonal(matrix: Matrices) -> Matrices:
    """The Q of each matrix's QR factorisation, up to the signs of its columns; uniform for normal matrices."""
    if matrix.shape[-1] == 1:
        return torch.ones_like(matrix)
    if matrix.shape[-1] > 2:
        return torch.linalg.qr(matrix).Q
    length = torch.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
    cosine, sine = matrix[..., 0, 0] / length, matrix[..., 1, 0] / length
    return torch.stack((cosine, -sine, sine, cosine), -1).unflatten(-1, (2, 2))


def exp_symmetric(matrix: Matrices) -> Matrices:
    """Matrix exponentials of symmetric matrices."""
    if matrix.shape[-1] == 1:
        return matrix.exp()
    if matrix.shape[-1] != 2:
        return torch.linalg.matrix_exp(matrix)
    # A = m I + H with H² = r² I, so exp A = eᵐ (cosh r I + sinh(r)/r H).
    mean = 0.5 * (matrix[..., 0, 0] + matrix[..., 1, 1])
    half, off = 0.5 * (matrix[..., 0, 0] - matrix[..., 1, 1]), matrix[..., 1, 0]
    radius = torch.hypot(half, off).clamp_min(torch.finfo(matrix.dtype).tiny)
    scale, even, odd = mean.exp(), torch.cosh(radius), torch.sinh(radius) / radius
    cross = scale * odd * off
    rows = (scale * (even + odd * half), cross, cross, scale * (even - odd * half))
    return torch.stack(rows, -1).unflatten(-1, (2, 2))
