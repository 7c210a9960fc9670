"""A density that covers what a learner may believe after a context, where its reference draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.learners.standardise import Whitening

KERNELS = (0.05, 0.1, 0.2)  # widths of the kernels, as shares of the broad Gaussian's


@dataclass(frozen=True)
class Cover:
    """Half a broad Gaussian, half Gaussian kernels of several widths around the context's points.

    A model that is not perfect is mostly too wide where the reference is narrow. The broad part alone would
    hardly draw anything there.

    Args:
        whitening: Units of each prefix.
        std: Standard deviation of the broad Gaussian, in those units.
        context: The episodes.
        prefixes: How many of the points belong to each context.
    """

    whitening: Whitening
    std: float
    context: Float[Tensor, "B N d"]
    prefixes: Int[Tensor, " P"]

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        """Independent draws for every prefix."""
        batch, points, dim = self.context.shape
        shape = (batch, len(self.prefixes), count)
        options = {"generator": generator, "dtype": self.context.dtype}
        length = self.prefixes[:, None]
        broad = (torch.rand(shape, **options) < 0.5) | (length == 0)
        neighbour = (torch.rand(shape, **options) * length).long().clamp_max(max(points - 1, 0))
        width = torch.tensor(KERNELS).to(self.context)[torch.randint(len(KERNELS), shape, generator=generator)]
        noise = self.std * torch.randn(*shape, dim, **options)
        far = self.whitening.inverse(noise)
        if not points:
            return far
        centre = self.context[torch.arange(batch)[:, None, None], neighbour]
        near = centre + (width[..., None] * noise) @ self.whitening.matrix.mT
        return torch.where(broad[..., None], far, near)

    def log_prob(self, points: Float[Tensor, "B P K d"]) -> Float[Tensor, "B P K"]:
        """Log density, in nats and the data's units."""
        dim = points.shape[-1]
        z = self.whitening.forward(points)
        broad = -0.5 * z.square().sum(-1) / self.std**2
        if self.context.shape[1]:
            around = self.whitening.forward(self.context[:, None].expand(-1, len(self.prefixes), -1, -1))
            # Differences coordinate by coordinate: no tensor [B, P, K, N, d].
            distance = z.new_zeros(())
            for i in range(dim):
                distance = distance + (z[..., i, None] - around[..., None, :, i]).square()
            hidden = self.prefixes[:, None, None] <= torch.arange(self.context.shape[1])
            kernels = torch.stack(
                [
                    torch.logsumexp((-0.5 / (h * self.std) ** 2 * distance).masked_fill(hidden, -math.inf), -1)
                    - dim * math.log(h)
                    for h in KERNELS
                ]
            ).logsumexp(0)
            kernels = kernels - (self.prefixes.clamp_min(1).log() + math.log(len(KERNELS)))[:, None]
            mixed = torch.logaddexp(broad, kernels) - math.log(2)
            broad = torch.where((self.prefixes == 0)[:, None], broad, mixed)
        log_det = self.whitening.log_det + dim * math.log(self.std) + 0.5 * dim * math.log(2 * math.pi)
        return broad - log_det[..., None]
