"""The fitted baselines against scikit-learn, their units, and what they refuse."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

from iclkit.errors import UserError
from iclkit.learners import DensityLearner, GaussianMixtureLearner, KernelDensityLearner
from iclkit.tasks import BroadMixtures


def data(episodes: int = 4, points: int = 24, dim: int = 2, seed: int = 0) -> torch.Tensor:
    return BroadMixtures(dim=dim).sample(episodes, points, torch.Generator().manual_seed(seed)).double()


@pytest.fixture(params=[KernelDensityLearner, GaussianMixtureLearner], ids=lambda kind: kind.__name__)
def learner(request: pytest.FixtureRequest) -> DensityLearner:
    return request.param(2)


class TestContract:
    @pytest.mark.usefixtures("untouched_generators")
    def test_integrates_to_one(self, learner: DensityLearner) -> None:
        x = data(2, 16)
        axis = torch.linspace(-10, 10, 401, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis).expand(2, 2, -1, -1)
        mass = learner.predictives(x, [4, 16]).log_prob(grid).exp().sum(-1) * (axis[1] - axis[0]) ** 2
        # A step of 0.05 against kernels of 0.03 to 2 standard deviations, and a box of ±10.
        torch.testing.assert_close(mass, torch.ones(2, 2, dtype=torch.float64), atol=0.02, rtol=0)

    def test_data_keep_their_units(self, learner: DensityLearner) -> None:
        # y = s x + c, column by column: log p_y(s x + c) = log p_x(x) - Σ log |s|.
        x, scale, shift = data(), torch.tensor([100.0, 0.01]).double(), torch.tensor([5.0, -3.0]).double()
        points = torch.randn(4, 2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        plain = learner.predictives(x, [8, 24]).log_prob(points)
        moved = learner.predictives(x * scale + shift, [8, 24]).log_prob(points * scale + shift)
        # Rounding of the standardised data passes through EM's iterations, which may enlarge it.
        torch.testing.assert_close(moved, plain - scale.log().sum(), atol=1e-6, rtol=0)

    def test_prefix_knows_nothing_of_later_points(self, learner: DensityLearner) -> None:
        x, points = data(), data(points=5, seed=1)[:, None]
        alone = learner.predictives(x[:, :9], [9]).log_prob(points)
        assert torch.equal(learner.predictives(x, [24, 9]).log_prob(points.expand(-1, 2, -1, -1))[:, 1:], alone)

    def test_draws_follow_the_density(self, learner: DensityLearner) -> None:
        # The mean of log p over draws against quadrature of p log p: 4.5 standard errors, once in 150,000.
        x = data(1, 20)
        predictive = learner.predictives(x, [20])
        scores = predictive.log_prob(predictive.sample(20_000, torch.Generator().manual_seed(2)))
        axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
        log_p = predictive.log_prob(torch.cartesian_prod(axis, axis)[None, None])
        expected = (log_p.exp() * log_p).sum() * (axis[1] - axis[0]) ** 2
        assert abs(scores.mean() - expected) < 4.5 * scores.std() / math.sqrt(20_000) + 2e-3

    def test_refuses(self, learner: DensityLearner) -> None:
        with pytest.raises(UserError, match="at least 2 points"):
            learner.predictives(data(), [1, 5])
        with pytest.raises(UserError, match="constant column, given one at column 1"):
            learner.predictives(torch.tensor([[[1.0, 2.0], [3.0, 2.0]]]), [2])
        with pytest.raises(UserError, match="shape"):
            learner.predictives(data(dim=3), [5])


class TestKernelDensity:
    @pytest.mark.parametrize(("points", "folds"), [(24, 5), (23, 5), (7, 7), (4, 5)])
    def test_against_scikit_learn(self, points: int, folds: int) -> None:
        x, candidates = data(3, points), data(3, 6, seed=9)
        learner = KernelDensityLearner(2, folds=folds)
        scored = learner.predictives(x, [points]).log_prob(candidates[:, None])[:, 0]
        grid = np.logspace(math.log10(learner.smallest), math.log10(learner.largest), learner.grid)
        for episode in range(3):
            mean, std = x[episode].mean(0), x[episode].std(0, correction=0)
            z = ((x[episode] - mean) / std).numpy()
            # `score` sums over a fold, and GridSearchCV weighs folds alike: refit on scores per point instead.
            search = GridSearchCV(
                KernelDensity(), {"bandwidth": grid}, cv=KFold(min(folds, points)), refit=False
            )
            search.fit(z)
            splits = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(min(folds, points))])
            best = KernelDensity(bandwidth=grid[splits.sum(0).argmax()]).fit(z)
            expected = best.score_samples(((candidates[episode] - mean) / std).numpy()) - std.log().sum().item()
            np.testing.assert_allclose(scored[episode].numpy(), expected, atol=1e-8)

    def test_batch_is_a_loop_over_episodes(self) -> None:
        x, candidates = data(5, 12), data(5, 3, seed=9)[:, None]
        learner = KernelDensityLearner(2)
        one_by_one = [learner.predictives(x[i : i + 1], [12]).log_prob(candidates[i : i + 1]) for i in range(5)]
        whole = learner.predictives(x, [12]).log_prob(candidates)
        torch.testing.assert_close(whole, torch.cat(one_by_one), atol=1e-10, rtol=0)

    @pytest.mark.parametrize("field", [{"folds": 1}, {"grid": 0}, {"smallest": 3.0}, {"smallest": 0.0}])
    def test_refuses(self, field: dict) -> None:
        with pytest.raises(UserError, match="needs folds"):
            KernelDensityLearner(2, **field)


class TestGaussianMixture:
    def test_against_scikit_learn(self) -> None:
        x, candidates = data(2, 30), data(2, 6, seed=9)
        learner = GaussianMixtureLearner(2, max_components=3)
        scored = learner.predictives(x, [30]).log_prob(candidates[:, None])[:, 0]
        for episode in range(2):
            mean, std = x[episode].mean(0), x[episode].std(0, correction=0)
            z = ((x[episode] - mean) / std).numpy()
            fits = [GaussianMixture(k, n_init=2, reg_covar=1e-3, random_state=0).fit(z) for k in (1, 2, 3)]
            best = min(fits, key=lambda fit: fit.bic(z))
            expected = best.score_samples(((candidates[episode] - mean) / std).numpy()) - std.log().sum().item()
            np.testing.assert_allclose(scored[episode].numpy(), expected, atol=1e-8)

    def test_finds_three_far_clusters(self) -> None:
        g = torch.Generator().manual_seed(0)
        centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]).repeat(20, 1)
        x = (centres + torch.randn(60, 2, generator=g))[None]
        predictive = GaussianMixtureLearner(2).predictives(x, [60])
        assert (predictive.log_weights > -math.inf).sum() == 3  # type: ignore[attr-defined]

    def test_repeated_points_are_no_error(self) -> None:
        x = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(8, 1)[None]
        assert GaussianMixtureLearner(2).predictives(x, [16]).log_prob(x[:, None]).isfinite().all()

    def test_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
        with pytest.raises(UserError, match=r"iclkit\[sklearn\]"):
            GaussianMixtureLearner(2).predictives(data(), [5])
