"""Normalising an energy on the candidates that it is compared on: log Z by importance sampling, with its error.

The candidates come in two strata: draws from a reference density r (usually Bayes' predictive) and draws from
a density b that covers the model where the reference does not (`cover`). With the mixture of both as proposal,

    q = share r + (1 - share) b,    Z = E_q[exp(f) / q],

the weights are bounded by exp(f) / (share r): for a model near the reference they are nearly constant on the
one stratum and nearly zero on the other, and a few dozen candidates give log Z to a few hundredths of a nat.

Shape letters: B episodes, P prefixes, K candidates, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Candidates, stratified: the first `from_reference` of K come from the reference, the rest from elsewhere.

    Args:
        points: The candidates.
        log_reference: Log density of each under the reference.
        log_proposal: Log density of each under the mixture that all of them represent.
        from_reference: Size of the first stratum.
    """

    points: Float[Tensor, "B P K d"]
    log_reference: Float[Tensor, "B P K"]
    log_proposal: Float[Tensor, "B P K"]
    from_reference: int

    @staticmethod
    def mix(
        points: Float[Tensor, "B P K d"],
        log_reference: Float[Tensor, "B P K"],
        log_cover: Float[Tensor, "B P K"],
        from_reference: int,
    ) -> Candidates:
        """Candidates of both strata, given the log density of all under each stratum's law."""
        share = from_reference / points.shape[-2]
        if share == 1:
            return Candidates(points, log_reference, log_reference, from_reference)
        mixed = torch.logaddexp(log_reference + math.log(share), log_cover + math.log1p(-share))
        return Candidates(points, log_reference, mixed, from_reference)


@dataclass(frozen=True)
class LogZ:
    """Estimated log partition functions.

    Args:
        estimate: log Z, corrected for the bias that the logarithm of a noisy average has.
        error: Its standard error, in nats.
    """

    estimate: Float[Tensor, "B P"]
    error: Float[Tensor, "B P"]


def log_partition(log_density: Float[Tensor, "B P K"], candidates: Candidates) -> LogZ:
    """log Z of unnormalised log densities that were evaluated on candidates.

    The error comes from the spread within each stratum. To second order E[log Ẑ] = log Z - error² / 2, which is
    added back.
    """
    log_weights = (log_density - candidates.log_proposal).double()
    count = log_weights.shape[-1]
    log_mean = torch.logsumexp(log_weights, -1) - math.log(count)
    relative = (log_weights - log_mean[..., None]).exp()
    variance = torch.zeros_like(log_mean)
    for stratum in (relative[..., : candidates.from_reference], relative[..., candidates.from_reference :]):
        if stratum.shape[-1] > 1:
            variance = variance + stratum.var(-1) * stratum.shape[-1] / count**2
    return LogZ(log_mean + 0.5 * variance.clamp_max(1.0), variance.sqrt())


def model_weights(log_density: Float[Tensor, "B P K"], candidates: Candidates) -> Float[Tensor, "B P K"]:
    """Weights, summing to one, that make the candidates represent the model's own density."""
    return torch.softmax((log_density - candidates.log_proposal).double(), -1)
