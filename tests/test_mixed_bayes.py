"""Bayes' rule for sparse weights, mixtures of tasks and unknown noise, against enumeration and Monte Carlo."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from iclkit.errors import UserError
from iclkit.learners import (
    Averaging,
    BayesLinear,
    Lasso,
    LeastSquares,
    PoolPosterior,
    PosteriorMixture,
    ProbabilisticLearner,
    Ridge,
    SparseBayesLinear,
    bayes,
)
from iclkit.learners.regression_bayes import regression_bayes
from iclkit.tasks import (
    GaussianProcesses,
    LabelNoise,
    LinearPool,
    LinearRegression,
    NoiseLevels,
    Padded,
    Polynomials,
    RegressionTask,
    ReluNetworks,
    Scaled,
    Skewed,
    SparseLinearRegression,
    TaskMixture,
)


def data(task: RegressionTask, episodes: int = 3, points: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = task.sample(episodes, points, torch.Generator().manual_seed(seed))
    return x.double(), y.double()


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# Few non-zero weights


def by_enumeration(x: Tensor, y: Tensor, nonzero: int, noise: float, weight: float) -> tuple[Tensor, Tensor]:
    """Posterior mean of w and log evidence, from the covariance of all targets under every support."""
    dim = x.shape[-1]
    log_evidence, weights = [], []
    for support in itertools.combinations(range(dim), nonzero):
        prior = torch.zeros(dim, dtype=x.dtype)
        prior[list(support)] = weight**2
        covariance = (x * prior) @ x.mT + noise**2 * torch.eye(len(x), dtype=x.dtype)
        log_evidence.append(MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))
        weights.append(prior * (x.mT @ torch.linalg.solve(covariance, y)))
    evidence = torch.stack(log_evidence)
    mean = (evidence.softmax(0)[:, None] * torch.stack(weights)).sum(0)
    return mean, evidence.logsumexp(0) - math.log(len(evidence))


@pytest.mark.parametrize(("nonzero", "noise", "weight"), [(1, 0.5, 1.0), (2, 0.1, 1.0), (3, 0.5, 2.0)])
def test_sparse_posterior_is_the_sum_over_supports(nonzero: int, noise: float, weight: float) -> None:
    learner = SparseBayesLinear(nonzero, noise, weight)
    x, y = data(SparseLinearRegression(5, 2, 0.3))
    found, scores = learner.weights(x, y, range(9)), learner.log_prob(x, y)
    for b in range(3):
        close(found[b, 0], torch.zeros_like(found[b, 0]))
        for n in range(1, 9):
            mean, evidence = by_enumeration(x[b, :n], y[b, :n], nonzero, noise, weight)
            close(found[b, n], mean)
            close(scores[b, :n].sum(), evidence)


def test_noiseless_sparse_posterior_is_the_limit_of_little_noise() -> None:
    x, y = data(SparseLinearRegression(5, 2))
    found = SparseBayesLinear(2, 0.0).weights(x, y, range(4))
    for b in range(3):
        for n in range(1, 4):
            # Noise of 1e-5 moves what the enumeration says by some 1e-10, and its own rounding by 1e-6.
            close(found[b, n], by_enumeration(x[b, :n], y[b, :n], 2, 1e-5, 1.0)[0], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_one_pair_more_than_weights_tells_them(dtype: torch.dtype) -> None:
    task = SparseLinearRegression(12, 3)
    pairs = task.draw(40, 10, torch.Generator().manual_seed(0))
    x = pairs.x.to(dtype)
    weights = pairs.law.weights.to(dtype)  # pyright: ignore
    y = (x * weights[:, None]).sum(-1)
    found = cast("SparseBayesLinear", bayes(task)).weights(x, y, range(4, 11))
    # Nearly dependent inputs multiply the rounding of the targets; a wrong support is off by some 1.
    assert (found - weights[:, None]).abs().max() < (1e-2 if dtype == torch.float32 else 1e-6)


def test_all_weights_not_zero_is_linear_regression() -> None:
    x, y = data(LinearRegression(4, 0.5), points=9)
    close(SparseBayesLinear(4, 0.5, 2.0).predict(x, y), BayesLinear(0.5, 2.0).predict(x, y))
    close(SparseBayesLinear(4, 0.5, 2.0).log_prob(x, y), BayesLinear(0.5, 2.0).log_prob(x, y))
    # Without noise rounding counts as 1e-7 of noise.
    close(
        SparseBayesLinear(4, 0.0).predict(x[:, :5], y[:, :5]), LeastSquares().predict(x[:, :5], y[:, :5]), 1e-6
    )


def test_many_small_parts_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(SparseLinearRegression(6, 3, 0.3), episodes=5)
    learner = SparseBayesLinear(3, 0.3)
    whole, scores = learner.weights(x, y, [0, 3, 8]), learner.log_prob(x, y)
    monkeypatch.setattr("iclkit.learners.sparse_linear._HELD", 3 * 3**2)
    monkeypatch.setattr("iclkit.learners.prefixes._ON_CPU", 2 * 3 * 3**2)
    close(learner.weights(x, y, [0, 3, 8]), whole, 1e-12)
    close(learner.log_prob(x, y), scores, 1e-11)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_bayes_of_sparse_tasks_beats_what_knows_less(noise: float) -> None:
    """By more than five standard errors of the paired difference (a false alarm below 1e-6 each)."""
    task = SparseLinearRegression(8, 2, noise)
    x, y = task.sample(3000, 7, torch.Generator().manual_seed(0))
    best = (bayes(task).predict(x, y) - y).square().mean(1)
    wrong = [Ridge(noise**2), SparseBayesLinear(3, noise), Lasso(0.1), Averaging()]
    if noise:  # without, too few weights fit nothing, and are as wrong as rounding has it
        wrong.append(SparseBayesLinear(1, noise))
    for other in wrong:
        gain = (other.predict(x, y) - y).square().mean(1) - best
        assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5, other


# Several learners


def test_two_ridges_are_weighed_by_their_evidence() -> None:
    """With one feature and one pair by hand: p(y) = N(0, τ² x² + σ²)."""
    learner = PosteriorMixture((BayesLinear(1.0, 1.0), BayesLinear(0.5, 2.0)), (3.0, 1.0))
    x = torch.tensor([[[2.0], [1.0]]], dtype=torch.float64)
    y = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    variances = torch.tensor([4 + 1, 16 + 0.25]).double()
    shares = torch.tensor([3.0, 1.0]).double() * torch.exp(-4.5 / variances) / variances.sqrt()
    shares = shares / shares.sum()
    close(learner.posterior(x, y, [1])[:, 0, 0].exp(), shares)
    slopes = torch.tensor([6 / 5, 6 * 4 / 16.25], dtype=torch.float64)
    close(learner.predict(x, y)[0, 1], (shares * slopes).sum())


def test_weights_may_be_an_array() -> None:
    """Which has no truth value."""
    learners, x = (BayesLinear(1.0, 1.0), BayesLinear(0.5, 2.0)), torch.randn(1, 4, 2).double()
    array: Any = np.array([3.0, 1.0])
    expected = PosteriorMixture(learners, (3.0, 1.0)).posterior(x, x[..., 0], [3])
    close(PosteriorMixture(learners, array).posterior(x, x[..., 0], [3]), expected)
    tasks = (LinearRegression(2, 0.5), LinearRegression(2, 2.0))
    assert TaskMixture(tasks, array).noise_std == TaskMixture(tasks, (3.0, 1.0)).noise_std


def test_posterior_from_the_prior_to_the_right_one() -> None:
    learner = PosteriorMixture((BayesLinear(0.5, 1.0), BayesLinear(0.5, 3.0), BayesLinear(0.5, 0.3)))
    x, y = data(LinearRegression(4, 0.5, 3.0), episodes=20, points=40)
    close(learner.posterior(x, y, [0]).exp(), torch.full((3, 20, 1), 1 / 3, dtype=torch.float64))
    assert (learner.posterior(x, y, [40]).argmax(0) == 1).float().mean() > 0.8


def test_nested_mixtures_are_one() -> None:
    one, two, three = BayesLinear(0.5), SparseBayesLinear(1, 0.4), BayesLinear(1.0, 2.0)
    flat = PosteriorMixture((one, two, three), (2.0, 1.0, 1.0))
    nested = PosteriorMixture((one, PosteriorMixture((two, three))))
    x, y = data(LinearRegression(4, 0.5))
    close(nested.predict(x, y), flat.predict(x, y))
    close(nested.log_prob(x, y), flat.log_prob(x, y))
    close(nested.distribution(x, y).log_prob(y), flat.log_prob(x, y))


@pytest.mark.parametrize(
    ("learners", "weights", "message"),
    [
        ((), None, "at least one, given none"),
        ((Ridge(1.0),), None, "Ridge gives no distribution"),
        ((BayesLinear(1.0),), (1.0, 2.0), "weights must be 1, one a learner, given 2"),
        ((BayesLinear(1.0),), (0.0,), "finite and positive"),
        ((PoolPosterior(LinearPool(dim=3), 1.0), PoolPosterior(LinearPool(dim=4), 1.0)), None, "one dimension"),
    ],
)
def test_mixtures_that_make_no_sense(learners: tuple, weights: tuple | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PosteriorMixture(learners, weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseBayesLinear(0, 1.0), "nonzero must be at least 1"),
        (lambda: SparseBayesLinear(1, -1.0), "noise_std must not be negative"),
        (lambda: SparseBayesLinear(1, 1.0, 0.0), "weight_std must be positive"),
        (lambda: SparseBayesLinear(5, 1.0).predict(*data(LinearRegression(4))), "at least 5 dimensions"),
        (lambda: SparseBayesLinear(15, 1.0).predict(*data(LinearRegression(30))), "155117520 supports"),
        (lambda: SparseBayesLinear(1, 0.0).log_prob(*data(LinearRegression(4))), "targets have no density"),
        (lambda: SparseBayesLinear(1, 0.0).distribution(*data(LinearRegression(4))), "no density"),
    ],
)
def test_sparse_settings_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


# The references of tasks

TASKS: list[RegressionTask] = [
    SparseLinearRegression(5, 2, 0.4),
    LabelNoise(Padded(Scaled(SparseLinearRegression(4, 2, 0.4), targets_factor=2.0), 6), 0.3),
    NoiseLevels(LinearRegression(4, 0.2, 1.5), 0.1, 3.0),
    LabelNoise(Scaled(NoiseLevels(LinearRegression(3)), 2.0, 2.0), 0.1),
    NoiseLevels(GaussianProcesses(1, noise_std=0.0), 0.1, 1.0),
    TaskMixture((LinearRegression(4, 0.5), SparseLinearRegression(4, 1, 0.2), LinearPool(6, 4)), (1, 2, 1)),
    Skewed(TaskMixture((LinearRegression(4, 0.5), NoiseLevels(SparseLinearRegression(4, 1), 0.1, 1.0)))),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_bayes_knows_how_far_it_is_off(task: RegressionTask) -> None:
    """Under the task's own law the predictive's values F_n(y_n) are uniform, and independent of each other.

    The mean of z² for z = Φ⁻¹(F) then lies within 5 standard deviations of 1, that of z of 0: a false alarm
    below 2e-6 a task. A wrong scale or noise by 6% is found.
    """
    learner = bayes(task)
    assert isinstance(learner, ProbabilisticLearner)
    x, y = task.sample(400, 10, torch.Generator().manual_seed(0))
    x, y = x.double(), y.double()
    place = learner.distribution(x, y).cdf(y).clamp(1e-12, 1 - 1e-12)
    z = math.sqrt(2) * torch.erfinv(2 * place - 1)
    count = z.numel()
    assert abs(z.square().sum() - count) < 5 * (2 * count) ** 0.5
    assert abs(z.sum()) < 5 * count**0.5


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_bayes_beats_linear_regression(task: RegressionTask) -> None:
    """In the log density by more than four standard errors (3e-5), unless the task is nothing but linear."""
    x, y = task.sample(2000, 10, torch.Generator().manual_seed(1))
    learner = cast("ProbabilisticLearner", bayes(task))
    gain = (learner.log_prob(x, y) - BayesLinear(task.noise_std).log_prob(x, y)).mean(1)
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_noise_is_integrated_to_the_stated_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task = NoiseLevels(LinearRegression(4), 0.01, 1.0)
    x, y = data(task, episodes=24, points=65)
    coarse = cast("ProbabilisticLearner", regression_bayes(task))
    monkeypatch.setattr("iclkit.learners.regression_bayes._NODES", 30)
    fine = cast("ProbabilisticLearner", regression_bayes(task))
    spread = fine.distribution(x, y).stddev
    assert ((coarse.predict(x, y) - fine.predict(x, y)).abs() / spread).max() < 1e-5
    assert (coarse.log_prob(x, y) - fine.log_prob(x, y)).abs().max() < 1e-3


def test_noise_of_one_level_is_that_noise() -> None:
    x, y = data(LinearRegression(4, 0.5))
    task = NoiseLevels(LinearRegression(4, 0.3), 0.4, 0.4)
    close(bayes(task).predict(x, y), BayesLinear(0.5).predict(x, y))


def test_a_mixture_of_one_task_is_that_task() -> None:
    x, y = data(LinearRegression(4, 0.5))
    close(bayes(TaskMixture((LinearRegression(4, 0.5),))).predict(x, y), BayesLinear(0.5).predict(x, y))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((LinearRegression(4, 0.5), Skewed(LinearRegression(4, 0.5))), "inputs of one law"),
        ((Skewed(LinearRegression(4, 0.5)), Skewed(LinearRegression(4, 0.5))), "inputs of one law"),
        ((Polynomials(noise_std=0.1), LinearRegression(1, 0.1)), "inputs of one law"),
        ((LinearRegression(4, 0.5), SparseLinearRegression(4, 1)), "without noise targets have no density"),
        ((LinearRegression(4, 0.5), ReluNetworks(4, noise_std=0.5)), "no exact reference is known for Relu"),
    ],
)
def test_mixtures_without_a_reference(tasks: tuple[RegressionTask, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bayes(TaskMixture(tasks))


def test_uniform_inputs_of_one_width_are_one_law() -> None:
    tasks = (Polynomials(noise_std=0.1), LinearRegression(1, 0.1, inputs_law="uniform"))
    assert isinstance(bayes(TaskMixture(tasks)), PosteriorMixture)
