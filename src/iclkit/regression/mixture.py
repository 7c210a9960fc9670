"""The density head of an in-context regressor: a Gaussian mixture for every target."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

# Standard deviations never fall below it (network's units): the density of a noiseless target stays finite.
MIN_STD = 1e-3


def gaussian_mixture(
    outputs: Float[Tensor, "*batch outputs"],
    shift: Float[Tensor, "*batch"] | None = None,
    scale: Float[Tensor, "*batch"] | None = None,
) -> MixtureSameFamily:
    """The mixture that a network's outputs describe, for targets y = shift + scale z where it spoke of z.

    Args:
        outputs: Logits, means and log standard deviations, one after the other; 3 for each component.
        shift: 0 if None.
        scale: 1 if None; the density of y has its Jacobian.
    """
    logits, means, log_stds = outputs.chunk(3, -1)
    # std² = e^(2 log std) + MIN_STD², in logarithms; smooth, so that a component can leave the floor again.
    stds = (0.5 * torch.logaddexp(2 * log_stds, torch.full_like(log_stds, 2 * math.log(MIN_STD)))).exp()
    if scale is not None:
        means, stds = scale[..., None] * means, scale[..., None] * stds
    if shift is not None:
        means = means + shift[..., None]
    # What a network says needs no checking, and checking costs more than the density.
    parts = Categorical(logits=logits, validate_args=False), Normal(means, stds, validate_args=False)
    return MixtureSameFamily(*parts, validate_args=False)
