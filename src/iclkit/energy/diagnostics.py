"""How good a set of Markov chains is: effective sample size and split R-hat, for many contexts at once.

Both split every chain in two halves, so that a drift within a chain counts as a disagreement between chains,
and both replace the draws by the normal scores of their pooled ranks, so that they mean something for heavy
tails too.

Shape letters: B contexts (any leading axes), T kept draws of a chain, C chains, d coordinates.
Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat"; the truncation of the autocorrelation sum is Geyer's (1992) initial monotone
sequence.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def split_rhat(draws: Float[Tensor, "*B T C d"], rank: bool = True) -> Float[Tensor, "*B d"]:
    """Split R-hat: how much wider the chains are together than each is alone. Near 1 when they agree.

    Args:
        draws: The kept states of the chains.
        rank: Rank-normalise, and return the worse of the plain and the folded statistic (the folded one notices
            chains that agree in location and differ in spread). False for the classical statistic.

    Returns:
        One value per context and coordinate; NaN where chains are shorter than four draws or never moved.
    """
    chains = _split(draws)
    if chains.shape[-1] < 2:
        return torch.full_like(draws[..., 0, 0, :], math.nan)
    if not rank:
        return _rhat(chains).to(draws.dtype)
    median = chains.flatten(-2).median(-1).values[..., None, None]
    folded = _rhat(_normal_scores((chains - median).abs()))
    return torch.maximum(_rhat(_normal_scores(chains)), folded).to(draws.dtype)


def effective_sample_size(draws: Float[Tensor, "*B T C d"], rank: bool = True) -> Float[Tensor, "*B d"]:
    """Bulk effective sample size: how many independent draws would know the mean as well.

    Args:
        draws: The kept states of the chains.
        rank: Rank-normalise first ("bulk" size); False for the size of the plain mean.

    Returns:
        One value per context and coordinate, at most T C log10(T C) (chains may be antithetic); NaN where
        chains are shorter than four draws or never moved.
    """
    chains = _split(draws)
    count, length = chains.shape[-2:]
    if length < 2:
        return torch.full_like(draws[..., 0, 0, :], math.nan)
    if rank:
        chains = _normal_scores(chains)
    covariance = _autocovariance(chains).mean(-2)  # [*B d T], of lag 0, 1, ...; each divided by T
    within = covariance[..., 0] * length / (length - 1)
    between = chains.mean(-1).var(-1) if count > 1 else torch.zeros_like(within)
    total = within * (length - 1) / length + between
    correlation = 1 - (within[..., None] - covariance * length / (length - 1)) / total[..., None]
    correlation = torch.cat([torch.ones_like(correlation[..., :1]), correlation[..., 1:]], -1)
    # Sums of neighbouring pairs of a reversible chain's autocorrelations are positive and decreasing: stop at
    # the first that is not positive, and let none exceed those before it.
    pairs = correlation[..., : length // 2 * 2].unflatten(-1, (-1, 2)).sum(-1)
    positive = (pairs > 0).to(pairs.dtype).cumprod(-1)
    monotone = (pairs * positive).cummin(-1).values
    time = -1 + 2 * monotone.sum(-1)
    draws_in_all = count * length
    size = draws_in_all / time.clamp_min(1 / math.log10(draws_in_all))
    return torch.where(total > 0, size, math.nan).to(draws.dtype)


def _split(draws: Float[Tensor, "*B T C d"]) -> Float[Tensor, "*B d chains half"]:
    """Halves of the chains as chains of their own (the middle draw of an odd length is dropped), in float64."""
    half = draws.shape[-3] // 2
    first, second = draws[..., :half, :, :], draws[..., draws.shape[-3] - half :, :, :]
    return torch.cat([first, second], -2).movedim(-3, -1).transpose(-3, -2).double()


def _normal_scores(chains: Float[Tensor, "*B d chains half"]) -> Float[Tensor, "*B d chains half"]:
    """Normal quantiles of the pooled ranks; ties (refused moves repeat a draw) share their mean rank."""
    pooled = chains.flatten(-2).contiguous()
    ordered = pooled.sort(-1).values
    below = torch.searchsorted(ordered, pooled)
    through = torch.searchsorted(ordered, pooled, right=True)
    rank = (below + through + 1).double() / 2
    return torch.special.ndtri((rank - 0.375) / (pooled.shape[-1] + 0.25)).view_as(chains)


def _rhat(chains: Float[Tensor, "*B d chains half"]) -> Float[Tensor, "*B d"]:
    length = chains.shape[-1]
    within = chains.var(-1).mean(-1)
    between = chains.mean(-1).var(-1)
    ratio = ((length - 1) / length * within + between) / within
    return torch.where(within > 0, ratio.sqrt(), math.nan)


def _autocovariance(chains: Float[Tensor, "*X T"]) -> Float[Tensor, "*X T"]:
    """Biased autocovariances (divided by T) of every lag, through a zero-padded FFT."""
    length = chains.shape[-1]
    centred = chains - chains.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(centred, n=2 * length)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * length)[..., :length] / length
