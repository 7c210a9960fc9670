"""A mixture fitted to weighted particles by expectation maximisation, for many contexts at once.

Shape letters: B contexts, K components, P particles, d coordinates.
Source: Dempster, Laird and Rubin (1977); the covariances have a prior at those that the fit starts from (the
mode of an inverse-Wishart posterior), for few particles may belong to a component.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDS = 12
_SCATTERED = 8  # components that start at particles


def fit_mixture(
    points: Float[Tensor, "B P d"],
    weights: Float[Tensor, "B P"],
    centre: Float[Tensor, "B K d"],
    factor: Float[Tensor, "B K d d"],
    share: Float[Tensor, "B K"],
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B J d"], Float[Tensor, "B J d d"], Float[Tensor, "B J"]]:
    """Fit Gaussians to weighted particles.

    Args:
        points: The particles.
        weights: Their weights, summing to 1 for each context.
        centre: Centres of the components that the fit starts from; eight more start at particles.
        factor: Their square roots of covariances.
        share: Their shares; 0 for a component that the context does not have.
        generator: Source of randomness.

    Returns:
        Centres, square roots of covariances and shares of the components.
    """
    batch, _, dim = points.shape
    like = points
    # Shares and widths may differ by more than float32 tells apart.
    points, weights, centre, factor, share = (x.double() for x in (points, weights, centre, factor, share))
    effective = 1 / weights.square().sum(1)
    mean = (weights[..., None] * points).sum(1, keepdim=True)
    spread = ((weights[..., None] * (points - mean)).mT @ (points - mean))[:, None]
    index = torch.multinomial(weights.clamp_min(1e-30), _SCATTERED, generator=generator)
    scattered = points.gather(1, index[..., None].expand(-1, -1, dim))
    # About as wide as each would be if they shared the volume.
    part = spread * _SCATTERED ** (-2 / dim)
    eye = torch.eye(dim).to(points)
    tiny = 1e-12 * eye + 1e-8 * spread.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * eye
    prior = torch.cat([factor @ factor.mT, part.expand(-1, _SCATTERED, -1, -1)], 1)
    at = torch.cat([centre, scattered], 1)
    shares = torch.cat([share, share.new_full((batch, _SCATTERED), 0.5 / _SCATTERED)], 1)
    shares = shares / shares.sum(1, keepdim=True)
    covariance = prior
    for _ in range(_ROUNDS):
        root = torch.linalg.cholesky(covariance + tiny)
        z = torch.linalg.solve_triangular(root, (points[:, None] - at[:, :, None]).mT, upper=False)
        log_each = -0.5 * z.square().sum(2) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
        log_each = log_each + shares.log()[..., None]
        mine = log_each.softmax(1) * weights[:, None]  # [B, K, P]
        shares = mine.sum(2)
        safe = shares.clamp_min(1e-12)[..., None]
        at = torch.where(safe > 1e-9, (mine @ points) / safe, at)
        offset = points[:, None] - at[:, :, None]
        scatter = (mine[..., None] * offset).mT @ offset
        held = (dim + 2) / effective[:, None, None, None]
        covariance = (scatter + held * prior) / (safe[..., None] + held)
    return at.to(like), torch.linalg.cholesky(covariance + tiny).to(like), shares.to(like)
