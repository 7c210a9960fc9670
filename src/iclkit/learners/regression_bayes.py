"""Bayes' rule for the regression tasks whose posterior mean has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.gaussian_process import GaussianProcess
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.on_features import OnFeatures, ProbabilisticOnFeatures
from iclkit.learners.pool_posterior import PoolPosterior
from iclkit.learners.posterior_mixture import PosteriorMixture
from iclkit.learners.regression import ProbabilisticLearner, RegressionLearner
from iclkit.learners.ridge import BayesLinear
from iclkit.learners.sparse_linear import SparseBayesLinear
from iclkit.tasks import (
    DiagonalCovariance,
    FeatureRegression,
    GaussianProcesses,
    HalfSubspace,
    LabelNoise,
    LinearPool,
    LinearRegression,
    NoiseLevels,
    OrthogonalQueries,
    Padded,
    Polynomials,
    RandomOrthants,
    RegressionTask,
    RepeatedQueries,
    Scaled,
    Skewed,
    SparseLinearRegression,
    TaskMixture,
)
from iclkit.tasks.gaussian_processes import JITTER
from iclkit.tasks.shifts import Around

# Nodes of the quadrature over the noise, for each factor e between the largest and the smallest.
_NODES = 12

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


def _sparse(task: SparseLinearRegression, noise_std: float, factor: float) -> RegressionLearner:
    return SparseBayesLinear(task.nonzero, noise_std, factor)


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
    SparseLinearRegression: _sparse,
    FeatureRegression: _features,
    GaussianProcesses: _processes,
    LinearPool: _pool,
}


def regression_bayes(task: RegressionTask) -> RegressionLearner:
    """The learner that knows the task distribution and predicts the posterior mean of f(x).

    Tasks around one that only move its inputs or queries, scale it or add noise are seen through. Noise of an
    unknown level (`NoiseLevels`) is integrated out by Gauss-Legendre quadrature over its logarithm: for
    contexts of up to 64 pairs, predictions are exact to 1e-5 of their own spread. In a mixture of noisy tasks
    whose inputs have one law, each is weighed by its evidence.

    Args:
        task: The task.

    Raises:
        UserError: No closed form is known for the task.
    """
    return _reference(task, 0.0, 1.0)


def _reference(task: RegressionTask, noise_std: float, factor: float) -> RegressionLearner:
    """Bayes' rule for a task whose functions are multiplied by a factor, with further noise."""
    if isinstance(task, NoiseLevels):
        return _noise_levels(task, noise_std, factor)
    if isinstance(task, TaskMixture):
        return _mixture(task, noise_std, factor)
    if isinstance(task, Around) and isinstance(task, TRANSPARENT):
        if isinstance(task, Scaled):
            factor *= task.targets_factor
        if isinstance(task, LabelNoise):
            noise_std = math.hypot(noise_std, task.std)
        return _on_leading(_reference(task.task, noise_std, factor), task.task.dim, task.dim)
    for kind in type(task).__mro__:
        if kind in REGRESSION_REFERENCES:
            return REGRESSION_REFERENCES[kind](task, math.hypot(noise_std, task.noise_std), factor)
    raise _unknown(type(task).__name__)


def _unknown(what: str) -> UserError:
    known = ", ".join(sorted(kind.__name__ for kind in REGRESSION_REFERENCES))
    return UserError(
        f"no exact reference is known for {what} (known: {known}, also scaled, noisy, mixed and with other "
        "inputs); compare with LeastSquares, Ridge, Lasso, NearestNeighbors or BoostedTrees instead"
    )


def _noise_levels(task: NoiseLevels, noise_std: float, factor: float) -> RegressionLearner:
    """One learner for each node of a quadrature over the logarithm of the level, which is uniform.

    After n pairs the posterior of the logarithm has a spread of about (2n)^(-1/2); nodes at a distance of no
    more than that integrate it to high accuracy.
    """
    span = math.log(task.most / task.least)
    places, weights = np.polynomial.legendre.leggauss(max(1, math.ceil(_NODES * span)))
    levels = task.least * np.exp(0.5 * span * (places + 1))
    learners = tuple(_reference(task.task, math.hypot(noise_std, level), factor) for level in levels.tolist())
    return PosteriorMixture(learners, tuple(weights.tolist()))  # pyright: ignore[reportArgumentType]


def _mixture(task: TaskMixture, noise_std: float, factor: float) -> RegressionLearner:
    if len({_inputs_law(member) for member in task.tasks}) > 1 or _inputs_law(task.tasks[0]) is None:
        raise _unknown("a TaskMixture unless its tasks have inputs of one law")
    if not all(math.hypot(noise_std, member.noise_std) for member in task.tasks):
        raise _unknown("a TaskMixture unless its tasks are noisy: without noise targets have no density")
    learners = tuple(_reference(member, noise_std, factor) for member in task.tasks)
    return PosteriorMixture(learners, task.weights)  # pyright: ignore[reportArgumentType]


def _inputs_law(task: RegressionTask) -> tuple[str, float] | None:
    """The law of a task's inputs as something to compare; None where it is another than these."""
    if isinstance(task, LabelNoise | NoiseLevels | OrthogonalQueries | RepeatedQueries):
        return _inputs_law(task.task)
    if isinstance(task, Scaled) and task.inputs_factor == 1:
        return _inputs_law(task.task)
    if isinstance(task, LinearRegression | GaussianProcesses):
        return (task.inputs_law, task.half_width if task.inputs_law == "uniform" else 0.0)
    if isinstance(task, Polynomials):
        return ("uniform", 1.0)
    return ("normal", 0.0) if type(task).inputs is RegressionTask.inputs else None


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
