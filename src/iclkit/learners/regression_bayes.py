"""Bayes' rule for the regression tasks whose posterior mean has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.gaussian_process import GaussianProcess
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.on_features import OnFeatures, ProbabilisticOnFeatures
from iclkit.learners.pool_posterior import PoolPosterior
from iclkit.learners.regression import ProbabilisticLearner, RegressionLearner
from iclkit.learners.ridge import BayesLinear
from iclkit.tasks import (
    DiagonalCovariance,
    FeatureRegression,
    GaussianProcesses,
    HalfSubspace,
    LabelNoise,
    LinearPool,
    LinearRegression,
    OrthogonalQueries,
    Padded,
    RandomOrthants,
    RegressionTask,
    RepeatedQueries,
    Scaled,
    Skewed,
)
from iclkit.tasks.gaussian_processes import JITTER
from iclkit.tasks.shifts import Around

# Tasks around a task that leave the prior of its functions as it is, but for their scale, the noise and unused
# coordinates: Bayes' rule conditions on the inputs, wherever they come from.
TRANSPARENT = (
    DiagonalCovariance,
    HalfSubspace,
    LabelNoise,
    OrthogonalQueries,
    Padded,
    RandomOrthants,
    RepeatedQueries,
    Scaled,
    Skewed,
)


def _linear(task: LinearRegression, noise_std: float, factor: float) -> RegressionLearner:
    # Without noise the posterior is N(0, τ² I) on the plane of all w that fit; its mean has the least norm.
    return BayesLinear(noise_std, factor * task.weight_std) if noise_std else LeastSquares()


def _features(task: FeatureRegression, noise_std: float, factor: float) -> RegressionLearner:
    if not noise_std:
        return OnFeatures(LeastSquares(), task.features, task.dim)
    inner = BayesLinear(noise_std, factor * task.feature_weight_std)
    return ProbabilisticOnFeatures(inner, task.features, task.dim)


def _processes(task: GaussianProcesses, noise_std: float, factor: float) -> RegressionLearner:
    # The task adds a little variance of its own to every value, which is noise of the function, and so scaled.
    variance = factor**2 * task.variance
    noise_std = math.hypot(noise_std, math.sqrt(JITTER * variance))
    return GaussianProcess(task.kernel, task.length_scale, variance, noise_std, task.period)


def _pool(task: LinearPool, noise_std: float, factor: float) -> RegressionLearner:
    return PoolPosterior(task if factor == 1 else factor * task.weights(), noise_std)


# A new task with a closed form gets its line here: a function of it, the noise and a factor of the functions.
REGRESSION_REFERENCES: dict[type[RegressionTask], Callable[..., RegressionLearner]] = {
    LinearRegression: _linear,
    FeatureRegression: _features,
    GaussianProcesses: _processes,
    LinearPool: _pool,
}


def regression_bayes(task: RegressionTask) -> RegressionLearner:
    """The learner that knows the task distribution and predicts the posterior mean of f(x).

    Args:
        task: The task; tasks around one that only move its inputs or queries, scale it or add noise are seen
            through.

    Raises:
        UserError: No closed form is known for the task.
    """
    core, factor, used = task, 1.0, task.dim
    while isinstance(core, Around) and isinstance(core, TRANSPARENT):
        if isinstance(core, Scaled):
            factor *= core.targets_factor
        core = core.task
        used = min(used, core.dim)
    for kind in type(core).__mro__:
        if kind in REGRESSION_REFERENCES:
            return _on_leading(REGRESSION_REFERENCES[kind](core, task.noise_std, factor), used, task.dim)
    known = ", ".join(sorted(kind.__name__ for kind in REGRESSION_REFERENCES))
    raise UserError(
        f"no exact reference is known for {type(core).__name__} (known: {known}, also scaled, noisy and with "
        "other inputs); compare with LeastSquares, Ridge, Lasso, NearestNeighbors or BoostedTrees instead"
    )


@dataclass(frozen=True)
class _Leading:
    """The first coordinates as features."""

    count: int

    def __call__(self, x: Tensor) -> Tensor:
        return x[..., : self.count]


def _on_leading(learner: RegressionLearner, used: int, dim: int) -> RegressionLearner:
    """The learner on the first `used` of `dim` coordinates."""
    if used == dim:
        return learner
    kind = ProbabilisticOnFeatures if isinstance(learner, ProbabilisticLearner) else OnFeatures
    return kind(learner, _Leading(used), dim)
