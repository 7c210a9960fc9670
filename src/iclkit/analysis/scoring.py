"""What analyses ask of any learner: log densities, normalised or not, and a density that covers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.cover import Cover
from iclkit.learners import DensityLearner
from iclkit.learners.standardise import Whitening
from iclkit.learners.trained import EnergyDensity

LogDensity = Callable[[Float[Tensor, "B P K d"]], Float[Tensor, "B P K"]]


@dataclass(frozen=True)
class Scorer:
    """A learner's log densities under P prefixes of B episodes.

    Args:
        log_density: Scores candidates; up to a constant of each prefix unless `normalised`.
        normalised: Whether exp(log_density) integrates to one.
        cover: A density that covers exp(log_density); None where nothing needs to be integrated.
    """

    log_density: LogDensity
    normalised: bool
    cover: Cover | None = None


def scorer(learner: DensityLearner, x: Float[Tensor, "B N d"], prefixes: Sequence[int]) -> Scorer:
    """Prepare a learner to score candidates under prefixes of episodes.

    A trained energy is not normalised here: its quadrature costs thousands of evaluations per prefix, and the
    analyses normalise it on the candidates that they score anyway.
    """
    if not isinstance(learner, EnergyDensity):
        return Scorer(learner.predictives(x, prefixes).log_prob, True)
    predictive = learner.predictives(x, prefixes)
    if learner.standardise:
        whitening = Whitening.fit_prefixes(x, prefixes)
    else:
        shape = (len(x), len(prefixes), learner.dim)
        whitening = Whitening(x.new_zeros(shape), torch.eye(learner.dim).to(x).expand(*shape, -1))
    # 15/4: a quarter of the half-width of the box in which the published chains start.
    std = learner.network.base_std or 15 / 4
    cover = Cover(whitening, std, x, torch.tensor(list(prefixes)))
    return Scorer(lambda candidates: -predictive.energy(candidates), False, cover)
