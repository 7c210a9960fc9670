"""What analyses ask of any learner: log densities, normalised or not, and a density that covers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.causality import check_causal
from iclkit.analysis.cover import Cover
from iclkit.learners import DensityLearner
from iclkit.learners.standardise import Whitening
from iclkit.learners.trained import EnergyDensity

# Episodes on which it is checked that a learner does not see the points that it scores.
_FEW = 64
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


def check_density(
    name: str, learner: DensityLearner, x: Float[Tensor, "B N d"], prefixes: Sequence[int]
) -> None:
    """Refuse a learner whose densities after a prefix change with the points behind it (see `causality.py`).

    Textbook learners are not asked: their tests do that.

    Args:
        name: What the learner is called.
        learner: The learner.
        x: Episodes, at least two.
        prefixes: Context lengths.

    Raises:
        UserError: Names the learner, the position, and what changed.
    """
    kind = type(learner)
    sizes = sorted({n for n in prefixes if n < x.shape[1]})
    if (
        not sizes
        or len(x) < 2
        or (kind.__module__.startswith("iclkit.learners.") and kind is not EnergyDensity)
    ):
        return
    x = x[:_FEW]
    candidates = x.roll(1, 0)[:, :1].expand(-1, len(sizes), -1)[:, :, None]

    def respond(changed: Tensor, _: Tensor, rows: Tensor) -> Tensor:
        found = changed.new_zeros(changed.shape[:2])
        found[:, sizes] = scorer(learner, changed, sizes).log_density(candidates[rows])[..., 0].to(found)
        return found

    with torch.no_grad():
        before = respond(x.clone(), x[..., 0], torch.arange(len(x)))
        check_causal(name, respond, x, x[..., 0], before, own_input=True, positions=sizes, points=True)
