"""What the card of a regressor says where no exact reference is known: errors by kind of function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.intervals import Curve, cell, ratio
from iclkit.analysis.naming import written
from iclkit.analysis.table import Table
from iclkit.learners import GaussianProcess, LeastSquares, NearestNeighbors, RegressionLearner, Ridge
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.regression.units import Units
from iclkit.tasks import (
    GaussianProcesses,
    Pairs,
    Polynomials,
    RegressionTask,
    SignClassification,
    SineCurves,
    TaskMixture,
)
from iclkit.tasks.shifts import Around


def by_kind(learner: TrainedRegressor, task: RegressionTask, episodes: int, seed: int) -> str:
    """Errors relative to the functions' own variance, by kind of function.

    Args:
        learner: The model.
        task: Its prior; a mixture is taken apart.
        episodes: Held-out episodes, over all kinds.
        seed: Their seed.
    """
    kinds = task.tasks if isinstance(task, TaskMixture) else (task,)
    each = max(2, -(-episodes // len(kinds)))
    sizes = [n for n in (4, 8, 16, 32, 64) if n <= learner.network.max_points]
    parts = [
        "## On held-out episodes of its prior\n",
        "Squared error against the noiseless function, divided by what its best constant leaves (so 1 is what "
        f"knowing no x costs); {each} episodes of each kind; ± half of a 95 % bootstrap interval. In "
        "parentheses the best there of least squares, ridge (λ = 1), 3 nearest neighbours and a Gaussian "
        "process (length scale √d, noise 0.3), each in standard units of the context.\n",
        _relative(learner, kinds, sizes, each, seed).markdown(),
    ]
    outside = _elsewhere(learner)
    if outside:
        parts += [
            "\n**Out of its prior**, measured likewise:\n",
            _relative(learner, outside, sizes, each, seed + 1).markdown(),
        ]
    return "\n".join(parts)


def _elsewhere(learner: TrainedRegressor) -> list[RegressionTask]:
    """Functions that the prior lacks, for models that take any number of columns."""
    if not learner.pads:
        return []
    return [
        SineCurves(noise_std=0.1),
        Polynomials("chebyshev", degree=5, noise_std=0.1),
        GaussianProcesses(dim=1, length_scale=0.2, noise_std=0.1),
        SignClassification(dim=min(4, learner.network.dim)),
    ]


def _relative(
    learner: TrainedRegressor, kinds: Sequence[RegressionTask], sizes: list[int], episodes: int, seed: int
) -> Table:
    """Errors over the functions' variance, beside the least of the classical ones."""
    rows = []
    for task in kinds:
        pairs = task.draw(episodes, max(sizes) + 1, torch.Generator().manual_seed(seed))
        truth = pairs.y if pairs.law is None else pairs.law(pairs.x)
        spread = Curve(tuple(sizes), truth.double().var(1, keepdim=True).expand(-1, len(sizes)))
        said = learner.predict_queries(pairs.x, pairs.y, pairs.x[:, sizes, None], sizes)[..., 0]
        model, *rivals = (
            ratio(Curve(tuple(sizes), (predicted.double() - truth[:, sizes].double()).square()), spread)
            for predicted in (said, *(_in_units(rival, pairs, sizes) for rival in _rivals(task.dim)))
        )
        least = torch.stack([rival.mean for rival in rivals]).amin(0).tolist()
        cells = [f"{cell(model[i])} ({best:.2g})" for i, best in enumerate(least)]
        rows.append([written(_core(task)), *cells])
    return Table(["functions", *(f"n = {n}" for n in sizes)], rows)


def _rivals(dim: int) -> tuple[RegressionLearner, ...]:
    process = GaussianProcess("rbf", length_scale=math.sqrt(dim), noise_std=0.3)
    return LeastSquares(), Ridge(1.0), NearestNeighbors(3), process


def _in_units(learner: RegressionLearner, pairs: Pairs, sizes: list[int]) -> Float[Tensor, "B P"]:
    """What a textbook learner says of each target from the pairs before it, in their standard units."""
    x, y, said = pairs.x.double(), pairs.y.double(), []
    for n in sizes:  # each context has units of its own
        units = Units.fit(x[:, :n], y[:, :n], torch.full((len(x),), n))
        queries = units.inputs(x[:, n : n + 1])[:, None]
        predicted = learner.predict_queries(units.inputs(x[:, :n]), units.targets(y[:, :n]), queries, [n])
        said.append(units.y_mean + units.y_std * predicted[:, 0, 0])
    return torch.stack(said, 1)


def _core(task: RegressionTask) -> RegressionTask:
    """The functions themselves, without what is around them."""
    return _core(task.task) if isinstance(task, Around) else task
