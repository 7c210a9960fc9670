"""Regression tasks: a contract that each registered one and each shift passes, and the closed forms of each."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks import (
    REGRESSION_TASKS,
    SHIFTS,
    DecisionTrees,
    DiagonalCovariance,
    FeatureFunctions,
    GaussianProcesses,
    HalfSubspace,
    LabelNoise,
    LinearFunctions,
    LinearPool,
    LinearRegression,
    NoiseLevels,
    OrthogonalQueries,
    Padded,
    PairsTask,
    Polynomials,
    QuadraticRegression,
    RandomOrthants,
    RegressionTask,
    ReluNetworks,
    RepeatedQueries,
    Scaled,
    SignClassification,
    SineCurves,
    Skewed,
    SparseLinearRegression,
    Standardised,
    TaskMixture,
    VariableDimension,
)
from iclkit.training.codec import decode, encode


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TABLES = NoiseLevels(
    Standardised(
        VariableDimension(
            TaskMixture(
                (LinearRegression(5), DecisionTrees(5), Padded(SineCurves(), 5), GaussianProcesses(5)),
                (3.0, 1.0, 1.0, 1.0),
            ),
            correlated=True,
        )
    )
)


def variants() -> list[RegressionTask]:
    """Every registered task as it comes, in one dimension where it can, with noise, shifted and nested."""
    tasks: list[RegressionTask] = [kind() for kind in REGRESSION_TASKS.values()]
    tasks += [kind(dim=1) for kind in (LinearRegression, ReluNetworks, DecisionTrees, QuadraticRegression)]
    tasks += [
        SparseLinearRegression(4, 2, noise_std=0.3),
        LinearRegression(3, 0.5, 2.0, "uniform", 0.5),
        Polynomials("chebyshev", 4),
        Polynomials("fourier", 0),
        GaussianProcesses(2, "matern52", noise_std=0.0, inputs_law="uniform"),
        GaussianProcesses(1, "periodic"),
        DiagonalCovariance(LinearRegression(2), (1.0, 4.0)),
        VariableDimension(ReluNetworks(4, noise_std=0.1), least=2, correlated=True),
        VariableDimension(ReluNetworks(4, noise_std=0.1), correlated=True, scattered=True),
        LabelNoise(NoiseLevels(LinearRegression(2))),
        TABLES,
    ]
    tasks += [shift(LinearRegression(3, 0.1)) for shift in SHIFTS.values()]
    tasks += [shift(DecisionTrees(3)) for shift in SHIFTS.values()]
    return tasks


@pytest.fixture(params=variants(), ids=repr)
def task(request: pytest.FixtureRequest) -> RegressionTask:
    return request.param


class TestContract:
    @pytest.mark.usefixtures("untouched_generators")
    def test_draws_are_a_function_of_the_generator(self, task: RegressionTask) -> None:
        first, again, other = (task.draw(5, 7, generator(seed)) for seed in (1, 1, 2))
        assert first.x.shape == (5, 7, task.dim)
        assert first.y.shape == (5, 7)
        assert first.x.dtype == first.y.dtype == torch.float32
        assert first.x.isfinite().all()
        assert first.y.isfinite().all()
        assert torch.equal(first.x, again.x)
        assert torch.equal(first.y, again.y)
        assert not torch.equal(first.x, other.x)
        x, y = task.sample(5, 7, generator(1))
        assert torch.equal(first.x, x)
        assert torch.equal(first.y, y)
        queries = task.queries(first.x, generator(3))
        assert queries.shape == first.x.shape
        assert queries.isfinite().all()
        assert torch.equal(queries, task.queries(first.x, generator(3)))
        assert task.inputs(5, 7, generator(1)).shape == first.x.shape

    def test_members_are_values(self, task: RegressionTask) -> None:
        same = dataclasses.replace(task)  # type: ignore[type-var]
        task.draw(2, 3, generator())  # what is cached makes no difference
        assert task == same
        assert hash(task) == hash(same)

    def test_recipes_can_name_it(self, task: RegressionTask) -> None:
        assert decode(RegressionTask, json.loads(json.dumps(encode(task)))) == task

    def test_targets_are_the_law_and_noise(self, task: RegressionTask) -> None:
        pairs = task.draw(200, 20, generator(4))
        assert pairs.law is not None
        residual = pairs.y - pairs.law(pairs.x)
        if task.noise_std == 0:
            assert (residual == 0).all()
        else:
            # One z-statistic from the spread between episodes; passes 4.5 by chance once in 150,000.
            squares = residual.square().mean(1)
            z = (squares.mean() - task.noise_std**2) / squares.std() * math.sqrt(len(squares))
            assert abs(z) < 4.5

    def test_law_takes_any_axes_of_points_and_types(self, task: RegressionTask) -> None:
        pairs = task.draw(4, 6, generator(5))
        assert pairs.law is not None
        values = pairs.law(pairs.x)
        # Float32 sums in another order, or a Gaussian process's own tolerance.
        close: dict[str, Any] = {"atol": 1e-3, "rtol": 1e-4}
        torch.testing.assert_close(pairs.law(pairs.x[:, 2]), values[:, 2], **close)
        torch.testing.assert_close(pairs.law(pairs.x[:, :, None]), values[:, :, None], **close)
        torch.testing.assert_close(pairs.law(pairs.x.double()), values.double(), **close)

    def test_episodes_are_independent(self, task: RegressionTask) -> None:
        # The rank correlation of neighbours' targets, of 500 pairs: beyond 4.5/√500 once in 150,000.
        y = task.draw(1000, 2, generator(6)).y[:, 0].argsort().argsort().double()
        assert abs(torch.corrcoef(torch.stack([y[::2], y[1::2]]))[0, 1].item()) < 4.5 / math.sqrt(500)

    def test_active_coordinates(self, task: RegressionTask) -> None:
        for active in {1, max(1, task.dim - 1)}:
            pairs = task.draw(6, 9, generator(7), active)
            assert (pairs.x[..., active:] == 0).all()
            assert (pairs.x[..., 0] != 0).any()
            assert pairs.law is not None
            if task.noise_std == 0:
                torch.testing.assert_close(pairs.law(pairs.x), pairs.y, atol=1e-5, rtol=1e-5)
        assert torch.equal(task.draw(3, 4, generator(8), task.dim).x, task.draw(3, 4, generator(8)).x)
        for wrong in (0, task.dim + 1):
            with pytest.raises(UserError, match=f"1..{task.dim}, given {wrong}"):
                task.draw(3, 4, generator(), wrong)

    def test_refuses_to_draw_with_what_is_no_number_or_generator(self, task: RegressionTask) -> None:
        wrong: list[tuple[tuple[Any, ...], str]] = [
            ((2.5, 4), "episodes must be a whole number, given 2.5"),
            ((3, "4"), "points must be a whole number, given '4'"),
            ((3, -1), "points must be at least 0, given -1"),
            ((3, 4, 7), "generator must be a torch.Generator or None, given 7"),
            ((3, 4, None, 1.5), "active must be a whole number, given 1.5"),
        ]
        for arguments, message in wrong:
            with pytest.raises(UserError, match=message):
                task.draw(*arguments)
        counts: Any = np.array([3, 4])
        assert task.draw(counts[0], counts[1], generator()).y.shape == (3, 4)

    def test_refuses_fields_of_another_kind(self, task: RegressionTask) -> None:
        assert dataclasses.is_dataclass(task)
        for field in dataclasses.fields(task):
            kinds = {part.strip() for part in str(field.type).split("|")}
            wrong = ["a", 2.5] if "int" in kinds and "float" not in kinds else ["a"] if "float" in kinds else []
            for value in wrong if field.init else []:
                with pytest.raises(UserError, match=f"{field.name} .*given {value!r}"):
                    dataclasses.replace(task, **{field.name: value})


UNIFORM = LinearRegression(6, weight_std=2.0, inputs_law="uniform", half_width=0.5)
SPREADS: list[tuple[RegressionTask, float]] = [
    (LinearRegression(6), 6),
    (LinearRegression(6, noise_std=0.5, weight_std=2.0), 24.25),
    (UNIFORM, 6 * 4 * 0.25 / 3),
    (SparseLinearRegression(20), 3),
    (SignClassification(5), 1),
    (QuadraticRegression(6), 6),
    (Polynomials("fourier", 3), 1),
    (Polynomials("chebyshev", 5), 1),
    (SineCurves(), (5**3 - 0.1**3) / (3 * 4.9) / 2),
    (SineCurves(most=0.5), (0.5**3 - 0.1**3) / (3 * 0.4) / 2),
    (ReluNetworks(6), 6),
    (DecisionTrees(6), 1),
    (GaussianProcesses(3, variance=2.0, noise_std=0.5), 2.25),
    (TaskMixture((LinearRegression(4), DecisionTrees(4)), (1.0, 3.0)), (4 + 3 * 1) / 4),
    (VariableDimension(LinearRegression(4), correlated=True), 4),
    (Padded(SineCurves(), 3), (5**3 - 0.1**3) / (3 * 4.9) / 2),
    (NoiseLevels(LinearRegression(4), 0.1, 2.0), 4 + (4 - 0.01) / (2 * math.log(20))),
    (Scaled(LinearRegression(6), 1 / 3), 6 / 9),
    (Scaled(LinearRegression(6, 1.0), targets_factor=3.0), 54 + 1),
    (Skewed(LinearRegression(6)), 6),
    (HalfSubspace(LinearRegression(6)), 6),
    (DiagonalCovariance(LinearRegression(2), (1.0, 4.0)), 5),
    (DiagonalCovariance(LinearRegression(4)), 4),
    (LabelNoise(LinearRegression(6, 0.5), 1.0), 7.25),
    (RandomOrthants(LinearRegression(6)), 6),
]


@pytest.mark.parametrize(("task", "expected"), SPREADS, ids=lambda value: repr(value)[:80])
def test_mean_square_of_targets(task: RegressionTask, expected: float) -> None:
    # A z-statistic from the spread between 2,000 episodes; passes 4.5 by chance once in 150,000.
    squares = task.draw(2000, 8, generator(1)).y.double().square().mean(1)
    # (Where every episode has the same, as for signs, it must be the expected number.)
    assert abs(squares.mean().item() - expected) < 4.5 * squares.std().item() / math.sqrt(2000) + 1e-9


class TestLinear:
    def test_weights_are_normal(self) -> None:
        weights = LinearRegression(4, weight_std=2.0).functions(5000, generator()).weights
        # 20,000 numbers: the standard error of their standard deviation is 2/√40,000 = 0.01.
        assert weights.std().item() == pytest.approx(2.0, abs=0.045)

    def test_uniform_inputs(self) -> None:
        x = UNIFORM.inputs(500, 20, generator())
        assert x.abs().max() <= 0.5
        # 60,000 numbers, whose 2nd and 4th powers have standard deviations 0.0745 and 0.0167; 4.5 errors.
        assert x.square().mean().item() == pytest.approx(1 / 12, abs=0.0014)
        assert x.pow(4).mean().item() == pytest.approx(1 / 80, abs=0.00031)

    @pytest.mark.parametrize("active", [None, 5])
    def test_sparse_weights(self, active: int | None) -> None:
        task = SparseLinearRegression(20, 3)
        setting = task.setting(5000, 1, generator(), active)
        assert isinstance(setting.law, LinearFunctions)
        there = setting.law.weights != 0
        assert (there.sum(1) == 3).all()
        coordinates = active or 20
        assert not there[:, coordinates:].any()
        # Each coordinate is there with probability 3/k; 4.5 standard errors, of at most 20: once in 7,000.
        p = 3 / coordinates
        error = (there[:, :coordinates].double().mean(0) - p).abs()
        assert (error < 4.5 * math.sqrt(p * (1 - p) / 5000)).all()

    def test_signs(self) -> None:
        law = SignClassification(3).functions(4, generator())
        x = torch.randn(4, 50, 3, generator=generator(1))
        expected = torch.sign((x.double() * law.weights[:, None].double()).sum(-1))
        assert torch.equal(law(x), expected.float())
        assert (law(torch.zeros(4, 1, 3)) == 1).all()

    @pytest.mark.parametrize(
        ("kind", "fields", "words"),
        [
            (LinearRegression, {"dim": 0}, "dim"),
            (LinearRegression, {"noise_std": -1.0}, "noise_std"),
            (LinearRegression, {"noise_std": math.nan}, "noise_std"),
            (LinearRegression, {"weight_std": 0.0}, "weight_std"),
            (LinearRegression, {"inputs_law": "unifrom"}, "did you mean 'uniform'"),
            (LinearRegression, {"half_width": 0.0}, "half_width"),
            (SparseLinearRegression, {"dim": 2}, "1..2"),
            (SparseLinearRegression, {"nonzero": 0}, "nonzero"),
            (SignClassification, {"dim": 0}, "dim"),
            (QuadraticRegression, {"dim": 0}, "dim"),
            (Polynomials, {"basis": "legendre"}, "fourier"),
            (Polynomials, {"degree": -1}, "degree"),
            (SineCurves, {"least": 0.0}, "least"),
            (SineCurves, {"most": 0.05}, "exceed"),
            (ReluNetworks, {"hidden": 0}, "hidden"),
            (DecisionTrees, {"depth": 0}, "depth"),
            (DecisionTrees, {"depth": 40}, "1..16"),
            (GaussianProcesses, {"kernel": "matern"}, "did you mean 'matern"),
            (GaussianProcesses, {"length_scale": 0.0}, "length_scale"),
            (GaussianProcesses, {"inputs_law": "?"}, "inputs_law"),
            (LinearPool, {"size": 0}, "size"),
            (LinearPool, {"size": 2**20 + 1}, "1048576"),
            (Scaled, {"inputs_factor": 0.0}, "inputs_factor"),
            (LabelNoise, {"std": -1.0}, "std"),
            (DiagonalCovariance, {"variances": (1.0, 2.0)}, "variances must be 8"),
            (DiagonalCovariance, {"variances": (1.0,) * 7 + (-1.0,)}, r"variances\[7\]"),
            (VariableDimension, {"least": 9}, "1..8"),
            (Padded, {"size": 7}, "at least 8"),
            (NoiseLevels, {"least": 0.0}, "least"),
            (NoiseLevels, {"least": 2.0}, "exceed"),
            (TaskMixture, {"tasks": ()}, "given none"),
            (TaskMixture, {"tasks": (LinearRegression(2), LinearRegression(3))}, "2, 3"),
            (TaskMixture, {"weights": (1.0,)}, "weights must be 2"),
            (TaskMixture, {"weights": (1.0, 0.0)}, "positive"),
        ],
    )
    def test_refuses(self, kind: Any, fields: dict, words: str) -> None:
        with pytest.raises(UserError, match=words):
            kind(**fields)


class TestLinearPool:
    def test_episodes_come_from_members(self) -> None:
        pool = LinearPool(4, 3, seed=5)
        law = pool.functions(4000, generator())
        member = (law.weights[:, None] == pool.weights()).all(-1)
        assert (member.sum(-1) == 1).all()
        # 1,000 each, standard deviation 27: one of four passes 4.5 of them once in 37,000.
        assert (member.sum(0) - 1000).abs().max() < 123

    def test_pool_is_its_seeds(self) -> None:
        assert torch.equal(LinearPool(30).weights(), LinearPool(30).weights())
        assert not torch.equal(LinearPool(30).weights(), LinearPool(30, seed=1).weights())

    @pytest.mark.parametrize("dim", [1, 8])
    @pytest.mark.parametrize("size", [1, 5, 100, 4096])
    def test_a_pool_begins_a_larger_one(self, size: int, dim: int) -> None:
        assert torch.equal(LinearPool(10_000, dim).weights(0, size), LinearPool(size, dim).weights())

    def test_streaming(self) -> None:
        pool = LinearPool(1000)
        parts = [pool.weights(start, min(start + 300, 1000)) for start in range(0, 1000, 300)]
        assert torch.equal(torch.cat(parts), pool.weights())
        assert pool.weights(3, 5).untyped_storage().data_ptr() == pool.weights().untyped_storage().data_ptr()
        for start, stop in ((-1, 3), (5, 4), (0, 1001)):
            with pytest.raises(UserError, match=r"0\.\.1000"):
                pool.weights(start, stop)

    def test_the_largest(self) -> None:
        weights = LinearPool(2**20, 2).weights()
        assert weights.shape == (2**20, 2)
        # 2²¹ normal numbers: standard errors 0.0007 and 0.0005.
        assert weights.mean().item() == pytest.approx(0, abs=0.0032)
        assert weights.std().item() == pytest.approx(1, abs=0.0023)


class TestFunctions:
    """Each class of functions against a plain formula, one point at a time."""

    def test_relu_networks(self) -> None:
        law = ReluNetworks(3, 10).functions(2, generator())
        x = torch.randn(2, 5, 3, generator=generator(1))
        for b in range(2):
            for n in range(5):
                hidden = (law.inner[b].T @ x[b, n]).clamp(min=0)
                assert law(x)[b, n].item() == pytest.approx((hidden @ law.outer[b]).item(), abs=1e-5)

    @pytest.mark.parametrize("depth", [1, 4, 5])
    def test_decision_trees(self, depth: int) -> None:
        law = DecisionTrees(6, depth).functions(3, generator())
        assert law.leaves.shape == (3, 2**depth)
        x = torch.randn(3, 200, 6, generator=generator(1))
        values = law(x)
        for b in range(3):
            for n in range(200):
                node, place = 0, 0
                for _ in range(depth):
                    right = bool(x[b, n, law.coordinates[b, node]] > 0)
                    node, place = 2 * node + 1 + right, 2 * place + right
                assert values[b, n] == law.leaves[b, place]

    def test_trees_turn_left_at_zero(self) -> None:
        law = DecisionTrees(6).functions(3, generator())
        assert torch.equal(law(torch.zeros(3, 1, 6))[:, 0], law.leaves[:, 0])

    def test_sine_curves(self) -> None:
        task = SineCurves(least=1.0, most=3.0, half_width=2.0)
        law = task.functions(5000, generator())
        x = torch.tensor([[[0.0], [math.pi / 2]]]).expand(5000, -1, -1)
        sine, cosine = law(x).unbind(1)
        torch.testing.assert_close(sine.hypot(cosine), law.amplitude)
        assert 1 <= law.amplitude.min() < 1.01 < 2.99 < law.amplitude.max() <= 3
        # Phases of U(0, π): the sine at 0 is positive, the cosine of either sign.
        assert (sine >= 0).all()
        # 5,000 fair coins: standard deviation 0.0071.
        assert (cosine > 0).double().mean().item() == pytest.approx(0.5, abs=0.032)
        assert task.inputs(100, 10, generator()).abs().max() <= 2

    def test_quadratic(self) -> None:
        law = QuadraticRegression(3).functions(2, generator())
        assert isinstance(law, FeatureFunctions)
        x = torch.randn(2, 5, 3, generator=generator(1))
        expected = (law.weights[:, None] * x * x).sum(-1) / math.sqrt(3)
        torch.testing.assert_close(law(x), expected)

    def test_chebyshev(self) -> None:
        task = Polynomials("chebyshev", 6)
        x = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64)[:, None]
        expected = np.polynomial.chebyshev.chebvander(x[:, 0].numpy(), 6)
        np.testing.assert_allclose(task.features(x).numpy(), expected, atol=1e-12)
        assert task.feature_count == 7

    @pytest.mark.parametrize("basis", ["fourier", "chebyshev"])
    @pytest.mark.parametrize("degree", [0, 1, 6])
    def test_polynomials_have_variance_one(self, basis: Any, degree: int) -> None:
        task = Polynomials(basis, degree)
        nodes, weights = np.polynomial.legendre.leggauss(40)  # exact for polynomials; the waves here to 1e-9
        squares = task.features(torch.tensor(nodes)[:, None]).square().sum(-1)
        mean = (squares * torch.tensor(weights)).sum().item() / 2
        assert task.feature_weight_std**2 * mean == pytest.approx(1, abs=1e-9)

    def test_fourier_features_are_orthonormal(self) -> None:
        task = Polynomials("fourier", 5)
        x = (2 * torch.arange(64, dtype=torch.float64) / 64 - 1)[:, None]  # equal steps over a period: exact
        features = task.features(x)
        eye = torch.eye(task.feature_count, dtype=torch.float64)
        torch.testing.assert_close(features.T @ features / 64, eye, atol=1e-12, rtol=0)


class TestGaussianProcesses:
    @staticmethod
    def kernel(task: GaussianProcesses, x: Tensor) -> Tensor:
        """The covariance by scikit-learn."""
        from sklearn.gaussian_process.kernels import RBF, DotProduct, ExpSineSquared, Matern

        scale = task.length_scale
        kernel: Any = {
            "rbf": RBF(scale),
            "matern32": Matern(scale, nu=1.5),
            "matern52": Matern(scale, nu=2.5),
            "periodic": ExpSineSquared(scale, task.period),
            "linear": DotProduct(0) * scale**-2,
        }[task.kernel]
        return task.variance * torch.tensor(kernel(x.numpy()))

    @pytest.mark.parametrize(
        "task",
        [
            GaussianProcesses(1, "rbf", 0.7, 2.0),
            GaussianProcesses(3, "rbf", 1.5),
            GaussianProcesses(2, "matern32"),
            GaussianProcesses(2, "matern52", 1.3),
            GaussianProcesses(1, "periodic", 0.8, 1.5, 2.5),
            GaussianProcesses(2, "linear", 2.0),
        ],
        ids=repr,
    )
    def test_covariance_also_over_several_calls(self, task: GaussianProcesses) -> None:
        # 6 points for all of 4,000 episodes, revealed in three calls. Each of 21 entries is a z-statistic; one
        # of them passes 4.5 by chance once in 7,000.
        x = torch.randn(6, task.dim, generator=generator(3), dtype=torch.float64)
        law = task.functions(4000, generator(4))
        parts = [law(x[part].expand(4000, -1, -1)) for part in (slice(0, 3), slice(3, 5), slice(5, 6))]
        values = torch.cat(parts, 1)
        products = values[:, :, None] * values[:, None]
        error = products.mean(0) - self.kernel(task, x)
        assert (error.abs() < 4.5 * products.std(0) / math.sqrt(4000) + 1e-6).all()

    def test_calls_agree_on_one_function(self) -> None:
        law = GaussianProcesses().functions(20, generator())
        x = torch.randn(20, 30, 1, generator=generator(1))
        first = law(x)
        assert torch.equal(law(x.clone()), first)
        again = law(x.flip(1)).flip(1)
        # Nuggets of variance 1e-8 on both: differences of 1.4e-4 standard deviations; of 600, ten at most.
        assert (again - first).abs().max() < 2e-3
        assert (law(x[:, :5] + 1e-3) - first[:, :5]).abs().max() < 0.05
        other = GaussianProcesses().functions(20, generator(2))(x)
        assert (other - first).abs().mean() > 0.5

    def test_refuses_more_points_than_fit_into_memory(self) -> None:
        law = GaussianProcesses().functions(64, generator())
        with pytest.raises(UserError, match="at most 1448 points"):
            law(torch.zeros(64, 1449, 1))


class TestMixture:
    def test_members_by_their_weights(self) -> None:
        # Members that the inputs tell apart.
        members = (LinearRegression(2), LinearRegression(2, inputs_law="uniform", half_width=1e-3))
        x, _ = TaskMixture(members, (3.0, 1.0)).sample(4000, 8, generator())
        narrow = x.abs().amax((1, 2)) <= 1e-3
        # A quarter of 4,000: standard deviation 27.
        assert abs(narrow.sum().item() - 1000) < 123

    def test_each_episode_has_its_members_noise(self) -> None:
        quiet = LinearRegression(2, inputs_law="uniform", half_width=1e-3)
        task = TaskMixture((LinearRegression(2, noise_std=0.5), quiet))
        assert task.noise_std == pytest.approx(0.5 / math.sqrt(2))
        pairs = task.draw(200, 40, generator())
        assert pairs.law is not None
        noise = (pairs.y - pairs.law(pairs.x)).std(1)
        narrow = pairs.x.abs().amax((1, 2)) <= 1e-3
        assert (noise[narrow] == 0).all()
        # Standard deviations of 40 numbers: 0.5 ± 0.057; five of them.
        assert (noise[~narrow] - 0.5).abs().max() < 0.29


class TestTables:
    def test_number_of_columns(self) -> None:
        x = VariableDimension(LinearRegression(6), least=2).sample(5000, 3, generator())[0]
        used = (x != 0).any(1)
        columns = used.sum(-1)
        assert torch.equal(used, torch.arange(6) < columns[:, None])
        # 1,000 each, standard deviation 28: one of five passes 4.5 of them once in 30,000.
        assert (torch.bincount(columns, minlength=7)[2:] - 1000).abs().max() < 128

    def test_scattered_columns_stand_everywhere(self) -> None:
        x = VariableDimension(LinearRegression(6), scattered=True).sample(6000, 3, generator())[0]
        # Each place is used by 3.5 of 6 columns: 3500 ± 38; one of six passes 4.5 of that once in 25,000.
        assert ((x != 0).any(1).sum(0) - 3500).abs().max() < 172

    @pytest.mark.parametrize("scattered", [False, True])
    def test_missing_columns_do_not_matter_and_present_ones_do(self, scattered: bool) -> None:
        pairs = VariableDimension(LinearRegression(6), scattered=scattered).draw(200, 10, generator())
        assert pairs.law is not None
        missing = (pairs.x == 0).all(1, keepdim=True)
        assert torch.equal(pairs.law(pairs.x + missing), pairs.law(pairs.x))
        changes = torch.stack([pairs.law(pairs.x + step) for step in torch.eye(6)], -1) - pairs.y[..., None]
        assert torch.equal(changes[:, 0].abs() > 1e-5, ~missing[:, 0])

    def test_trees_are_not_constant(self) -> None:
        # Were the missing columns read, 7 of 8 questions would be about a 0 in every eighth episode.
        y = VariableDimension(DecisionTrees(8)).sample(1000, 50, generator())[1]
        assert ((y - y[:, :1]).abs().amax(1) > 0).all()

    def test_correlated_columns_keep_their_variance(self) -> None:
        x = VariableDimension(LinearRegression(4), least=4, correlated=True).sample(400, 500, generator())[0]
        second = torch.einsum("bni,bnj->bij", x, x) / 500
        # 1,600 mean squares, each ± √(2/500) = 0.063; five of them. Correlations do reach everywhere.
        diagonal = second.diagonal(dim1=1, dim2=2)
        assert (diagonal - 1).abs().max() < 0.32
        offset = second[:, 0, 1]
        assert offset.min() < -0.7
        assert offset.max() > 0.7

    @pytest.mark.parametrize("active", [None, 2])
    def test_standard_units(self, active: int | None) -> None:
        pairs = Standardised(VariableDimension(Scaled(LinearRegression(4), 3.0))).draw(
            50, 30, generator(), active
        )
        for values in (pairs.x, pairs.y):
            present = values.abs().amax(1) > 0
            mean, mean_square = values.mean(1), values.square().mean(1)
            # Float32 sums of 30 numbers.
            assert mean.abs().max() < 1e-5
            assert (mean_square[present] - 1).abs().max() < 1e-4
        assert (pairs.y != 0).any(1).all()

    def test_constants_become_zero(self) -> None:
        task = Standardised(LinearRegression(2))
        pairs = task.draw(5, 1, generator())
        assert (pairs.x == 0).all()
        assert (pairs.y == 0).all()
        with pytest.raises(UserError, match="depend on the points"):
            task.functions(3, generator())

    def test_noise_is_in_standard_units_too(self) -> None:
        setting = Standardised(LinearRegression(3, noise_std=2.0)).setting(40, 20, generator())
        inner = LinearRegression(3, noise_std=2.0).setting(40, 20, generator())
        expected = 2.0 / inner.law(inner.x).std(1, correction=0)
        torch.testing.assert_close(setting.noise_std, expected)

    def test_noise_levels_are_log_uniform(self) -> None:
        levels = NoiseLevels(LinearRegression(2), 0.01, 1.0).setting(5000, 1, generator()).noise_std
        assert isinstance(levels, Tensor)
        share = -levels.log10() / 2
        assert 0 <= share.min() < 0.01 < 0.99 < share.max() <= 1
        # The mean of 5,000 uniform numbers: standard error 0.0041.
        assert share.mean().item() == pytest.approx(0.5, abs=0.0185)

    def test_padding(self) -> None:
        pairs = Padded(SineCurves(), 3).draw(4, 5, generator())
        bare = SineCurves().draw(4, 5, generator())
        assert torch.equal(pairs.x, torch.nn.functional.pad(bare.x, (0, 2)))
        assert torch.equal(pairs.y, bare.y)


class TestShifts:
    def test_names(self) -> None:
        assert set(SHIFTS) >= {"skewed", "half-subspace", "label-noise", "orthogonal-query", "repeated-query"}
        assert len(SHIFTS) == 14
        for shift in SHIFTS.values():
            assert shift(LinearRegression(5)).dim == 5

    @pytest.mark.parametrize("name", ["third", "half", "double", "triple"])
    def test_scales(self, name: str) -> None:
        factor = {"third": 1 / 3, "half": 1 / 2, "double": 2, "triple": 3}[name]
        task = LinearRegression(4)
        plain = task.draw(3, 5, generator())
        for axis in "xy":
            scaled = SHIFTS[f"{axis}-{name}"](task).draw(3, 5, generator())
            torch.testing.assert_close(scaled.x, (factor if axis == "x" else 1) * plain.x)
            torch.testing.assert_close(scaled.y, factor * plain.y)

    def test_functions_stay(self) -> None:
        task = LinearRegression(4)
        for shift in (Skewed, HalfSubspace, RandomOrthants, OrthogonalQueries, RepeatedQueries, LabelNoise):
            law = shift(task).functions(3, generator())
            assert torch.equal(law.weights, task.functions(3, generator()).weights)  # type: ignore[attr-defined]

    def test_skewed_and_half_subspace(self) -> None:
        inverse_squares = 1 / torch.arange(1, 7).double().square()
        spectra = {
            Skewed: 6 * inverse_squares / inverse_squares.sum(),
            HalfSubspace: torch.tensor([2.0] * 3 + [0] * 3),
        }
        for shift, expected in spectra.items():
            x = shift(LinearRegression(6)).inputs(2, 20_000, generator()).double()
            found = torch.linalg.eigvalsh(x.mT @ x / 20_000).flip(-1)
            # Sample eigenvalues of 20,000 points: a relative error of about √(2/20,000) = 0.01; five of them.
            torch.testing.assert_close(found, expected.double().expand(2, -1), rtol=0.05, atol=1e-6)
            # The bases of two episodes differ.
            assert torch.linalg.matrix_norm(x[0].mT @ x[0] - x[1].mT @ x[1]) > 0.1 * 20_000

    def test_half_of_one_dimension_is_one(self) -> None:
        x = HalfSubspace(LinearRegression(1)).inputs(3, 4, generator())
        torch.testing.assert_close(x.abs(), LinearRegression(1).inputs(3, 4, generator()).abs())

    def test_diagonal_covariances(self) -> None:
        x = DiagonalCovariance(LinearRegression(3), (1.0, 4.0, 0.25)).inputs(100, 100, generator())
        # Mean squares of 10,000 numbers: a relative error of √(2/10,000) = 0.014.
        torch.testing.assert_close(x.square().mean((0, 1)), torch.tensor([1.0, 4.0, 0.25]), rtol=0.065, atol=0)
        random = DiagonalCovariance(LinearRegression(3)).inputs(4000, 2, generator())
        # E x⁴ = 3 E Λ² = 6 and E x_1² x_2² of two points of one episode = E Λ² = 2, Λ ~ Exp(1); z < 4.5.
        for products, expected in ((random.pow(4), 6), (random[:, :1].square() * random[:, 1:].square(), 2)):
            mean = products.mean((1, 2)).double()
            assert abs(mean.mean() - expected) < 4.5 * mean.std() / math.sqrt(4000)

    def test_random_orthants(self) -> None:
        task = RandomOrthants(LinearRegression(4))
        x = task.inputs(1000, 6, generator())
        assert (x.sign() == x[:, :1].sign()).all()
        queries = task.queries(x, generator(1))
        assert torch.equal(queries.abs(), x.abs())
        for signs in (x[:, 0].sign(), queries[:, 3].sign(), queries[:, 3].sign() * x[:, 0].sign()):
            # 4,000 fair coins: standard error 0.016, of three numbers.
            assert abs(signs.mean().item()) < 0.072

    def test_orthogonal_queries(self) -> None:
        task = OrthogonalQueries(LinearRegression(5))
        x = task.inputs(20, 8, generator())
        queries = task.queries(x, generator())
        products = torch.einsum("bnd,bmd->bnm", queries, x).tril(-1)
        # Float32, vectors of norm 2 and more, up to five projections.
        assert products.abs().max() < 2e-5
        torch.testing.assert_close(queries[:, :5].norm(dim=-1), x[:, :5].norm(dim=-1))
        assert (queries[:, 5:] == 0).all()
        # It is point n less its projection: on their side of the plane.
        assert ((queries * x).sum(-1)[:, :5] > 0).all()
        torch.testing.assert_close(queries[:, 0], x[:, 0])

    def test_repeated_queries(self) -> None:
        task = RepeatedQueries(LinearRegression(3))
        x = task.inputs(4000, 5, generator())
        same = (task.queries(x, generator(1))[:, :, None] == x[:, None]).all(-1)
        assert same[:, 0, 0].all()
        assert torch.equal(same.sum(-1), torch.ones(4000, 5, dtype=torch.long))
        assert not same[:, 1:].triu(1).any()
        # Query 4 repeats each of four points 1,000 times, ± 27; one passes 4.5 of them once in 37,000.
        assert (same[:, 4, :4].sum(0) - 1000).abs().max() < 123


class TestPairsTask:
    def test_episodes_are_distinct_rows(self) -> None:
        x = torch.arange(20.0).reshape(10, 2)
        pairs = PairsTask(x, x[:, 0] + 1).draw(50, 10, generator())
        assert pairs.law is None
        assert torch.equal(pairs.y, pairs.x[..., 0] + 1)
        assert torch.equal(pairs.y.sort(-1).values, (x[:, 0] + 1).expand(50, -1))
        assert not torch.equal(pairs.y[0], pairs.y[1])
        assert (PairsTask(x, x[:, 0]).draw(3, 4, generator(), active=1).x[..., 1] == 0).all()

    def test_takes_numpy_and_integers(self) -> None:
        task = PairsTask(np.ones((3, 2)), [1, 2, 3])  # type: ignore[arg-type]
        x, y = task.sample(1, 2, generator())
        assert x.dtype == y.dtype == torch.float64
        assert PairsTask([[1], [2]], [1, 2]).sample(1, 2)[0].dtype == torch.float32  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("x", "y", "words"),
        [
            (torch.zeros(3), torch.zeros(3), r"x\[:, None\]"),
            (torch.zeros(0, 2), torch.zeros(0), "shape"),
            (torch.zeros(3, 2), torch.zeros(2), r"y must have shape \[3\].*given \[2\]"),
            (torch.zeros(3, 2), torch.zeros(3, 1), r"y\[:, 0\]"),
            (
                torch.tensor([[0.0, 1.0], [2.0, math.nan]]),
                torch.zeros(2),
                "x must be finite, .* row 1, column 1",
            ),
            (torch.zeros(2, 2), torch.tensor([0.0, math.inf]), "y must be finite, .* row 1 "),
            (np.array([["a", "b"]]), [0.0], "x must be numeric"),
            ([[1.0], [2.0]], ["a", "b"], "y must be numeric"),
            ([[1.0], [2.0, 3.0]], [0.0, 1.0], "rectangular"),
            (torch.zeros(2, 2, dtype=torch.complex64), torch.zeros(2), "real"),
        ],
    )
    def test_refuses(self, x: Any, y: Any, words: str) -> None:
        with pytest.raises(UserError, match=words):
            PairsTask(x, y)

    def test_refuses_what_a_table_does_not_have(self) -> None:
        task = PairsTask(torch.zeros(3, 2), torch.zeros(3))
        with pytest.raises(UserError, match="given 3"):
            task.sample(1, 4)
        with pytest.raises(UserError, match=r"1\.\.2"):
            task.draw(1, 2, active=3)
        with pytest.raises(UserError, match="unknown"):
            Scaled(task).draw(1, 2)
        with pytest.raises(UserError, match="not registered"):
            encode(task)
