"""Batches of Gaussian mixtures: the law of every episode of the mixture tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Mixtures:
    """One Gaussian mixture per episode.

    Args:
        log_weights: Log mixture weights, `-inf` for an absent component.
        means: Component means.
        scale_tril: Lower Cholesky factors of the component covariances.
    """

    log_weights: Float[Tensor, "B k"]
    means: Float[Tensor, "B k d"]
    scale_tril: Float[Tensor, "B k d d"]

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    def log_prob(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, "B *points"]:
        """Log density, in nats, of points under the mixture of their own episode."""
        batch, *points, dim = x.shape
        flat = x.reshape(batch, -1, 1, dim) - self.means[:, None]
        # W = L^-1 turns the quadratic form into a plain square: |W (x - m)|^2.
        identity = torch.eye(dim, dtype=x.dtype, device=x.device).expand_as(self.scale_tril)
        whiten = torch.linalg.solve_triangular(self.scale_tril, identity, upper=False)
        quadratic = torch.einsum("bkij,bpkj->bpki", whiten, flat).square().sum(-1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.log_weights - log_det - 0.5 * dim * math.log(2 * math.pi)
        return torch.logsumexp(constant[:, None] - 0.5 * quadratic, -1).reshape(batch, *points)

    def sample(self, points: int, generator: torch.Generator | None = None) -> Float[Tensor, "B N d"]:
        """Independent draws, `points` for each episode."""
        weights = self.log_weights.exp()
        component = torch.multinomial(weights, points, replacement=True, generator=generator)
        noise = torch.randn(
            *component.shape, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        episode = torch.arange(len(weights), device=component.device)[:, None]
        return self.means[episode, component] + torch.einsum(
            "bnij,bnj->bni", self.scale_tril[episode, component], noise
        )

    def moments(self) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d d"]]:
        """Mean and covariance of each mixture."""
        weights = self.log_weights.exp()
        mean = torch.einsum("bk,bkd->bd", weights, self.means)
        centred = self.means - mean[:, None]
        within = torch.einsum("bk,bkij,bklj->bil", weights, self.scale_tril, self.scale_tril)
        return mean, within + torch.einsum("bk,bki,bkj->bij", weights, centred, centred)

    def affine(self, matrix: Float[Tensor, "B d d"], shift: Float[Tensor, "B d"]) -> Mixtures:
        """The law of `matrix @ x + shift`."""
        means = torch.einsum("bij,bkj->bki", matrix, self.means) + shift[:, None]
        factor = matrix[:, None] @ self.scale_tril
        # A general matrix leaves the factor non-triangular; LQ restores it: F = L Q gives F F' = L L'.
        upper = torch.linalg.qr(factor.mT, mode="r").R
        sign = upper.diagonal(dim1=-2, dim2=-1).sign()
        return Mixtures(self.log_weights, means, (upper * sign[..., None]).mT.contiguous())
