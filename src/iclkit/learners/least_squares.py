"""Least squares at every prefix: the solution of smallest norm where the pairs do not determine one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.learners.prefixes import by_parts, moments, sums_before
from iclkit.learners.regression import LinearLearner

# A pivot this many times above the rounding of the data is far from a rank that is in doubt.
_MARGIN = 100.0
# The normal equations square the condition number: beyond its root here, float64 no longer gives 8 digits.
_SQUARED = 1e-5
# Numbers in one part of the batch of singular value decompositions.
_NUMBERS = 1 << 22


@dataclass(frozen=True)
class LeastSquares(LinearLearner):
    """The minimiser of Σ (wᵀx_i − y_i)² over the context; where there are many, the one of smallest norm.

    Rank is decided as by `numpy.linalg.lstsq`: singular values below eps max(n, d) times the largest count as
    0, with the eps of the data's own type. The arithmetic is in float64, for the square systems at n = d have
    condition numbers beyond what float32 can bear.

    Source: Garg et al. (2022), section 3; error 1 − n/d (times ‖w‖²) for n < d and x ~ N(0, I), noiseless.
    """

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        eps, dim = torch.finfo(x.dtype).eps, x.shape[-1]
        wide, high = x[:, : max(prefixes)].double(), y[:, : max(prefixes)].double()
        few = [place for place, n in enumerate(prefixes) if n <= dim]
        many = [place for place, n in enumerate(prefixes) if n > dim]
        weights = wide.new_empty(len(x), len(prefixes), dim)
        sound = torch.empty(weights.shape[:2], dtype=torch.bool, device=x.device)
        for places, solve in ((few, _up_to_dim), (many, _beyond_dim)):
            if places:
                weights[:, places], sound[:, places] = solve(wide, high, [prefixes[i] for i in places], eps)
        if not sound.all():
            weights[~sound] = _by_singular_values(wide, high, ~sound, prefixes, eps)
        return weights.to(x.dtype)


def _up_to_dim(
    x: Tensor, y: Tensor, prefixes: list[int], eps: float
) -> tuple[Float[Tensor, "B P d"], Bool[Tensor, "B P"]]:
    """Minimum-norm solutions for n ≤ d, all from one QR decomposition, and which of them can be trusted.

    With Xᵀ = Q R the first n columns have the factors Q_n and R_n, so w_n = Q_n R_n⁻ᵀ y_<n = Σ_{j<n} z_j q_j
    for the one z that solves Rᵀ z = y.
    """
    dim = x.shape[-1]
    first = x[:, :dim]
    q, r = torch.linalg.qr(first.mT)
    z = torch.linalg.solve_triangular(r.mT, y[:, :dim, None], upper=False)[..., 0]
    # |R_jj| is the distance of x_j from the span of the points before it.
    norms = first.norm(dim=-1)
    pivot = r.diagonal(dim1=-2, dim2=-1).abs().cummin(-1).values
    sound = pivot > _MARGIN * eps * dim * norms.cummax(-1).values
    sound = torch.cat([sound.new_ones(len(x), 1), sound], 1)[:, prefixes]
    return sums_before(z[..., None] * q.mT, prefixes), sound


def _beyond_dim(
    x: Tensor, y: Tensor, prefixes: list[int], eps: float
) -> tuple[Float[Tensor, "B P d"], Bool[Tensor, "B P"]]:
    """Solutions for n > d by the normal equations with one step of refinement, and which can be trusted."""
    inside = torch.arange(x.shape[1], device=x.device) < torch.tensor(prefixes, device=x.device)[:, None]
    dim = x.shape[-1]

    def solve(x: Tensor, y: Tensor) -> Tensor:
        gram, target = moments(x, y, prefixes)
        factor, info = torch.linalg.cholesky_ex(gram)
        weights = torch.cholesky_solve(target[..., None], factor)
        # What the residuals still correlate with x repairs most of what squaring the condition number lost.
        rest = torch.where(inside, y[:, None] - (x[:, None] @ weights)[..., 0], 0.0)
        weights = weights + torch.cholesky_solve((rest @ x)[..., None], factor)
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        smallest = pivots.amin(-1) / pivots.amax(-1)
        smallest = torch.where(info == 0, smallest, 0.0)
        return torch.cat([weights[..., 0], smallest[..., None]], -1)

    found = by_parts(solve, x, y, x.shape[1] * dim * dim)
    lengths = torch.tensor(prefixes, device=x.device)
    return found[..., :-1], found[..., -1] > (_MARGIN * eps * lengths).clamp(min=_SQUARED)


def _by_singular_values(
    x: Tensor, y: Tensor, chosen: Bool[Tensor, "B P"], prefixes: list[int], eps: float
) -> Float[Tensor, "F d"]:
    """Minimum-norm solutions of the chosen prefixes alone, whatever the rank; rows of zeros change none."""
    episodes, places = chosen.nonzero(as_tuple=True)
    lengths = torch.tensor(prefixes, device=x.device)[places]
    rows = max(1, _NUMBERS // (x.shape[1] * x.shape[2]))
    answers = []
    for episode, length in zip(episodes.split(rows), lengths.split(rows), strict=True):
        inside = torch.arange(x.shape[1], device=x.device) < length[:, None]
        inputs = torch.where(inside[..., None], x[episode], 0.0)
        inverse = torch.linalg.pinv(inputs, rtol=eps * length.clamp(min=x.shape[2]).to(x.dtype))
        answers.append((inverse @ torch.where(inside, y[episode], 0.0)[..., None])[..., 0])
    return torch.cat(answers)
