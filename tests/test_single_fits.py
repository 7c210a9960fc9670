"""Fitted baselines: one component, rules of thumb, Dirichlet mixtures and averages, against their sources."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf
from sklearn.mixture import BayesianGaussianMixture

from iclkit.errors import UserError
from iclkit.learners import (
    AverageLearner,
    DensityLearner,
    DirichletMixtureLearner,
    KernelDensityLearner,
    RuleOfThumbLearner,
    ShrunkGaussianLearner,
    StudentLearner,
)

MEMBERS = [
    RuleOfThumbLearner(2),
    DirichletMixtureLearner(2),
    ShrunkGaussianLearner(2),
    StudentLearner(2),
    AverageLearner((StudentLearner(2), KernelDensityLearner(2))),
]


@pytest.fixture
def x() -> torch.Tensor:
    noise = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise @ torch.tensor([[1.0, 3.0], [0.0, 40.0]], dtype=torch.float64) + 100


@pytest.mark.parametrize("learner", MEMBERS, ids=lambda learner: type(learner).__name__)
class TestContract:
    def test_densities_integrate_to_one(self, learner: DensityLearner, x: torch.Tensor) -> None:
        grid = torch.linspace(-12, 12, 400, dtype=torch.float64)
        cells = torch.cartesian_prod(grid, grid) * x[:, :12].std((0, 1)) + x[:, :12].mean((0, 1))
        log_density = learner.predictives(x, [12]).log_prob(cells.expand(2, 1, -1, -1))
        area = float((grid[1] - grid[0]) ** 2 * x[:, :12].std((0, 1)).prod())
        # Student-t tails leave the box: 14 degrees of freedom at 12 standard deviations, below 1e-6.
        torch.testing.assert_close(
            log_density.exp().sum(-1) * area, torch.ones(2, 1).double(), rtol=0, atol=2e-3
        )

    def test_units_change_the_density_by_their_jacobian(self, learner: DensityLearner, x: torch.Tensor) -> None:
        units, shift = torch.tensor([1e3, 1e-3]).double(), torch.tensor([5.0, -2.0]).double()
        plain = learner.predictives(x, [5, 12]).log_prob(x[:, None].expand(-1, 2, -1, -1))
        moved = x * units + shift
        found = learner.predictives(moved, [5, 12]).log_prob(moved[:, None].expand(-1, 2, -1, -1))
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-6)

    def test_a_prefix_does_not_depend_on_what_follows(self, learner: DensityLearner, x: torch.Tensor) -> None:
        points = x[:, None, 12:]
        alone = learner.predictives(x[:, :8], [8]).log_prob(points)
        torch.testing.assert_close(
            learner.predictives(x, [3, 8]).log_prob(points.expand(-1, 2, -1, -1))[:, 1:], alone
        )

    def test_draws_have_the_mean_of_the_density(self, learner: DensityLearner, x: torch.Tensor) -> None:
        draws = learner.predictives(x, [15]).sample(20_000, torch.Generator().manual_seed(1))
        # One standard error is 1/140 of a standard deviation; the Student-t prior pulls means by under 1e-3.
        spread = x[:, :15].std(1)
        assert ((draws[:, 0].mean(1) - x[:, :15].mean(1)).abs() < 0.05 * spread).all()


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_rules_of_thumb_are_those_of_scipy(rule: str, x: torch.Tensor) -> None:
    expected = stats.gaussian_kde(x[0, :12].numpy().T, bw_method=rule).logpdf(x[0].numpy().T)
    found = RuleOfThumbLearner(2, rule).predictives(x, [12]).log_prob(x[:, None])[0, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # 1e-9 is added to the variances


def test_the_shrunk_gaussian_is_that_of_scikit_learn(x: torch.Tensor) -> None:
    context = x[0, :12]
    mean, std = context.mean(0), context.std(0, correction=0)
    fitted = LedoitWolf().fit(((context - mean) / std).numpy())
    z = ((x[0] - mean) / std).numpy()
    expected = stats.multivariate_normal(fitted.location_, fitted.covariance_).logpdf(z) - float(
        std.log().sum()
    )
    found = ShrunkGaussianLearner(2).predictives(x, [12]).log_prob(x[:, None])[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_student_predictive_is_the_ratio_of_marginal_likelihoods() -> None:
    """p(x_new | x) = p(x, x_new) / p(x), with the normal-inverse-Wishart evidence in closed form."""
    x = torch.randn(1, 7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = (x - x[:, :6].mean(1)) / x[:, :6].std(1, correction=0)  # standardising by the context changes nothing
    strength, dof, dim = 0.5, 6.0, 2

    def evidence(points: torch.Tensor) -> float:
        count = len(points)
        mean = points.mean(0)
        centred = points - mean
        psi = (dof - dim - 1) * torch.eye(dim).double()
        posterior = psi + centred.T @ centred + strength * count / (strength + count) * torch.outer(mean, mean)
        gammas = [
            float(torch.special.multigammaln(torch.tensor(v / 2).double(), dim)) for v in (dof + count, dof)
        ]
        return (
            -0.5 * count * dim * math.log(math.pi)
            + gammas[0]
            - gammas[1]
            + 0.5 * dof * float(torch.logdet(psi))
            - 0.5 * (dof + count) * float(torch.logdet(posterior))
            + 0.5 * dim * math.log(strength / (strength + count))
        )

    found = StudentLearner(2, strength, dof).predictives(x, [6]).log_prob(x[:, None, 6:])
    assert float(found) == pytest.approx(evidence(x[0]) - evidence(x[0, :6]), rel=1e-10)


def test_the_dirichlet_mixture_is_the_density_of_scikit_learns_means(x: torch.Tensor) -> None:
    context = x[0, :15]
    mean, std = context.mean(0), context.std(0, correction=0)
    fit = BayesianGaussianMixture(n_components=6, reg_covar=1e-3, max_iter=500, random_state=0)
    fit.fit(((context - mean) / std).numpy())
    z = ((x[0] - mean) / std).numpy()
    parts = zip(fit.weights_, fit.means_, fit.covariances_, strict=True)
    density = sum(w * stats.multivariate_normal(m, c).pdf(z) for w, m, c in parts)
    found = DirichletMixtureLearner(2).predictives(x, [15]).log_prob(x[:, None])[0, 0]
    np.testing.assert_allclose(found, np.log(density) - float(std.log().sum()), rtol=1e-7)


def test_averages_are_averages_of_densities(x: torch.Tensor) -> None:
    parts = StudentLearner(2), KernelDensityLearner(2)
    points = x[:, None, 12:]
    each = [part.predictives(x, [12]).log_prob(points).exp() for part in parts]
    found = AverageLearner(parts).predictives(x, [12]).log_prob(points).exp()
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentLearner(2, strength=0), "strength must be positive"),
        (lambda: StudentLearner(2, dof=3), "dof above dim \\+ 1 = 3"),
        (lambda: RuleOfThumbLearner(2, "scot"), "rule must be 'scott' or 'silverman', given 'scot'"),
        (lambda: DirichletMixtureLearner(2, max_components=0), "max_components must be at least 1"),
        (lambda: AverageLearner(()), "parts must be learners of one dimension"),
        (lambda: AverageLearner((StudentLearner(2), StudentLearner(3))), "given dimensions \\[2, 3\\]"),
    ],
)
def test_mistakes_are_told(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
