"""Whitening by a context's own shrunken moments: how data reach a network trained on standard units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from iclkit.errors import UserError
from iclkit.networks import finite, power_of_two, shrinking

# Points beyond which the widening, and the belief in uncorrelated columns, fade.
_FEW, _SEVERAL = 8.0, 16.0
# Smallest eigenvalues of the correlations below which it fades faster, and the least that then is left of it.
_CORRELATED, _LEAST = 0.04, 1e-3
_SOLVABLE = 2.0**500  # what a triangular substitution takes without overflow


@dataclass(frozen=True)
class Whitening:
    """The affine map z = matrix⁻¹ (x - mean), one for each context of a batch.

    Args:
        mean: Sample means.
        matrix: Lower Cholesky factors of the shrunken covariances; both units and correlations are removed.
    """

    mean: Float[Tensor, "*batch d"]
    matrix: Float[Tensor, "*batch d d"]

    @staticmethod
    def fit(context: Float[Tensor, "*batch n d"], constant: Literal["refuse", "keep"] = "refuse") -> Whitening:
        """Fit to whole contexts.

        The covariance is w ((n - 1) S + k diag S) / (n - 1 + k), with S the unbiased sample covariance.

        k is one point's worth of belief in uncorrelated columns up to 16 points: two points in many dimensions
        whiten already, and few points predict better. Only this belief knows which directions the columns
        are, so with it turned data do not become turned points. So it fades, as (16 / n)³ and, from 24 points
        on, also in proportion to the smallest eigenvalue of the correlations where that is below 0.04.

        w = 1 + (d + 2) / n min(1, 8 / n), for S is by chance too small in some direction: of normal data
        E S⁻¹ = (n - 1) / (n - d - 2) Σ⁻¹, which w is near to and finite for all n. d counts the columns that
        vary. Fewer than two points know no units and are taken as they are.

        Args:
            context: Points; n may be 0.
            constant: What to do with a column that does not vary: "refuse", or "keep" its units.

        Raises:
            UserError: A constant column, if refused.
        """
        mask = torch.ones(1, context.shape[-2], dtype=context.dtype, device=context.device)
        whitening = _fit(context, mask, constant)
        return Whitening(whitening.mean.squeeze(-2), whitening.matrix.squeeze(-3))

    @staticmethod
    def fit_prefixes(
        x: Float[Tensor, "*batch N d"], prefixes: Sequence[int], constant: Literal["refuse", "keep"] = "keep"
    ) -> Whitening:
        """Fit to prefixes of episodes: the batch shape of the result is [*batch, P]. Arguments as in `fit`."""
        lengths = torch.tensor(list(prefixes), device=x.device)
        mask = (torch.arange(x.shape[-2], device=x.device) < lengths[:, None]).to(x.dtype)
        return _fit(x, mask, constant)

    def forward(self, x: Float[Tensor, "*batch M d"]) -> Float[Tensor, "*batch M d"]:
        """Points in the data's units to standard units."""
        # Each column in its own standard deviations first. What then is too far out for the substitution is
        # solved at a distance and scaled back: it may become infinite, never NaN.
        std = self.matrix.diagonal(dim1=-2, dim2=-1)
        offset = finite((x - self.mean[..., None, :]) / std[..., None, :])
        factor = shrinking(offset, _SOLVABLE)
        lower = self.matrix / std[..., None]
        return torch.linalg.solve_triangular(lower, (offset * factor).mT, upper=False).mT / factor

    def inverse(self, z: Float[Tensor, "*batch M d"]) -> Float[Tensor, "*batch M d"]:
        """Points in standard units to the data's units."""
        return z @ self.matrix.mT + self.mean[..., None, :]

    @property
    def log_det(self) -> Float[Tensor, "*batch"]:
        """log |det matrix|: log p(x) = log p(z) - log_det."""
        return self.matrix.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _fit(x: Float[Tensor, "*batch N d"], mask: Float[Tensor, "P N"], constant: str) -> Whitening:
    """Moments of the points that each row of the mask selects."""
    dim = x.shape[-1]
    count = mask.sum(-1)[:, None]
    # In units that are powers of two, first of the points, then of their distances from the mean: squares
    # neither overflow nor underflow, and nothing is rounded.
    chosen = torch.where(mask[..., None] > 0, x[..., None, :, :], 0)
    unit = _column_units(chosen)
    mean = (chosen / unit).sum(-2, keepdim=True) / count[..., None].clamp_min(1)
    # Two passes, not sums of squares: a large mean would cancel all digits of a small variance.
    centred = (chosen / unit - mean) * mask[..., None]
    spread = _column_units(centred)
    centred = centred / spread
    scatter = centred.mT @ centred
    variance = scatter.diagonal(dim1=-2, dim2=-1) / (count - 1).clamp_min(1)

    # Judged by the values themselves: rounding of the mean leaves a constant column some variance.
    moved = (x != x[..., :1, :])[..., None, :, :] & (mask[..., None] > 0)
    varies = moved.any(-2) & (variance > 0)
    if constant == "refuse" and bool((~varies & (count > 1)).any()):
        column = int((~varies & (count > 1)).flatten(0, -2).any(0).nonzero()[0])
        raise UserError(f"column {column + 1} is constant in the context, so its units are unknown; drop it")

    # S = scatter / (n - 1), so ((n - 1) S + k diag S) / (n - 1 + k) is scatter / (n - 1 + k) off the diagonal
    # and the variance on it.
    kept = torch.where(varies, variance, 1)
    both = varies[..., :, None] & varies[..., None, :]
    off_diagonal = torch.where(both & ~torch.eye(dim, dtype=torch.bool, device=x.device), scatter, 0)
    size = count.clamp_min(1)
    belief = _belief(off_diagonal, kept, size)
    widened = 1 + (varies.sum(-1, keepdim=True) + 2) / size * (_FEW / size).clamp_max(1)
    covariance = off_diagonal / (size - 1 + belief)[..., None] + torch.diag_embed(kept)
    covariance = torch.where(both, widened[..., None], 1) * covariance
    factor = torch.linalg.cholesky(covariance)
    # Back in the data's units, small factors first: a standard deviation is finite where the data are.
    unit, spread = unit.squeeze(-2), spread.squeeze(-2)
    unit_of_matrix, spread = torch.where(varies, unit, 1), torch.where(varies, spread, 1)
    matrix = unit_of_matrix[..., None] * (spread[..., None] * factor)
    mean = torch.where(count > 1, unit * mean.squeeze(-2), 0)
    return Whitening(mean, matrix)


def _belief(
    off_diagonal: Float[Tensor, "*batch P d d"],
    variance: Float[Tensor, "*batch P d"],
    size: Float[Tensor, "P 1"],
) -> Float[Tensor, "*batch P 1"]:
    """How many points the belief in uncorrelated columns is worth."""
    std = variance.sqrt()
    correlation = off_diagonal / (size - 1).clamp_min(1)[..., None] / std[..., :, None] / std[..., None, :]
    smallest = torch.linalg.eigvalsh(correlation)[..., :1] + 1  # of what has ones on its diagonal
    # Never nothing, for columns may be the same.
    share = (smallest / _CORRELATED).clamp(_LEAST, 1)
    return (_SEVERAL / size).pow(3).clamp_max(1) * share ** ((size - _SEVERAL) / _FEW).clamp(0, 1)


def _column_units(x: Float[Tensor, "*batch N d"]) -> Float[Tensor, "*batch 1 d"]:
    """For each column the power of two next to its largest magnitude; 1 where there are no rows."""
    return power_of_two(F.pad(x.abs(), (0, 0, 0, 1)).amax(-2, keepdim=True))
