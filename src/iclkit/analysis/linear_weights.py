"""Implicit linear weights: the linear function that a learner's predictions follow, and how well they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.analysis.intervals import Curve, Interval, ratio
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import Questions, check_asked, check_learner, moved
from iclkit.errors import UserError
from iclkit.learners import LinearLearner, RegressionLearner, as_learner
from iclkit.tasks import RegressionTask

# Rows [episode, prefix, query] asked at once.
_ROWS = 2**16
# Predictions below this share of their usual size count as nothing said.
FAINT = 0.01


@dataclass(frozen=True)
class ImplicitWeights:
    """The weights that a learner's predictions follow after every prefix.

    Args:
        weights: Fitted by least squares to the predictions at fresh queries; a linear learner's own.
        residual: Mean square of what they leave of the predictions at further queries.
        power: Mean square of those predictions.
    """

    weights: Float[Tensor, "B P d"]
    residual: Curve
    power: Curve

    def r2(self, level: float = 0.95) -> Interval:
        """Share of the predictions, in mean square at queries that were not fitted, that the weights explain.

        Where all predictions are zero, as most learners' without a context, the share is one; see `faint`.

        Args:
            level: Coverage of the interval.
        """
        silent = self.power.mean == 0
        power = Curve(self.power.context_sizes, self.power.values + silent.to(self.power.values))
        missing = ratio(self.residual, power, level)
        return Interval(1 - missing.mean, 1 - missing.high, 1 - missing.low)

    @property
    def faint(self) -> Bool[Tensor, " P"]:
        """Context sizes at which the predictions are below 1% of what they are at their largest.

        There R² is that of an offset or of rounding: a network without a context says about 1e-3 where it
        should say 0, and how linear that is tells nothing of its algorithm.
        """
        power = self.power.mean
        return (power < FAINT**2 * power.max()) | (power == 0)


@dataclass(frozen=True)
class WeightDifference:
    """Implicit linear weight difference of two learners.

    Args:
        distance: ‖ŵ_a - ŵ_b‖² by episode and context size, in squared units of y per unit of x.
        a: The first learner's weights and how well they fit.
        b: The second's.
    """

    distance: Curve
    a: ImplicitWeights
    b: ImplicitWeights


def ilwd(
    a: Any,
    b: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 64,
    generator: torch.Generator | None = None,
    queries: int | None = None,
) -> WeightDifference:
    """Implicit linear weight difference E ‖ŵ_a - ŵ_b‖².

    Args:
        a: A learner, or a function (x, y) -> predictions.
        b: Another.
        task: Where the episodes come from; queries are drawn as its inputs are.
        points: Contexts have 0 to points - 1 pairs.
        episodes: How many episodes.
        generator: Source of randomness.
        queries: Queries after each prefix; half of them are fitted, half measure the fit. At least 2 d, 8 d if
            None. A plain function is called with a sequence for every one of them.

    Raises:
        UserError: Too few points, episodes or queries, or a learner that does not take such episodes or sees
            what it predicts.

    Source: Akyürek et al. (2022), section 4.1. They measure R² at the queries that were fitted. Their code
        differs from their text: it fits an intercept beside w, divides the squared distance of the weights by
        d, and its R² is that of the true targets. Here the text is followed: no intercept, a sum over d, and
        the R² of the learner's own predictions.
    """
    check_asked(task, points, episodes)
    count = 8 * task.dim if queries is None else queries
    if count < 2 * task.dim:
        raise UserError(f"queries must be at least {2 * task.dim}, twice the dimension, given {queries}")
    pairs = task.draw(episodes, points, generator)
    fresh = task.inputs(episodes, count, generator)
    judged = [as_learner(learner) for learner in (a, b)]
    first, second = (implicit_weights(learner, pairs.x, pairs.y, fresh) for learner in judged)
    asked = Questions(pairs.x, pairs.y, fresh[:, :1].expand_as(pairs.x), None, pairs.y, None)
    for learner in judged:
        check_learner(name_of(learner), learner, asked)
    distance = (first.weights - second.weights).square().sum(-1)
    return WeightDifference(Curve(tuple(range(points)), distance), first, second)


def implicit_weights(
    learner: RegressionLearner,
    x: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
    queries: Float[Tensor, "B K d"],
) -> ImplicitWeights:
    """The weights that a learner's predictions follow after 0, 1, ..., N - 1 pairs.

    Args:
        learner: The learner.
        x: Inputs.
        y: Targets.
        queries: Where it is asked, after every prefix; the first half is fitted.
    """
    said = _predictions(learner, x, y, queries)
    fit = queries.shape[1] // 2
    if isinstance(learner, LinearLearner):
        with torch.no_grad():
            seen, targets = moved(learner, x, y)
            weights = learner.weights(seen, targets).to(said)
    else:
        # The queries are the same after every prefix, so one pseudo-inverse an episode fits them all.
        weights = said[..., :fit] @ torch.linalg.pinv(queries[:, :fit].double()).mT
    rest = queries[:, fit:].double()
    residual = said[..., fit:] - weights @ rest.mT
    sizes = tuple(range(x.shape[1]))
    if isinstance(learner, LinearLearner):
        residual = torch.zeros_like(residual)  # by its contract
    return ImplicitWeights(
        weights,
        Curve(sizes, residual.square().mean(-1)),
        Curve(sizes, said[..., fit:].square().mean(-1)),
    )


def _predictions(
    learner: RegressionLearner, x: Tensor, y: Tensor, queries: Float[Tensor, "B K d"]
) -> Float[Tensor, "B N K"]:
    points, parts = x.shape[1], []
    with torch.no_grad():
        for rows in torch.arange(len(x)).split(max(1, _ROWS // (points * queries.shape[1]))):
            asked = queries[rows, None].expand(-1, points, -1, -1)
            seen, targets, asked = moved(learner, x[rows], y[rows], asked)
            parts.append(learner.predict_queries(seen, targets, asked).to(x.device).double())
    return torch.cat(parts)
