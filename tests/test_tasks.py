"""Task distributions: a contract that each registered one passes, and the closed forms of each."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from iclkit.errors import UserError
from iclkit.tasks import (
    TASKS,
    ArrayTask,
    BroadMixtures,
    ConjugateMixtures,
    DensityTask,
    FinitePool,
    GaussianMixtures,
    Mixtures,
)
from iclkit.tasks.small_matrices import cholesky, exp_symmetric, invert_lower, orthogonal, triangularise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def variants() -> list[DensityTask]:
    """Every registered task as it comes, and in other dimensions where it has them."""
    tasks: list[DensityTask] = [kind() for kind in TASKS.values()]
    tasks += [
        dataclasses.replace(task, dim=dim)  # type: ignore[type-var]
        for task in tasks
        if "dim" in {field.name for field in dataclasses.fields(task)}  # type: ignore[arg-type]
        for dim in (1, 3)
    ]
    return tasks


@pytest.fixture(params=variants(), ids=repr)
def task(request: pytest.FixtureRequest) -> DensityTask:
    return request.param


class TestContract:
    @pytest.mark.usefixtures("untouched_generators")
    def test_draws_are_a_function_of_the_generator(self, task: DensityTask) -> None:
        first, again, other = (task.draw(5, 7, generator(seed)) for seed in (1, 1, 2))
        assert first.x.shape == (5, 7, task.dim)
        assert first.x.isfinite().all()
        assert torch.equal(first.x, again.x)
        assert not torch.equal(first.x, other.x)
        assert torch.equal(first.x, task.sample(5, 7, generator(1)))

    def test_members_are_values(self, task: DensityTask) -> None:
        assert task == dataclasses.replace(task)  # type: ignore[type-var]
        assert hash(task) == hash(dataclasses.replace(task))  # type: ignore[type-var]

    def test_law_is_the_law_of_the_points(self, task: DensityTask) -> None:
        # Under the true law, whitened points have mean 0 and covariance I. 100 episodes of 400 points; each of
        # at most 12 z-statistics, from the spread between episodes, passes 4.5 by chance once in 150,000.
        episodes = task.draw(100, 400, generator(3))
        law = episodes.law
        assert isinstance(law, Mixtures)
        mean, covariance = law.moments()
        z = torch.einsum("bij,bnj->bni", invert_lower(cholesky(covariance)), episodes.x - mean[:, None])
        products = torch.cat((z, (z[..., :, None] * z[..., None, :]).flatten(2)), -1).mean(1)
        expected = torch.cat((torch.zeros(task.dim), torch.eye(task.dim).flatten()))
        error = products.mean(0) - expected
        assert (error.abs() < 4.5 * products.std(0) / math.sqrt(len(products))).all()


@pytest.mark.parametrize("task", [task for task in variants() if task.dim == 1], ids=repr)
def test_law_integrates_to_one(task: DensityTask) -> None:
    law = task.draw(20, 1, generator(4)).law
    assert isinstance(law, Mixtures)
    mean, covariance = law.moments()
    # ±12 standard deviations of the mixture in 100,000 steps: a tenth of the narrowest component or less.
    grid = torch.linspace(-12, 12, 100_001)[None, :, None] * covariance.sqrt() + mean[:, None]
    mass = torch.trapezoid(law.log_prob(grid).exp().squeeze(-1), grid.squeeze(-1), dim=-1)
    torch.testing.assert_close(mass, torch.ones(20), atol=1e-3, rtol=0)


class TestMixtures:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_log_prob(self, dim: int) -> None:
        g = generator()
        factor = torch.randn(4, 3, dim, dim, dtype=torch.float64, generator=g).tril(-1) + 0.7 * torch.eye(dim)
        means = torch.randn(4, 3, dim, dtype=torch.float64, generator=g)
        log_weights = torch.randn(4, 3, dtype=torch.float64, generator=g).log_softmax(-1)
        x = torch.randn(4, 2, 5, dim, dtype=torch.float64, generator=g)
        reference = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=log_weights),
            torch.distributions.MultivariateNormal(means, scale_tril=factor),
        )
        expected = reference.log_prob(x.movedim(0, 2)).movedim(2, 0)
        torch.testing.assert_close(
            Mixtures(log_weights, means, factor).log_prob(x), expected, atol=1e-10, rtol=0
        )

    def test_log_prob_in_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        law = GaussianMixtures().laws(7, generator())
        x = law.sample(9, generator(1))
        whole = law.log_prob(x)
        monkeypatch.setattr("iclkit.tasks.mixtures.CHUNK", 60)  # two episodes of 9 points × 3 components
        # Equal but for the order of float32 sums.
        torch.testing.assert_close(law.log_prob(x), whole, atol=1e-5, rtol=0)
        assert law.log_prob(x[:, :0]).shape == (7, 0)

    def test_affine(self) -> None:
        law = BroadMixtures().draw(6, 1, generator()).law
        assert isinstance(law, Mixtures)
        law = law.to(torch.zeros((), dtype=torch.float64))
        matrix = torch.randn(6, 2, 2, dtype=torch.float64, generator=generator(1))
        shift = torch.randn(6, 2, dtype=torch.float64, generator=generator(2))
        x = law.sample(5, generator(3))
        image = torch.einsum("bij,bnj->bni", matrix, x) + shift[:, None]
        expected = law.log_prob(x) - torch.linalg.slogdet(matrix).logabsdet[:, None]
        torch.testing.assert_close(law.affine(matrix, shift).log_prob(image), expected, atol=1e-9, rtol=0)


class TestSmallMatrices:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_against_lapack(self, dim: int) -> None:
        matrix = torch.randn(500, dim, dim, dtype=torch.float64, generator=generator())
        covariance = matrix @ matrix.mT + 0.1 * torch.eye(dim)
        lower = torch.linalg.cholesky(covariance)
        tight = {"atol": 1e-9, "rtol": 1e-9}  # condition numbers up to 1e4 in float64
        torch.testing.assert_close(cholesky(covariance), lower, **tight)
        torch.testing.assert_close(triangularise(matrix), torch.linalg.cholesky(matrix @ matrix.mT), **tight)
        torch.testing.assert_close(invert_lower(lower), torch.linalg.inv(lower), **tight)
        symmetric = 0.5 * (matrix + matrix.mT)
        torch.testing.assert_close(exp_symmetric(symmetric), torch.linalg.matrix_exp(symmetric), **tight)
        q, reference = orthogonal(matrix), torch.linalg.qr(matrix).Q
        torch.testing.assert_close((q.mT @ reference).abs(), torch.eye(dim).double().expand_as(q), **tight)

    def test_exponential_of_multiples_of_the_identity(self) -> None:
        exact = torch.diag_embed(torch.tensor([[1.0, 1.0], [math.e, math.e]]))
        torch.testing.assert_close(
            exp_symmetric(torch.diag_embed(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))), exact
        )


@pytest.mark.parametrize(
    "task", [BroadMixtures(), ConjugateMixtures(), ConjugateMixtures(concentration=4.0)], ids=repr
)
def test_weights_are_dirichlet(task: BroadMixtures | ConjugateMixtures) -> None:
    # E Σ w² = (α + 1)/(K α + 1), averaged over K = 1..6. One of three z-statistics passes 4.5 once in 50,000.
    law = task.draw(20_000, 1, generator(1)).law
    assert isinstance(law, Mixtures)
    squares = law.log_weights.double().exp().square().sum(-1)
    alpha = task.concentration
    expected = sum((alpha + 1) / (k * alpha + 1) for k in range(1, 7)) / 6
    assert abs(squares.mean().item() - expected) < 4.5 * squares.std().item() / math.sqrt(len(squares))


class TestGaussianMixtures:
    def test_published_prior(self) -> None:
        assert GaussianMixtures() == GaussianMixtures(components=3, dim=2, mean_std=5.0, std=0.33)
        law = GaussianMixtures().laws(20_000, generator())
        assert torch.allclose(law.log_weights.exp(), torch.tensor(1 / 3))
        # 120,000 normal numbers: the standard error of their standard deviation is 5/sqrt(240,000) = 0.010.
        assert law.means.std().item() == pytest.approx(5.0, abs=0.045)

    @pytest.mark.parametrize("field", [{"components": 0}, {"dim": 0}, {"mean_std": 0.0}, {"std": -1.0}])
    def test_refuses(self, field: dict) -> None:
        with pytest.raises(UserError, match=next(iter(field))):
            GaussianMixtures(**field)


class TestBroadMixtures:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_is_standardised_without_jitter(self, dim: int) -> None:
        task = BroadMixtures(dim=dim, jitter=0.0)
        mean, covariance = task.mixtures(task.sample_latent(200, generator()).double()).moments()
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
        torch.testing.assert_close(covariance, torch.eye(dim).double().expand_as(covariance), atol=1e-9, rtol=0)

    def test_log_prior_is_the_density_of_the_latents(self) -> None:
        task = BroadMixtures(max_components=3)
        latent = task.sample_latent(50, generator()).double()
        k = task.max_components
        one = torch.ones((), dtype=torch.float64)
        gamma = torch.distributions.Gamma(task.concentration * one, one)
        normal = torch.distributions.Normal(0 * one, one)
        log_gamma = latent[:, 1 : 1 + k]
        # The density of log g is that of g times g.
        expected = (gamma.log_prob(log_gamma.exp()) + log_gamma).sum(-1) + normal.log_prob(
            latent[:, 1 + k :]
        ).sum(-1)
        difference = task.log_prior(latent) - expected
        torch.testing.assert_close(difference, difference[:1].expand(50), atol=1e-9, rtol=0)
        latent[:, 0] = 1.0
        assert (task.log_prior(latent) == -math.inf).all()

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_component_coordinates(self, dim: int) -> None:
        # Exchanging two components' coordinates exchanges the components: the density stays.
        task = BroadMixtures(max_components=4, dim=dim)
        latent = task.sample_latent(30, generator()).double()
        latent[:, 0] = 0.99  # all present
        own = task.component_coordinates()
        swapped = latent.clone()
        swapped[:, own[1]], swapped[:, own[3]] = latent[:, own[3]], latent[:, own[1]]
        x = torch.randn(30, 5, dim, dtype=torch.float64, generator=generator(1))
        before, after = task.mixtures(latent), task.mixtures(swapped)
        torch.testing.assert_close(before.log_prob(x), after.log_prob(x), atol=1e-9, rtol=0)
        torch.testing.assert_close(before.means[:, 1], after.means[:, 3], atol=1e-9, rtol=0)
        assert len(own.unique()) == own.numel()

    def test_number_of_components_is_uniform(self) -> None:
        task = BroadMixtures()
        law = task.mixtures(task.sample_latent(6000, generator()))
        count = (law.log_weights > -math.inf).sum(-1)
        # 1,000 each, standard deviation 29: one of six passes 4.5 of them once in 25,000.
        assert (torch.bincount(count, minlength=7)[1:] - 1000).abs().max() < 130

    def test_refuses(self) -> None:
        with pytest.raises(UserError, match="max_components"):
            BroadMixtures(max_components=0)
        with pytest.raises(UserError, match="concentration"):
            BroadMixtures(concentration=0.0)


class TestConjugateMixtures:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_precisions_are_wishart(self, dim: int) -> None:
        # Σ⁻¹ ~ Wishart(ν, I/ψ): its mean is (ν/ψ) I, and the variance of its entries (ij) is ν (1 + δ_ij)/ψ².
        task = ConjugateMixtures(dim=dim, max_components=2)
        law = task.laws(10_000, generator()).to(torch.zeros((), dtype=torch.float64))
        covariance = law.scale_tril @ law.scale_tril.mT
        precision = torch.linalg.inv(covariance).flatten(0, 1)
        eye = torch.eye(dim, dtype=torch.float64)
        error = precision.mean(0) - task.dof / task.scale * eye
        spread = (task.dof * (1 + eye)).sqrt() / task.scale / math.sqrt(len(precision))
        # At most 9 numbers, each beyond 4.5 once in 150,000.
        assert (error.abs() < 4.5 * spread).all()
        # And strength (μᵀ Σ⁻¹ μ) is chi² with d degrees of freedom.
        whitened = (
            torch.linalg.solve_triangular(law.scale_tril, law.means[..., None], upper=False)
            .square()
            .sum((-2, -1))
        )
        error = (task.strength * whitened).mean().item() - dim
        assert abs(error) < 4.5 * math.sqrt(2 * dim / whitened.numel())

    def test_defaults_are_standardised(self) -> None:
        task = ConjugateMixtures()
        assert task.std**2 * (1 + 1 / task.strength) == pytest.approx(1.0, abs=2e-3)  # std has three digits

    @pytest.mark.parametrize("field", ["max_components", "dim", "concentration", "std", "tail", "strength"])
    def test_refuses(self, field: str) -> None:
        with pytest.raises(UserError, match=field):
            ConjugateMixtures(**{field: 0})


class TestFinitePool:
    def test_episodes_come_from_members(self) -> None:
        pool = FinitePool(GaussianMixtures(), size=4, seed=5)
        law = pool.draw(4000, 1, generator()).law
        assert isinstance(law, Mixtures)
        member = (law.means[:, None] == pool.laws.means).all(-1).all(-1)
        assert (member.sum(-1) == 1).all()
        # 1,000 each, standard deviation 27: one of four passes 4.5 of them once in 37,000.
        assert (member.sum(0) - 1000).abs().max() < 123

    def test_pool_is_its_seeds(self) -> None:
        assert torch.equal(FinitePool(size=3).laws.means, FinitePool(size=3).laws.means)
        assert not torch.equal(FinitePool(size=3, seed=1).laws.means, FinitePool(size=3).laws.means)
        assert FinitePool(BroadMixtures(dim=3), 2).dim == 3

    def test_refuses(self) -> None:
        with pytest.raises(UserError, match="size"):
            FinitePool(size=0)
        with pytest.raises(UserError, match="ArrayTask"):
            _ = FinitePool(ArrayTask(torch.zeros(3, 2)), 2).laws


class TestArrayTask:
    def test_episodes_are_distinct_rows(self) -> None:
        array = torch.arange(20.0).reshape(10, 2)
        episodes = ArrayTask(array).draw(50, 10, generator())
        assert episodes.law is None
        rows = episodes.x[..., 0] / 2
        assert torch.equal(rows.sort(-1).values, torch.arange(10.0).expand(50, -1))
        assert not torch.equal(rows[0], rows[1])
        # Every row is first equally often: 100 of 1,000, standard deviation 9.5; 4.5 of them once in 15,000.
        first = ArrayTask(array).draw(1000, 3, generator(1)).x[:, 0, 0] / 2
        assert (torch.bincount(first.long(), minlength=10) - 100).abs().max() < 43

    def test_takes_numpy_and_integers(self) -> None:
        assert ArrayTask(np.ones((3, 2))).sample(1, 2).dtype == torch.float64  # type: ignore[arg-type]
        assert ArrayTask([[1, 2], [3, 4]]).sample(1, 2).dtype == torch.float32  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (torch.zeros(3), r"array\[:, None\]"),
            (torch.zeros(0, 2), "shape"),
            (torch.tensor([[0.0, 1.0], [2.0, math.nan]]), "row 1, column 1"),
            (torch.tensor([[math.inf, 1.0]]), "row 0, column 0"),
            (np.array([["a", "b"]]), "numeric"),
            ([[1.0], [2.0, 3.0]], "rectangular"),
            (torch.zeros(2, 2, dtype=torch.complex64), "real"),
        ],
    )
    def test_refuses(self, array: object, words: str) -> None:
        with pytest.raises(UserError, match=words):
            ArrayTask(array)  # type: ignore[arg-type]

    def test_refuses_more_points_than_rows(self) -> None:
        with pytest.raises(UserError, match="given 3"):
            ArrayTask(torch.zeros(3, 2)).sample(1, 4)
