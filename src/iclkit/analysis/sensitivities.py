"""How a prediction moves with its query: sensitivities ∂ŷ/∂x of two learners, or of one and of the truth.

A linear learner's sensitivity is its weight vector. So these see what a learner does along every direction,
where its prediction shows one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.cosine import cosine
from iclkit.analysis.intervals import Curve
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import Questions, ask, check_learner, moved
from iclkit.errors import UserError
from iclkit.learners import LinearLearner, RegressionLearner, as_learner
from iclkit.tasks import RegressionTask

# Rows [episode, prefix, query] asked at once: gradients keep what the forward pass computed.
_ROWS = 4096


@dataclass(frozen=True)
class SensitivityDifference:
    """How unlike two learners' sensitivities are.

    Args:
        cosine: Cosine of the angle between them; 0 where one of them is zero (both are, without a context, for
            most learners).
        distance: Length of their difference, in units of y per unit of x.
    """

    cosine: Curve
    distance: Curve


def sensitivity_difference(
    a: Any,
    b: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    generator: torch.Generator | None = None,
) -> SensitivityDifference:
    """Compare ∂ŷ/∂x at the query of two learners.

    Args:
        a: A learner, or a function (x, y) -> predictions.
        b: Another.
        task: Where the episodes come from.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many episodes.
        generator: Source of randomness.

    Raises:
        UserError: A learner does not take such episodes, or sees what it predicts.

    Source: von Oswald et al. (2022), section 3 (cosine and L2 distance of the models' sensitivities).
    """
    asked = ask(task, points, episodes, generator)
    first, second = _checked(a, asked), _checked(b, asked)
    return SensitivityDifference(
        Curve(asked.context_sizes, cosine(first, second)),
        Curve(asked.context_sizes, (first - second).norm(dim=-1)),
    )


@dataclass(frozen=True)
class GradientAlignment:
    """Whether a learner moves along the function that it has been shown; context sizes from 1.

    Args:
        truth: Cosine between ∂ŷ/∂x and the function's own gradient ∇f(x); for linear functions w.
        projected: The same with ∇f(x) projected on the span of the inputs seen, of which alone they can tell.
    """

    truth: Curve
    projected: Curve


def gradient_alignment(
    learner: Any,
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    generator: torch.Generator | None = None,
) -> GradientAlignment:
    """Compare ∂ŷ/∂x at the query with the gradient of the episode's function.

    Args:
        learner: The learner, or a function (x, y) -> predictions.
        task, points, episodes, generator: As in `sensitivity_difference`; points ≥ 2.

    Raises:
        UserError: The learner does not take such episodes or sees what it predicts, or nobody can differentiate
            their functions.

    Source: Garg et al. (2022), section 3.2 and figure 3: the projected cosine is near 1 for every context size.
    """
    if points < 2:
        raise UserError(f"points must be at least 2, for the empty context tells no direction, given {points}")
    asked = ask(task, points, episodes, generator)
    found, truth = _checked(learner, asked), true_gradients(asked)
    sizes = asked.context_sizes[1:]
    return GradientAlignment(
        Curve(sizes, cosine(found, truth)[:, 1:]),
        Curve(sizes, cosine(found, project_on_contexts(asked.x, truth))[:, 1:]),
    )


def _checked(learner: Any, asked: Questions) -> Float[Tensor, "B N d"]:
    """`sensitivities` of a learner that does not see what it predicts."""
    judged = as_learner(learner)
    found = sensitivities(judged, asked)
    # Asked as there: about queries that take the place of x_n.
    queries = asked.queries.clone()
    asked = Questions(asked.x, asked.y, queries, None, asked.targets, None)
    check_learner(name_of(judged), judged, asked)
    return found


def sensitivities(learner: RegressionLearner, asked: Questions) -> Float[Tensor, "B N d"]:
    """∂ŷ/∂x of a learner at every query, in float64.

    By automatic differentiation; by central differences where the learner hides its operations from it. Of a
    learner that jumps (trees, neighbours) differences see the jumps within their step.
    """
    if isinstance(learner, LinearLearner):
        with torch.no_grad():
            x, y = moved(learner, asked.x, asked.y)
            return learner.weights(x, y).to(asked.x.device).double()
    parts = []
    for rows in torch.arange(len(asked.x)).split(max(1, _ROWS // asked.x.shape[1])):
        x, y, queries = moved(learner, asked.x[rows], asked.y[rows], asked.queries[rows, :, None])
        with torch.enable_grad():
            queries = queries.clone().requires_grad_()
            predictions = learner.predict_queries(x, y, queries)
            if predictions.requires_grad:
                # Query n moves prediction n alone, so the gradient of the sum holds them all.
                parts.append(torch.autograd.grad(predictions.sum(), queries)[0][:, :, 0])
                continue
        parts.append(_differences(learner, x, y, queries.detach()))
    return torch.cat(parts).to(asked.x.device).double()


def _differences(
    learner: RegressionLearner, x: Tensor, y: Tensor, queries: Float[Tensor, "B N 1 d"]
) -> Float[Tensor, "B N d"]:
    # The cube root of the precision balances rounding, ε/h, and truncation, h².
    step = torch.finfo(x.dtype).eps ** (1 / 3)
    moves = step * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    with torch.no_grad():
        above, below = (learner.predict_queries(x, y, queries + sign * moves) for sign in (1, -1))
    return (above - below) / (2 * step)


def true_gradients(asked: Questions) -> Float[Tensor, "B N d"]:
    """∇f at the queries, in float64.

    Raises:
        UserError: The functions are unknown, or not made of differentiable operations.
    """
    if asked.law is None:
        raise UserError("nobody knows the functions behind these episodes, and so their gradients")
    with torch.enable_grad():
        queries = asked.queries.clone().requires_grad_()
        values = asked.law(queries)
        if not values.requires_grad:
            raise UserError(
                f"{type(asked.law).__name__} cannot be differentiated; take a task of smooth functions"
            )
        return torch.autograd.grad(values.sum(), queries)[0].double()


def project_on_contexts(x: Float[Tensor, "B N d"], vectors: Float[Tensor, "B N d"]) -> Float[Tensor, "B N d"]:
    """The n-th vector projected on the span of x_1, ..., x_n-1 (float64)."""
    x = x.double()
    after = torch.einsum("bni,bnj->bnij", x, x).cumsum(1)
    gram = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
    values, directions = torch.linalg.eigh(gram)
    # Inputs in single precision know a direction to 1e-7 of their length, its square to 1e-14.
    inside = (values > 1e-12 * values[..., -1:]).to(x)
    along = (directions.mT @ vectors.double()[..., None])[..., 0]
    return (directions @ (inside * along)[..., None])[..., 0]
