"""Numbers of any size: units that are powers of two, and points that lie too far out for a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Beyond it a LayerNorm in float32 sees the direction of a point alone, to the last bit; the squares of its
# coordinates, which the norm sums, are still far from the largest float32.
FARTHEST = 1e12


def power_of_two(magnitude: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The largest power of two that is not above a magnitude; 1 where the magnitude is 0.

    Dividing by it is exact, so the moments of divided data are those of the data, and their squares neither
    overflow nor underflow.

    Args:
        magnitude: Not negative, finite.
    """
    magnitude = magnitude.detach()
    mantissa, _ = torch.frexp(magnitude)  # in [1/2, 1)
    return torch.where(magnitude > 0, magnitude / (2 * mantissa), 1)


def finite(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Infinite numbers as the largest one of the type; NaN stays NaN."""
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


@torch.no_grad()
def shrinking(x: Float[Tensor, "*batch d"], farthest: float = FARTHEST) -> Float[Tensor, "*batch 1"]:
    """The factor, at most 1, that brings finite points within `farthest` of 0 in every coordinate."""
    return (farthest / x.abs().amax(-1, keepdim=True)).clamp_max(1)


def within_reach(x: Float[Tensor, "*batch d"], farthest: float = FARTHEST) -> Float[Tensor, "*batch d"]:
    """Points no farther out than `farthest` in any coordinate: those beyond are moved towards 0 on their ray.

    Points within reach come back bit for bit. No gradient flows through the distance that a point is moved.

    Args:
        x: Points; infinite coordinates are taken as the largest number of the type.
        farthest: Largest coordinate.
    """
    x = finite(x)
    return x * shrinking(x, farthest)
