"""The density head of an in-context regressor: a Gaussian mixture for every target."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from iclkit.networks import finite, power_of_two

# Standard deviations never fall below it (network's units): the density of a noiseless target stays finite.
MIN_STD = 1e-3
# Halvings of a bracket: a quantile is then exact but for rounding.
_HALVINGS = 60


class GaussianMixture(MixtureSameFamily):
    """A mixture of Gaussians whose moments, densities and quantiles hold in units of any size.

    `MixtureSameFamily` squares standard deviations, which underflows for targets of 1e-160, and has no
    quantiles. Made by `mixture_of`.
    """

    @property
    def stddev(self) -> Tensor:
        means, stds = self.component_distribution.mean, self.component_distribution.stddev
        distances = finite(means - self.mean[..., None])
        # Squares are taken in units that are powers of two.
        unit = power_of_two(torch.maximum(stds, distances.abs()).amax(-1))
        squares = (stds / unit[..., None]).square() + (distances / unit[..., None]).square()
        return unit * (self.mixture_distribution.probs * squares).sum(-1).sqrt()

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def log_prob(self, x: Tensor) -> Tensor:
        normals = self.component_distribution
        z = (x[..., None] - normals.mean) / normals.stddev
        log_densities = -0.5 * z.square() - normals.stddev.log() - 0.5 * math.log(2 * math.pi)
        return (torch.log_softmax(self.mixture_distribution.logits, -1) + log_densities).logsumexp(-1)

    def icdf(self, value: Float[Tensor, " levels"]) -> Float[Tensor, "levels ..."]:
        """Quantiles: the values that a draw stays below with each of the given probabilities.

        They are found by bisection on the logarithm of the tail's probability, so that levels of 1e-300 are
        as exact as 0.5; a level above one half is a lower tail of the negative.

        Args:
            value: Probabilities, in (0, 1).
        """
        level = value.to(self.component_distribution.mean).view(-1, *[1] * len(self.batch_shape))
        upper = level > 0.5
        tail, sign = torch.where(upper, 1 - level, level), torch.where(upper, -1.0, 1.0).to(level)
        means, stds = sign[..., None] * self.component_distribution.mean, self.component_distribution.stddev
        log_weights = torch.log_softmax(self.mixture_distribution.logits, -1)
        # The mixture's quantile lies between the smallest and the largest of its components'.
        parts = means + stds * torch.special.ndtri(tail)[..., None]
        low, high = parts.amin(-1), parts.amax(-1)
        for _ in range(_HALVINGS):
            middle = 0.5 * low + 0.5 * high
            cumulative = (log_weights + torch.special.log_ndtr((middle[..., None] - means) / stds)).logsumexp(
                -1
            )
            below = cumulative < tail.log()
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return sign * (0.5 * low + 0.5 * high)


def mixture_of(
    logits: Float[Tensor, "*batch k"], means: Float[Tensor, "*batch k"], stds: Float[Tensor, "*batch k"]
) -> GaussianMixture:
    """The mixture of k Gaussians with these parameters; they are not checked."""
    parts = Categorical(logits=logits, validate_args=False), Normal(means, stds, validate_args=False)
    return GaussianMixture(*parts, validate_args=False)


def gaussian_mixture(
    outputs: Float[Tensor, "*batch outputs"],
    shift: Float[Tensor, "*batch"] | None = None,
    scale: Float[Tensor, "*batch"] | None = None,
) -> GaussianMixture:
    """The mixture that a network's outputs describe, for targets y = shift + scale z where it predicts z.

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
    return mixture_of(logits, means, stds)
