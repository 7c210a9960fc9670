"""How far apart the predictions of two regression learners are, and how far from the truth, by context size.

Every function draws its own episodes, so the same state of the generator makes the results of two calls paired:
their curves may be subtracted.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.intervals import Curve
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import Questions, answers, ask, checked_answers
from iclkit.errors import UserError
from iclkit.learners import as_learner, bayes
from iclkit.tasks import RegressionTask

Truth = Literal["function", "target"]


def spd(
    a: Any,
    b: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    generator: torch.Generator | None = None,
    per_dimension: bool = False,
) -> Curve:
    """Squared prediction difference E (A(D)(x') - B(D)(x'))².

    Args:
        a: A learner, or a function (x, y) -> predictions.
        b: Another.
        task: Where episodes D and queries x' come from.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many episodes.
        generator: Source of randomness.
        per_dimension: Whether to divide by the dimension of the inputs, as the published figures do.

    Returns:
        The squared differences by episode and context size, in squared units of y.

    Raises:
        UserError: A learner does not take such episodes, or sees what it predicts.

    Source: Akyürek et al. (2022), section 4.1.
    """
    asked = ask(task, points, episodes, generator)
    found = squared_difference(_checked(a, asked), _checked(b, asked), asked)
    return Curve(found.context_sizes, found.values / task.dim) if per_dimension else found


def error(
    learner: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    generator: torch.Generator | None = None,
    against: Truth = "function",
) -> Curve:
    """Squared error of a learner.

    Args:
        learner: The learner, or a function (x, y) -> predictions.
        task, points, episodes, generator: As in `spd`.
        against: "function" for the value of the function without noise, "target" for the noisy target. They
            differ by the variance of the noise on average; the first has the narrower interval.

    Raises:
        UserError: The learner does not take such episodes or sees what it predicts, or nobody knows their
            functions.
    """
    asked = ask(task, points, episodes, generator)
    return squared_difference(_checked(learner, asked), right_answers(asked, against), asked)


def excess_risk(
    learner: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    generator: torch.Generator | None = None,
) -> Curve:
    """How much more squared error a learner makes than Bayes' predictive mean.

    It is the squared difference between the two: the predictive mean m is E[y | context, x], so the cross term
    of E (ŷ - y)² = E (ŷ - m)² + 2 E (ŷ - m)(m - y) + E (m - y)² vanishes. That estimate is never negative, and
    its interval is far narrower than that of the difference of two errors.

    Args:
        learner: The learner, or a function (x, y) -> predictions.
        task, points, episodes, generator: As in `spd`.

    Raises:
        UserError: No exact reference is known for the task, or the learner does not take such episodes or sees
            what it predicts.
    """
    asked = ask(task, points, episodes, generator)
    exact = answers(bayes(task), asked)
    return squared_difference(_checked(learner, asked), exact, asked)


def _checked(learner: Any, asked: Questions) -> Float[Tensor, "B N"]:
    judged = as_learner(learner)
    return checked_answers(name_of(judged), judged, asked)


def squared_difference(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"], asked: Questions) -> Curve:
    """The curve of (a - b)²."""
    return Curve(asked.context_sizes, (a.double() - b.double()).square())


def right_answers(asked: Questions, against: Truth = "function") -> Float[Tensor, "B N"]:
    """What a learner should have said; raises as `error`."""
    if against == "target":
        return asked.targets
    if against != "function":
        raise UserError(f"against must be 'function' or 'target', given {against!r}")
    if asked.truth is None:
        raise UserError("nobody knows the functions behind these episodes; compare with against='target'")
    return asked.truth
