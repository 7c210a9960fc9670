"""Families of textbook learners, each with the parameters that `identify` is free to choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from iclkit import learners
from iclkit.analysis import intercept_families as intercepts
from iclkit.analysis import responses
from iclkit.analysis.family import Family, Parameter, log_grid, whole_grid
from iclkit.tasks import LinearPool, RegressionTask


def zero(task: RegressionTask, points: int) -> Family:
    """Predicts 0."""
    return Family("zero", learners.Zero, response=lambda spectrum: torch.zeros_like(spectrum.loads))


def averaging(task: RegressionTask, points: int) -> Family:
    """w = mean of x y: one step of gradient descent with rate 1."""
    return Family("averaging", learners.Averaging, response=responses.averaging)


def least_squares(task: RegressionTask, points: int) -> Family:
    """Least squares of smallest norm."""
    return Family("least squares", learners.LeastSquares)


def ridge(task: RegressionTask, points: int) -> Family:
    """Ridge regression, which is also Bayesian linear regression."""
    penalty = Parameter("penalty", log_grid(1e-9, 1e4, 2), symbol="λ")
    note = "penalty λ is Bayesian linear regression with σ²/τ² = λ"
    noise, spread = task.noise_std, getattr(task, "weight_std", None)
    if noise and spread:
        note += f", here {(noise / spread) ** 2:.4g}"
    return Family("ridge", learners.Ridge, (penalty,), responses.ridge, note)


def lasso(task: RegressionTask, points: int) -> Family:
    """Least squares with an absolute-value penalty."""
    note = "penalty α in (1/2n) |y − Xw|² + α |w|₁"
    penalty = Parameter("penalty", log_grid(1e-5, 10, 3), symbol="α")
    return Family("Lasso", learners.Lasso, (penalty,), note=note)


def gradient_descent(task: RegressionTask, points: int) -> Family:
    """Steps of gradient descent on half the mean squared error of the context."""
    parameters = (_steps(200), Parameter("rate", log_grid(1e-3, 10, 8), symbol="η"))
    note = "rate η on (1/2n) Σ (wᵀx − y)²"
    return Family("GD", learners.GradientDescent, parameters, responses.descent, note)


def summed_descent(task: RegressionTask, points: int) -> Family:
    """Steps of gradient descent on the summed squared error: its rate does not shrink with the context."""
    parameters = (_steps(200), Parameter("rate", log_grid(1e-4, 1, 8), symbol="η"))
    return Family(
        "summed-loss GD",
        lambda steps, rate: learners.GradientDescent(steps, rate, "sum"),
        parameters,
        lambda spectrum, steps, rate: responses.geometric(spectrum.values, 2 * rate, steps),
        "rate η on Σ (wᵀx − y)²",
    )


def best_rate_descent(task: RegressionTask, points: int) -> Family:
    """Gradient descent whose rate is the best one of a single step, for the number of pairs at hand."""
    moments = 1.0, 3.0  # of the normal distribution
    if getattr(task, "inputs_law", "normal") == "uniform":
        width = getattr(task, "half_width", 1.0)
        moments = width**2 / 3, width**4 / 5
    return Family(
        "best-rate GD",
        partial(learners.GradientDescent, input_moments=moments),
        (_steps(20),),
        partial(responses.best_rate_descent, dim=task.dim, moments=moments),
        "rate η*(n), best for one step, on (1/2n) Σ (wᵀx − y)²",
    )


def corrected_descent(task: RegressionTask, points: int) -> Family:
    """Gradient descent that moves its inputs too; one step is plain gradient descent, so it begins with two."""
    parameters = (
        Parameter("steps", (2, 3, 4, 6, 8), whole=True),
        Parameter("rate", log_grid(1e-2, 10, 3), symbol="η"),
        Parameter("gamma", log_grid(1e-4, 1, 3), symbol="γ"),
    )
    note = "y ← y − (η/n) (Σ y x)ᵀ x and x ← (I − γ X Xᵀ) x in each step"
    return Family("GD++", learners.GradientDescentPlusPlus, parameters, responses.corrected_descent, note)


def newton(task: RegressionTask, points: int) -> Family:
    """Least squares by Newton's iteration for the inverse."""
    return Family("Newton", learners.Newton, (_steps(20),), responses.newton)


def gaussian_process(task: RegressionTask, points: int) -> Family:
    """Gaussian-process regression with a Gaussian kernel of variance 1."""
    parameters = (
        Parameter("length_scale", log_grid(0.1, 100, 4), symbol="ℓ"),
        Parameter("noise_std", log_grid(1e-3, 10, 2), symbol="σ"),
    )
    note = "kernel exp(−|x − x'|²/2ℓ²); for a variance v the noise is σ/√v"
    build = partial(learners.GaussianProcess, "rbf")
    return Family("Gaussian process", build, parameters, note=note)


def pool_posterior(task: RegressionTask, points: int) -> Family | None:
    """Bayes' predictions for the task's own pool (dMMSE)."""
    if not isinstance(task, LinearPool):
        return None
    return Family("pool posterior", partial(learners.PoolPosterior, task, task.noise_std))


def smoothed_pool(task: RegressionTask, points: int) -> Family | None:
    """Bayes' predictions where each member of the task's own pool is widened to a Gaussian."""
    if not isinstance(task, LinearPool) or not task.noise_std:
        return None
    return Family(
        "smoothed pool",
        lambda spread: learners.SmoothedPoolPosterior(task, task.noise_std, spread),
        (Parameter("spread", log_grid(1e-3, 10, 3)),),
        note="spread is the standard deviation of the weights around each member of the pool",
    )


def one_pass_sgd(task: RegressionTask, points: int) -> Family:
    """Stochastic gradient descent, once through the context."""
    rate = Parameter("rate", log_grid(1e-4, 1, 5), symbol="η")
    return Family("one-pass SGD", learners.OnePassSGD, (rate,), note="rate η on (wᵀx − y)² of each pair")


def neighbors(task: RegressionTask, points: int) -> Family:
    """k nearest neighbours, each counting the same."""
    return Family("k-NN", lambda k: learners.NearestNeighbors(int(k)), (_neighbours(points),))


def weighted_neighbors(task: RegressionTask, points: int) -> Family:
    """k nearest neighbours, weighted by 1/distance²."""
    return Family(
        "weighted k-NN",
        lambda k: learners.NearestNeighbors(int(k), "distance"),
        (_neighbours(points),),
    )


# What a family is called, and what makes it for a task and a number of points; None where it does not apply.
# The simplest come first: of families that cannot be told apart, the one with fewer parameters is named, and of
# several the first.
FAMILIES: dict[str, Callable[[RegressionTask, int], Family | None]] = {
    "zero": zero,
    "averaging": averaging,
    "least squares": least_squares,
    "mean target": intercepts.mean_target,
    "averaging with intercept": intercepts.centred_averaging,
    "least squares with intercept": intercepts.centred_least_squares,
    "averaging on (1, x)": intercepts.joined_averaging,
    "least squares on (1, x)": intercepts.joined_least_squares,
    "pool posterior": pool_posterior,
    "ridge": ridge,
    "ridge with intercept": intercepts.centred_ridge,
    "ridge on (1, x)": intercepts.joined_ridge,
    "smoothed pool": smoothed_pool,
    "best-rate GD": best_rate_descent,
    "Newton": newton,
    "Lasso": lasso,
    "one-pass SGD": one_pass_sgd,
    "k-NN": neighbors,
    "weighted k-NN": weighted_neighbors,
    "GD": gradient_descent,
    "summed-loss GD": summed_descent,
    "Gaussian process": gaussian_process,
    "GD++": corrected_descent,
}


def _steps(most: int) -> Parameter:
    return Parameter("steps", whole_grid(most), whole=True)


def _neighbours(points: int) -> Parameter:
    # With k = N - 1 the longest context is used whole, and more neighbours change nothing.
    return Parameter("k", whole_grid(max(1, points - 1), 1.5), whole=True)
