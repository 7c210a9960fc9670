"""Angles between vectors, of any length."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cosine(a: Float[Tensor, "*#shape d"], b: Float[Tensor, "*#shape d"]) -> Float[Tensor, "*shape"]:
    """Cosine of the angle between vectors; 0 where one of them is zero."""
    return (normalised(a) * normalised(b)).sum(-1)


def normalised(x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """Vectors of length one in the same directions; zero stays zero."""
    # By the largest entry first: squares of what is small would be 0.
    x = x / x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
