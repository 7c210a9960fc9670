"""What training one layer of linear attention converges to, and how near a trained one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.interpolation import merged
from iclkit.analysis.intervals import Curve, Interval
from iclkit.analysis.table import Table
from iclkit.compiler import attention_layer, limit_matrices
from iclkit.errors import UserError
from iclkit.learners import GradientDescent
from iclkit.learners.descent import best_rate
from iclkit.networks import MergedAttention
from iclkit.regression import InContextRegressor
from iclkit.tasks import LinearRegression


@dataclass(frozen=True)
class LimitMatrices:
    """The attention matrices that gradient flow ends at.

    Args:
        key_query: W_KQ.
        value_out: W_PV.
        rate: The learning rate of the one step of gradient descent that they carry out.
        loss: Its squared error, at contexts of the length trained on.
    """

    key_query: Float[Tensor, "W W"]
    value_out: Float[Tensor, "W W"]
    rate: float
    loss: float


def attention_limit(task: LinearRegression, points: int) -> LimitMatrices:
    """The limit of training one layer of linear attention from a small balanced start.

    W_KQ = tr(Γ⁻²)^(−1/4) diag(Γ⁻¹, 0) and W_PV = tr(Γ⁻²)^(1/4) diag(0, 1). With coordinates of the inputs that
    are independent and alike Γ⁻¹ is η* I, η* the best rate of one step of gradient descent: for normal ones
    that is the published Γ = (1 + 1/N) Σ + (tr Σ / N) I.

    Args:
        task: The linear functions trained on; without noise, as in the theory.
        points: Pairs in the context (N).

    Raises:
        UserError: Noise, or a context without pairs.

    Source: Zhang, Frei and Bartlett (2023), theorem 4.1.
    """
    if task.noise_std or points < 1:
        raise UserError(
            f"the limit is known without noise and for at least 1 pair, given noise_std={task.noise_std} and "
            f"{points} pairs"
        )
    second, fourth = input_moments(task)
    rate = float(best_rate(float(points), task.dim, second, fourth))
    key_query, value_out = limit_matrices(torch.eye(task.dim, dtype=torch.float64) / rate)
    # What is left of the error of predicting 0; see `best_rate`.
    left = 1 - rate * second
    return LimitMatrices(key_query, value_out, rate, task.weight_std**2 * task.dim * second * left)


def limit_network(task: LinearRegression, points: int, merged: bool = True) -> InContextRegressor:
    """The limit of training as a network of the shape that is trained.

    Args:
        task: The linear functions trained on; without noise.
        points: Pairs in the context.
        merged: Whether attention has the two matrices, as in the recipe `lsa`, or four with these products, as
            in `lsa-published`.

    Raises:
        UserError: As `attention_limit`.
    """
    limit = attention_limit(task, points)
    return attention_layer(limit.key_query, limit.value_out, points, merged=merged)


@dataclass(frozen=True)
class LimitDistance:
    """How far a trained layer is from its limit.

    Args:
        key_query: Relative distance of W_KQ (Frobenius) after the scale that it trades with W_PV.
        value_out: The same of W_PV.
        cosine: Between its predictions and those of the step of gradient descent, over fresh episodes.
        loss: Its squared error there, with the interval; the limit's exact one plus the paired difference.
        limit: The limit's squared error, exactly.
    """

    key_query: float
    value_out: float
    cosine: float
    loss: Interval
    limit: float

    def table(self) -> Table:
        """Everything, a line each; losses as half of the squared error, as published."""
        low, high = float(self.loss.low) / 2, float(self.loss.high) / 2
        rows = [
            ["W_KQ, relative distance", f"{self.key_query:.2%}"],
            ["W_PV, relative distance", f"{self.value_out:.2%}"],
            ["cosine of predictions to gradient descent's", f"{self.cosine:.5f}"],
            ["loss (half the squared error)", f"{float(self.loss.mean) / 2:.5f} [{low:.5f}, {high:.5f}]"],
            ["limit of the loss", f"{self.limit / 2:.5f}"],
        ]
        return Table(["", "measured"], rows)


def distance_to_limit(
    learner: Any,
    task: LinearRegression,
    points: int = 10,
    episodes: int = 20_000,
    generator: torch.Generator | None = None,
) -> LimitDistance:
    """Compare a trained layer of linear attention with the limit of its training.

    Args:
        learner: A network of one such layer on plain tokens (x, y), or a trained learner with one.
        task: What it was trained on.
        points: Pairs in the context that it was trained with.
        episodes: Fresh episodes for cosine and loss.
        generator: Their source.

    Raises:
        UserError: Networks of another kind; a task whose limit is not known.
    """
    limit = attention_limit(task, points)
    network = getattr(learner, "network", learner)
    layers = [module for module in merged(network).modules() if isinstance(module, MergedAttention)]
    shapes = {tuple(layer.key_query.weight.shape) for layer in layers}
    if len(layers) != 1 or shapes != {tuple(limit.key_query.shape)}:
        raise UserError(
            f"one layer with matrices of {tuple(limit.key_query.shape)} is compared, given {len(layers)} of "
            f"{sorted(shapes)}"
        )
    key_query, value_out = (part.detach().double()[0] for part in (layers[0].kq(), layers[0].pv()))
    # Both matrices of one size and the y entry of W_PV positive: what the limit is.
    scale = (value_out.norm() / key_query.norm()).sqrt() * value_out[-1, -1].sign()
    kq_off, pv_off = (
        float((found - wanted).norm() / wanted.norm())
        for found, wanted in ((key_query * scale, limit.key_query), (value_out / scale, limit.value_out))
    )
    x, y = (part.to(layers[0].key_query.weight) for part in task.sample(episodes, points + 1, generator))
    with torch.no_grad():
        queries, prefix = x[:, -1:, None], torch.tensor([points])
        said = network.queries(x[:, :-1], y[:, :-1], queries, prefix)[:, 0, 0, 0].double()
    stepped = GradientDescent(1, rate=limit.rate).predict_queries(x[:, :-1], y[:, :-1], queries, [points])
    stepped, truth = stepped[:, 0, 0].double(), y[:, -1].double()
    # The limit's own error is known: only what the two differ by is estimated.
    error = limit.loss + (said - truth).square() - (stepped - truth).square()
    loss = Curve((points,), error[:, None]).interval()[0]
    cosine = float(torch.cosine_similarity(said, stepped, 0))
    return LimitDistance(kq_off, pv_off, cosine, loss, limit.loss)


def input_moments(task: LinearRegression) -> tuple[float, float]:
    """E x_i² and E x_i⁴ of a coordinate of a task's inputs."""
    if task.inputs_law == "uniform":
        return task.half_width**2 / 3, task.half_width**4 / 5
    return 1.0, 3.0
