"""Networks made by hand in the shape of a trained one, to draw the line between the two."""

from __future__ import annotations

from typing import Any, cast

from iclkit.analysis.attention_limit import input_moments, limit_network
from iclkit.compiler import gradient_descent, gradient_descent_plus_plus
from iclkit.compiler.linear_attention import Rates, check_each
from iclkit.errors import UserError
from iclkit.learners import GradientDescent, GradientDescentPlusPlus
from iclkit.learners.descent import best_rate
from iclkit.networks import PLAIN
from iclkit.regression import InContextRegressor
from iclkit.tasks import LinearRegression, RegressionTask

LIMIT = "limit"


def counterpart(network: Any, learner: Any, task: RegressionTask) -> InContextRegressor:
    """A network of the shape and type of a trained one whose weights carry out an algorithm.

    Args:
        network: Linear attention on joined tokens, or a trained learner with such a network.
        learner: A `GradientDescent` or `GradientDescentPlusPlus` of as many steps as it has layers, on the loss
            "mean"; or "limit", what training one layer on the task converges to. Without a rate, gradient
            descent has the best one of a single step for the longest context.
        task: What the network was trained on.

    Raises:
        UserError: A network or an algorithm of another kind, or one that does not fit the other.
    """
    network = getattr(network, "network", network)
    given = _arguments(network)
    dim, points, layers = network.dim, network.max_points, given["layers"]
    plain, merged = given["embedding"] == "identity", given["merged"]
    if isinstance(learner, str) and learner == LIMIT:
        if layers != 1 or not plain or not isinstance(task, LinearRegression) or task.dim != dim:
            raise UserError(
                f"the limit is known of one layer on plain tokens, trained on linear regression of dim {dim}; "
                "name an algorithm like gd(2, 6.0), or another model"
            )
        made = limit_network(task, points, merged)
    elif isinstance(learner, GradientDescent) and learner.loss == "mean":
        rate = learner.rate
        if rate is None:
            moments = input_moments(task) if isinstance(task, LinearRegression) else learner.input_moments
            rate = float(best_rate(float(points), dim, *moments))
        made = gradient_descent(
            dim, points, learner.steps, rate, tied=given["tied"], plain=plain, merged=merged
        )
    elif (
        isinstance(learner, GradientDescentPlusPlus) and learner.rate is not None and learner.gamma is not None
    ):
        rate, gammas = cast(Rates, learner.rate), cast(Rates, learner.gamma)
        scale = points if learner.curvature == "sum" else 1
        gamma = [scale * one for one in check_each("gamma", gammas, learner.steps)]
        made = gradient_descent_plus_plus(
            dim, points, learner.steps, rate, gamma, tied=given["tied"], plain=plain, merged=merged
        )
    else:
        raise UserError(
            "made by hand are GradientDescent on the loss 'mean', GradientDescentPlusPlus with its rate and "
            f"gamma, and 'limit', given {learner}"
        )
    _check_fit(network, made, learner)
    return made.to(next(network.parameters()))


def _arguments(network: Any) -> dict[str, Any]:
    """What the network was built from, if it is of the kind that is made by hand."""
    given = network.arguments if isinstance(network, InContextRegressor) else {}
    wanted = {
        "tokens": "joined",
        "attention": "linear",
        "heads": 1,
        "mlp_ratio": 0,
        "norm": False,
        "bias": False,
        "variant": PLAIN,
    }
    other = [name for name, value in wanted.items() if given.get(name) != value]
    if other or given["embedding"] == "features" or network.tokens.width != network.dim + 1:
        raise UserError(
            "weights are made by hand for linear attention on tokens (x, y) of d + 1 numbers, as in the recipe "
            f"lsa; this network differs in {', '.join(other) or 'its tokens'}; interpolate with another model"
        )
    return given


def _check_fit(network: InContextRegressor, made: InContextRegressor, learner: Any) -> None:
    layers = network.arguments["layers"]
    if made.arguments["layers"] != layers:
        raise UserError(
            f"{learner} takes {made.arguments['layers']} layers, the network has {layers}; give as many steps"
        )
    if layers > 1 and (network.negated, network.own) != (made.negated, made.own):
        raise UserError(
            "layers can descend together only if the query is no key (query_sees_itself=False) and plain "
            "tokens are read with the other sign (negated=True), as in the recipe lsa-recurrent"
        )
