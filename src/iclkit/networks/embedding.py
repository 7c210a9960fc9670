"""Points to tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PointEmbedding(nn.Module):
    """A linear map of a point, with random Fourier features beside its coordinates if asked for.

    With features, the inner product of two embedded points can be any smooth function of their difference, so
    that attention by proximity is linear in the token; without them a network spends layers to learn it.

    Args:
        dim: Dimension of a point.
        width: Width of a token.
        scale: Typical magnitude of a coordinate; points are divided by it.
        features: Number of Fourier frequencies; 0 for the plain linear map.
        wavelengths: Shortest and longest wavelength, in the points' own units; log-uniform between.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        scale: float,
        features: int = 0,
        wavelengths: tuple[float, float] = (1.0, 40.0),
    ) -> None:
        super().__init__()
        self.scale = scale
        self.features = features
        if features:
            shortest, longest = wavelengths
            fraction = (torch.arange(features) + 0.5) / features
            magnitude = 2 * math.pi / (shortest * (longest / shortest) ** fraction)
            direction = torch.randn(features, dim)
            direction = direction / direction.norm(dim=-1, keepdim=True)
            self.frequencies = nn.Parameter(direction * magnitude[:, None])
        self.linear = nn.Linear(dim + 2 * features, width)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch W"]:
        inputs = x / self.scale
        if self.features:
            phase = x @ self.frequencies.mT
            inputs = torch.cat([inputs, phase.sin(), phase.cos()], -1)
        return self.linear(inputs)

    def pull_back(
        self, x: Float[Tensor, "*batch d"], grad: Float[Tensor, "*batch W"]
    ) -> Float[Tensor, "*batch d"]:
        """The gradient with respect to points, given that with respect to their tokens."""
        inputs = grad @ self.linear.weight
        plain = inputs[..., : x.shape[-1]] / self.scale
        if not self.features:
            return plain
        phase = x @ self.frequencies.mT
        sine, cosine = inputs[..., x.shape[-1] :].split(self.features, -1)
        return plain + (sine * phase.cos() - cosine * phase.sin()) @ self.frequencies
