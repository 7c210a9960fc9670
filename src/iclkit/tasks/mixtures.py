"""Batches of Gaussian mixtures: the law of every episode of the mixture tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.tasks.small_matrices import invert_lower, triangularise

CHUNK = 2**19  # densities evaluated at once: 2 MB in float32


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

    def log_prob(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        """Log density, in nats, of points under the mixture of their own episode."""
        batch, *points, dim = x.shape
        flat = x.reshape(batch, -1, dim).mT
        # W = L^-1 turns the quadratic form into a plain square, |W (x - m)|², here one row of W at a time.
        whiten = invert_lower(self.scale_tril)
        centre = (whiten * self.means[:, :, None]).sum(-1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.log_weights - log_det - 0.5 * dim * math.log(2 * math.pi)
        # A slice of the batch at a time, so that the passes over it stay in cache.
        rows = max(1, CHUNK // max(1, constant.shape[1] * flat.shape[-1]))
        scored = []
        for i in range(0, batch, rows):
            part = slice(i, i + rows)
            squares = [
                torch.baddbmm(-centre[part, :, a, None], whiten[part, :, a], flat[part]).square()
                for a in range(dim)
            ]
            scored.append(torch.logsumexp(constant[part, :, None] - 0.5 * sum(squares), 1))
        return torch.cat(scored).reshape(batch, *points) if scored else x.new_zeros(x.shape[:-1])

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

    def take(self, index: Int[Tensor, "*chosen"]) -> Mixtures:
        """The mixtures at `index`, as a batch."""
        index = index.flatten()
        return Mixtures(self.log_weights[index], self.means[index], self.scale_tril[index])

    def to(self, like: Tensor) -> Mixtures:
        """The same mixtures in another tensor's dtype and on its device."""
        return Mixtures(self.log_weights.to(like), self.means.to(like), self.scale_tril.to(like))

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
        # A general matrix leaves the factor non-triangular.
        return Mixtures(self.log_weights, means, triangularise(factor))
