"""Training of regressors: objectives, curriculum, recipes, whole runs, and the learner that comes out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iclkit
from iclkit.cli.train import _options, _override
from iclkit.errors import UserError
from iclkit.learners import ProbabilisticLearner, RegressionLearner, Ridge
from iclkit.learners.trained_regression import (
    TrainedProbabilisticRegressor,
    TrainedRegressor,
    trained_regressor,
)
from iclkit.networks import MergedAttention
from iclkit.regression import (
    REGRESSION_OBJECTIVES,
    InContextRegressor,
    MixtureLikelihood,
    RegressionObjective,
    SquaredError,
    gaussian_mixture,
)
from iclkit.regression.mixture import MIN_STD
from iclkit.regression.units import Units
from iclkit.tasks import GaussianMixtures, LinearRegression, Pairs, TaskMixture
from iclkit.training import (
    RECIPES,
    Curriculum,
    EnergyConfig,
    OptimizerConfig,
    Recipe,
    RegressorConfig,
    Schedule,
    Trainer,
    checkpoint,
    draw_batch,
    export,
    recipe_named,
    train,
)
from iclkit.training.optimizers import Optimizers
from iclkit.training.regression_recipes import pool_sweep
from iclkit.training.trainer import _move

NOISE = 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(**changes: Any) -> Recipe:
    """A run of a second: Muon and Adam, averaged weights, two micro-batches, a curriculum with three stages."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "task": LinearRegression(dim=3, noise_std=NOISE),
        "objective": SquaredError(labels="law"),
        "network": RegressorConfig(dim=3, width=8, layers=1, heads=2, max_points=6, positions="learned"),
        "optimizer": OptimizerConfig(name="muon"),
        "episodes": 4,
        "accumulate": 2,
        "points": 7,
        "steps": 12,
        "ema": 0.9,
        "checkpoint_every": 5,
        "log_every": 3,
        "curriculum": Curriculum(dim=1, points=3, every=4),
    }
    return Recipe(**{**settings, **changes})


def density(**changes: Any) -> Recipe:
    """The same with a density of y, in the context's units, for fewer columns too."""
    network = RegressorConfig(dim=3, width=8, layers=1, heads=2, max_points=6, tokens="joined", components=2)
    settings: dict[str, Any] = {
        "objective": MixtureLikelihood(units="context"),
        "network": network,
        "standardise": True,
        "pads": True,
    }
    return tiny(**{**settings, **changes})


def assert_same(a: Path, b: Path) -> None:
    """The last checkpoints of two runs are equal bit for bit."""
    ours, theirs = (checkpoint.load(checkpoint.found(run)[-1]).tensors for run in (a, b))
    assert ours.keys() == theirs.keys()
    for name, group in ours.items():
        assert group.keys() == theirs[name].keys()
        assert all(torch.equal(value, theirs[name][key]) for key, value in group.items())


# Objectives


class Affine(nn.Module):
    """ŷ_n = wᵀx_n: a network that learns nothing in context, so that everything about it is closed form."""

    def __init__(self, dim: int = 3, components: int = 0) -> None:
        super().__init__()
        self.components = components
        self.weight = nn.Parameter(torch.arange(1.0, dim + 1, dtype=torch.float64) / dim)
        self.spread = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = x @ self.weight
        if not self.components:
            return mean[..., None]
        return torch.stack([torch.zeros_like(mean), mean, self.spread.expand_as(mean)], -1)

    def queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: Tensor) -> Tensor:
        assert x.shape[1] == y.shape[1] == int(prefixes.max())
        return self.forward(queries, y)


def batch(episodes: int = 5, points: int = 6, seed: int = 1, noise_std: float = NOISE) -> Pairs:
    pairs = LinearRegression(dim=3, noise_std=noise_std).draw(episodes, points, generator(seed))

    @dataclass(frozen=True)
    class Double:
        weights: Tensor

        def __call__(self, x: Tensor) -> Tensor:
            return torch.einsum("bnd,bd->bn", x, self.weights)

    return Pairs(pairs.x.double(), pairs.y.double(), Double(pairs.law.weights.double()))  # pyright: ignore


def gradient(objective: RegressionObjective, network: Affine, pairs: Pairs) -> Tensor:
    loss, metrics, state = objective(network, pairs, generator(), {})
    assert loss.isfinite()
    assert all(value.isfinite() for value in metrics.values())
    assert state == {}
    return torch.autograd.grad(loss, network.weight)[0]


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("labels", ["targets", "law"])
def test_squared_error_and_its_gradient(labels: Any, positions: Any) -> None:
    """d/dw mean (wᵀx - t)² = 2 mean (wᵀx - t) x."""
    network, pairs = Affine(), batch()
    label = pairs.y if labels == "targets" or pairs.law is None else pairs.law(pairs.x)
    chosen = slice(None) if positions == "all" else slice(-1, None)
    x, label = pairs.x[:, chosen], label[:, chosen]
    error = x @ network.weight - label
    objective = SquaredError(labels, positions)
    loss, metrics, _ = objective(network, pairs, generator(), {})
    # 1e-12: rounding in float64.
    assert loss.item() == pytest.approx(error.square().mean().item(), rel=1e-12)
    assert metrics["error_last"].item() == pytest.approx(error[:, -1].square().mean().item(), rel=1e-12)
    expected = 2 * (error[..., None] * x).mean((0, 1))
    assert torch.allclose(gradient(objective, network, pairs), expected, rtol=1e-12)


def test_bayes_labels_are_those_of_the_task() -> None:
    recipe = dataclasses.replace(
        recipe_named("linear-noise-1-4"), objective=SquaredError(labels="bayes"), episodes=4, points=12
    )
    pairs = draw_batch(recipe, 0)
    assert isinstance(pairs, Pairs)
    assert pairs.best is not None
    # 1e-5: rounding in float32, through a ridge regression with λ = 1/4.
    assert torch.allclose(pairs.best, Ridge(0.25).predict(pairs.x, pairs.y), atol=1e-5)
    plain = draw_batch(dataclasses.replace(recipe, objective=SquaredError()), 0)
    assert isinstance(plain, Pairs)
    assert plain.best is None
    assert torch.equal(plain.y, pairs.y)
    with pytest.raises(UserError, match="without Bayes"):
        SquaredError(labels="bayes")(Affine(), batch(), generator(), {})


def test_balance_weighs_each_prefix_by_its_own_error() -> None:
    """d/dw mean_n log(mse_n + b) = mean_n (d/dw mse_n) / (mse_n + b)."""
    network, pairs = Affine(), batch()
    error = pairs.x @ network.weight - pairs.y
    per_prefix = 2 * (error[..., None] * pairs.x).mean(0)
    expected = (per_prefix / (error.square().mean(0) + 0.1)[:, None]).mean(0)
    found = gradient(SquaredError(balance=0.1), network, pairs)
    assert torch.allclose(found, expected, rtol=1e-12)
    with pytest.raises(UserError, match="balance must be positive"):
        SquaredError(balance=0.0)


def test_law_labels_have_the_same_mean_gradient_and_less_variance() -> None:
    """The gradients differ by 2 mean ε x: of mean zero, and of variance 4 σ² / (B N) in each coordinate.

    400 batches: five standard errors of the mean, in three coordinates, are a false alarm in 1e-6 of all seeds;
    the seed is fixed.
    """
    network = Affine()
    hard, soft = (
        torch.stack(
            [gradient(SquaredError(labels), network, batch(seed=seed, noise_std=2.0)) for seed in range(400)]
        )
        for labels in ("targets", "law")
    )
    difference = hard - soft
    variance = 4 * 2.0**2 / 30
    assert difference.mean(0).abs().max() < 5 * math.sqrt(variance / 400)
    # Its own relative error is √(2 / 400) = 7% a coordinate.
    assert difference.var(0).mean().item() == pytest.approx(variance, rel=0.15)
    # What is left is the variance of inputs and functions, with which the difference is uncorrelated.
    assert soft.var(0).sum() < 0.9 * hard.var(0).sum()


def test_squared_error_needs_a_law_it_can_ask() -> None:
    pairs = dataclasses.replace(batch(), law=None)
    with pytest.raises(UserError, match="does not know its law"):
        SquaredError(labels="law")(Affine(), pairs, generator(), {})
    with pytest.raises(UserError, match="labels"):
        SquaredError(labels="soft")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="positions"):
        SquaredError(positions="first")  # pyright: ignore[reportArgumentType]


def test_mixture_likelihood_of_one_gaussian() -> None:
    """½ log 2πs² + (y - m)²/2s², s² = e^(2·0.2) + MIN_STD², in closed form; so its gradient in m."""
    network, pairs = Affine(components=1), batch()
    variance = math.exp(0.4) + MIN_STD**2
    error = pairs.x @ network.weight - pairs.y
    loss, metrics, _ = MixtureLikelihood()(network, pairs, generator(), {})
    expected = 0.5 * math.log(2 * math.pi * variance) + error.square().mean() / (2 * variance)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert metrics["error"].item() == pytest.approx(error.square().mean().item(), rel=1e-12)
    slope = (error[..., None] * pairs.x).mean((0, 1)) / variance
    assert torch.allclose(gradient(MixtureLikelihood(), network, pairs), slope, rtol=1e-12)


def test_the_mixture_is_normalised_and_bounded() -> None:
    """Riemann sums over a grid that covers every component; extreme outputs stay finite, as do gradients."""
    outputs = torch.randn(4, 9, generator=generator(), dtype=torch.float64)
    mixture = gaussian_mixture(outputs, torch.full((4,), 3.0), torch.full((4,), 2.0))
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    p = mixture.log_prob(grid[:, None]).exp()
    # Smooth and far within the grid: the sum is exact to rounding, the tails beyond 1e-12.
    assert torch.allclose(p.sum(0) * 0.005, torch.ones(4, dtype=torch.float64), atol=1e-8)
    assert torch.allclose((grid[:, None] * p).sum(0) * 0.005, mixture.mean, atol=1e-6)
    extreme = torch.tensor([[80.0, -80.0, 0.0, 1e3, -60.0, 40.0]], requires_grad=True)
    value = gaussian_mixture(extreme).log_prob(torch.tensor([0.0]))
    value.sum().backward()
    assert value.isfinite().all()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()
    best = gaussian_mixture(torch.tensor([0.0, 0.0, -200.0])).log_prob(torch.zeros(()))
    assert best.item() == pytest.approx(-math.log(MIN_STD) - 0.5 * math.log(2 * math.pi), rel=1e-5)


@pytest.mark.parametrize("name", sorted(REGRESSION_OBJECTIVES))
def test_every_objective(name: str) -> None:
    """The contract: deterministic given the generator, gradients for every parameter, JSON, a real network."""
    objective = REGRESSION_OBJECTIVES[name]()
    network = InContextRegressor(dim=3, width=8, layers=2, heads=2, components=2 if objective.density else 0)
    pairs = LinearRegression(dim=3, noise_std=NOISE).draw(4, 6, generator())
    values = []
    for _ in range(2):
        network.zero_grad()
        loss, metrics, state = objective(network, pairs, generator(3), {})
        loss.backward()
        values.append((loss.item(), {key: value.item() for key, value in metrics.items()}, state))
    assert values[0] == values[1]
    assert loss.ndim == 0
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    recipe = density(objective=objective) if objective.density else tiny(objective=objective)
    assert Recipe.from_json(recipe.to_json()).objective == objective


def test_units_of_the_context_in_training() -> None:
    """An affine change of y and of the columns of x leaves the loss of episodes that have a unit as it was."""
    network = InContextRegressor(dim=3, width=8, layers=1, heads=2, components=2).double()
    pairs, objective = batch(episodes=16), MixtureLikelihood(units="context")
    lengths = torch.randint(6, (16,), generator=generator())
    keep = lengths > 1
    assert 0 < keep.sum() < 16
    moved = Pairs(
        torch.where(keep[:, None, None], 7 * pairs.x - 2, pairs.x),
        torch.where(keep[:, None], 0.1 * pairs.y + 50, pairs.y),
        pairs.law,
    )
    a, b = (objective(network, p, generator(), {})[0].item() for p in (pairs, moved))
    # float64, with a mean 500 deviations off: 1e-10.
    assert a == pytest.approx(b, rel=1e-9)
    assert a != pytest.approx(MixtureLikelihood()(network, pairs, generator(), {})[0].item(), rel=1e-3)


def test_units() -> None:
    """Against torch's own moments of each prefix."""
    x, y = (
        torch.randn(4, 7, 2, generator=generator()).double(),
        torch.randn(4, 7, generator=generator(1)).double(),
    )
    x[3, :, 1] = 1e8 / 3
    lengths = torch.tensor([0, 1, 5, 7])
    units = Units.fit(x, y, lengths)
    for row in (0, 1):
        assert units.x_mean[row].tolist() == [0, 0]
        assert (units.x_std[row].tolist(), units.y_std[row].item()) == ([1, 1], 1)
    assert torch.allclose(units.x_mean[2], x[2, :5].mean(0))
    assert torch.allclose(units.x_std[2], x[2, :5].std(0))
    assert torch.allclose(units.y_std[3], y[3].std())
    # A constant column keeps its scale, whatever rounding says.
    assert units.x_std[3, 1] == 1
    assert units.inputs(x)[3, :, 1].abs().max() < 1e-6
    assert torch.allclose(units.targets(y)[3].std(), torch.ones((), dtype=torch.float64))


# Curriculum


def test_curriculum_is_the_published_one() -> None:
    """Linear functions, d = 20: one coordinate and two points more every 2000 updates, up to 20 and 41."""
    curriculum = recipe_named("garg-published").curriculum
    assert curriculum is not None
    found = [curriculum.at(step, 20, 41) for step in (0, 1999, 2000, 4000, 28_000, 30_000, 499_999)]
    assert found == [(5, 11), (5, 11), (6, 13), (7, 15), (19, 39), (20, 41), (20, 41)]
    for wrong in ({"dim": 0}, {"every": 0}, {"points_step": -1}):
        with pytest.raises(UserError, match="curriculum"):
            Curriculum(**wrong)


def test_batches_follow_the_curriculum() -> None:
    recipe = tiny()
    for step, (active, points) in {0: (1, 3), 4: (2, 5), 8: (3, 7), 11: (3, 7)}.items():
        x = draw_batch(recipe, step).x
        assert x.shape == (4, points, 3)
        assert bool((x[..., :active] != 0).all())
        assert not x[..., active:].any()
    assert torch.equal(draw_batch(recipe, 4, 1).x, draw_batch(recipe, 4, 1).x)
    whole = dataclasses.replace(recipe, curriculum=None)
    assert draw_batch(whole, 0).x.shape == (4, 7, 3)


# Recipes

REGRESSION = [name for name in RECIPES if recipe_named(name).kind == "regression"]


def test_configuration_mirrors_the_network() -> None:
    arguments = inspect.signature(InContextRegressor).parameters
    fields = {field.name: field.default for field in dataclasses.fields(RegressorConfig)}
    assert fields == {name: argument.default for name, argument in arguments.items()}


@pytest.mark.parametrize("name", REGRESSION)
def test_recipes_can_run(name: str) -> None:
    """One update each, of a shallower and narrower network and fewer episodes than theirs."""
    recipe = recipe_named(name)
    network = recipe.network
    assert isinstance(network, RegressorConfig)
    narrow = {"width": 24} if network.embedding == "linear" else {}
    layers = 2 if network.tied else 1
    small = dataclasses.replace(
        recipe,
        network=dataclasses.replace(network, layers=layers, **narrow),
        episodes=4,
    )
    values = Trainer(small).update()
    assert math.isfinite(values["loss"])
    assert values["gradient_norm"] > 0


def test_published_sizes() -> None:
    garg, akyurek = recipe_named("garg-published"), recipe_named("akyurek-published")
    oswald, raventos = recipe_named("lsa-published"), recipe_named("pool-published")

    def size(recipe: Recipe) -> tuple[int, int, int]:
        assert isinstance(recipe.network, RegressorConfig)
        return recipe.network.layers, recipe.network.width, recipe.network.heads

    assert size(garg) == (12, 256, 8)
    assert size(akyurek) == (16, 512, 4)
    assert size(raventos) == (8, 128, 2)
    assert size(recipe_named("pool-small-published")) == (4, 64, 2)
    assert (garg.optimizer.name, garg.optimizer.rate, garg.episodes, garg.steps) == ("adam", 1e-4, 64, 500_000)
    assert recipe_named("relu-network-published").points == 101
    assert akyurek.schedule.factor(99_999, 500_000) == 1
    assert akyurek.schedule.factor(300_000, 500_000) == pytest.approx(0.5)
    assert (oswald.episodes, oswald.points, oswald.steps) == (2048, 11, 5_000)
    sine = recipe_named("sine-published")
    assert (sine.steps, sine.optimizer.clip) == (20_000, 100.0)
    assert raventos.schedule.factor(125_000, 500_000) == pytest.approx(0.5, abs=1e-5)
    assert raventos.schedule.factor(375_000, 500_000) == pytest.approx(0.5)
    # 9.5 M parameters with 101 places; ours has those of 41 points.
    with torch.device("meta"):
        count = sum(p.numel() for p in garg.network.make().parameters())
    assert count == pytest.approx(9.5e6, rel=0.01)


def test_noisy_columns() -> None:
    for name, ratio in {"1-16": 1 / 16, "1-9": 1 / 9, "1-4": 1 / 4, "4-9": 4 / 9}.items():
        task = recipe_named(f"linear-noise-{name}").task
        assert isinstance(task, LinearRegression)
        assert task.noise_std**2 / task.weight_std**2 == pytest.approx(ratio)


def test_pool_sweep() -> None:
    recipes = pool_sweep(recipe_named("pool"), (1, 12))
    assert [(recipe.name, recipe.task.size) for recipe in recipes] == [("pool-2^1", 2), ("pool-2^12", 4096)]  # pyright: ignore


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": EnergyConfig(dim=3), "curriculum": None}, "LinearRegression is no task"),
        ({"task": GaussianMixtures(dim=3)}, "GaussianMixtures is no task .*EnergyTransformer"),
        ({"objective": RECIPES["energy-tiny"]().objective}, "BinaryNCE is no objective"),
        ({"objective": MixtureLikelihood()}, "MixtureLikelihood needs network.components of at least 1"),
        ({"network": RegressorConfig(dim=3, max_points=6, components=1)}, "SquaredError needs .* = 0, given 1"),
        ({"network": RegressorConfig(dim=4, max_points=6)}, "network.dim is 4"),
        ({"points": 8}, "network.max_points is 6"),
    ],
)
def test_recipes_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny(**changes)
    assert "\n" not in str(caught.value)


def test_energies_have_no_curriculum() -> None:
    with pytest.raises(UserError, match="regression alone"):
        dataclasses.replace(recipe_named("energy-tiny"), curriculum=Curriculum())


def test_files_without_a_type_of_network_describe_energies() -> None:
    """As all were written before there were regressors."""
    recipe = recipe_named("energy-tiny")
    data = recipe.to_dict()
    assert data["network"].pop("type") == "EnergyTransformer"
    for later in ("curriculum", "pads"):
        data.pop(later)
    assert Recipe.from_dict(data) == recipe
    data = tiny().to_dict()
    assert data["network"]["type"] == "InContextRegressor"
    with pytest.raises(UserError, match="did you mean 'InContextRegressor'"):
        Recipe.from_dict({**data, "network": {**data["network"], "type": "InContextRegresor"}})
    with pytest.raises(UserError, match="did you mean 'SquaredError'"):
        Recipe.from_dict({**data, "objective": {"type": "SquareError"}})


def test_options_reach_into_nested_tasks() -> None:
    """What the command line offers: fields of tuples by their places, of a curriculum only where one is."""
    options = set(_options(recipe_named("general")))
    assert {"--task.tasks.0.least", "--task.tasks.6.task.task.depth", "--objective.units"} <= options
    assert not {option for option in options if option.startswith("--curriculum")}
    assert "--curriculum.every" in _options(recipe_named("linear-garg"))
    changed = _override(recipe_named("general"), ["--task.tasks.0.least", "0.5", "--network.components", "2"])
    assert isinstance(changed.task, TaskMixture)
    assert changed.task.tasks[0].least == 0.5  # pyright: ignore
    changed = _override(recipe_named("linear-garg"), ["--curriculum.every", "7", "--objective.labels", "law"])
    assert changed.curriculum == Curriculum(every=7)
    assert changed.objective == SquaredError(labels="law")


def test_batches_move_with_all_their_laws() -> None:
    """The meta device stands for an accelerator; also a mixture's laws, which are several."""
    mixture = TaskMixture((LinearRegression(dim=3), LinearRegression(dim=3, noise_std=1.0)))
    law: Any = _move(mixture.draw(6, 4, generator()), torch.device("meta")).law
    assert {member.weights.device.type for member in law.members} == {"meta"}


# Optimisers


def test_merged_matrices_are_no_matter_for_muon() -> None:
    """Muon takes the matrices of the blocks, shared ones once; merged ones of linear attention are Adam's."""
    tied = InContextRegressor(dim=3, width=8, layers=3, heads=2, tied=True)
    merged = InContextRegressor(
        dim=3, width=4, layers=1, heads=1, mlp_ratio=0, embedding="identity", merged=True, tokens="joined",
        attention="linear", norm=False, bias=False,
    )  # fmt: skip
    assert any(isinstance(module, MergedAttention) for module in merged.modules())
    for network, expected in ((tied, True), (merged, False)):
        optimizers = Optimizers(network, OptimizerConfig(name="muon"))
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizers.step(1.0)
        kinds = {name: {key.partition(":")[2] for key in optimizers.tensors() if key.startswith(f"{name}:")}
                 for name, p in network.named_parameters()}  # fmt: skip
        by_muon = {name for name, states in kinds.items() if states == {"momentum_buffer"}}
        inner = {name for name, p in network.named_parameters() if ".blocks." in name and p.ndim == 2}
        assert inner
        assert by_muon == (inner if expected else set())


# Runs


@pytest.mark.parametrize("recipe", [tiny(), density()], ids=["prediction", "density"])
@pytest.mark.parametrize("first", [1, 5, 7])
def test_resumed_equals_uninterrupted(tmp_path: Path, recipe: Recipe, first: int) -> None:
    whole = train(recipe, tmp_path / "whole", progress=False)
    parts = train(recipe, tmp_path / "parts", progress=False, stop_after=first)
    train(recipe, parts, resume=True, progress=False)
    assert_same(whole, parts)


@pytest.mark.parametrize("recipe", [tiny(), density()], ids=["prediction", "density"])
def test_exported_models_say_what_the_run_says(tmp_path: Path, recipe: Recipe) -> None:
    run = train(recipe, tmp_path / "run", progress=False)
    model = export(run, tmp_path / "model", name="mine")
    trainer = Trainer(recipe)
    for _ in range(recipe.steps):
        trainer.update()
    network = recipe.network.build()
    network.load_state_dict(trainer.weights())
    expected = trained_regressor(network, standardise=recipe.standardise, pads=recipe.pads)
    x, y = recipe.task.draw(2, 7, generator()).x, torch.randn(2, 7, generator=generator(1))
    for place in (run, model):
        learner = iclkit.load(place)
        assert isinstance(learner, TrainedRegressor)
        assert isinstance(learner, ProbabilisticLearner) == bool(network.components)
        assert torch.equal(learner.predict(x, y), expected.predict(x, y))
        assert (learner.task, learner.limit) == (recipe.task, 6)
        assert (learner.standardise, learner.pads) == (recipe.standardise, recipe.pads)
        assert not any(p.requires_grad for p in learner.network.parameters())
    assert iclkit.load(model).name == "mine"
    description = json.loads((model / "model.json").read_text())
    assert (description["kind"], description["network"]["type"]) == ("regression", "InContextRegressor")


def test_models_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", progress=False, stop_after=1)
    with pytest.raises(
        UserError, match=r"is a model of regression, but one of densities is needed .*energy-2d"
    ):
        iclkit.load(run, "energy")
    with pytest.raises(UserError, match="is a model of densities, but one of regression is needed"):
        iclkit.load("energy-2d", "regression")
    assert isinstance(iclkit.load(run, "regression"), TrainedRegressor)
    with pytest.raises(UserError, match="is a model of regression"):
        Trainer(dataclasses.replace(recipe_named("energy-tiny"), start=str(run)))
    model = export(run, tmp_path / "model")
    path = model / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "energy"}))
    with pytest.raises(UserError, match="its network is of kind 'regression'"):
        iclkit.load(model)


def test_training_learns() -> None:
    """One layer of linear attention nears the best step of gradient descent: half of the variance d/12.

    150 updates of 512 episodes leave the loss, a mean over the last ten, within 25% of its limit 0.412; it
    starts at 0.833. Published loss: von Oswald et al., 0.206 (half of ours).
    """
    recipe = dataclasses.replace(recipe_named("lsa"), episodes=512, steps=150)
    recipe = dataclasses.replace(
        recipe, optimizer=dataclasses.replace(recipe.optimizer, rate=5e-2), schedule=Schedule(warmup=0.0)
    )
    trainer = Trainer(recipe)
    losses = [trainer.update()["loss"] for _ in range(150)]
    assert losses[0] == pytest.approx(10 / 12, rel=0.2)
    assert sum(losses[-10:]) / 10 < 1.25 * 0.41246


# The learner


def learner(seed: int = 0, components: int = 0, **fields: Any) -> TrainedRegressor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = InContextRegressor(dim=3, width=8, layers=2, heads=2, max_points=6, components=components)
    return trained_regressor(network.double().requires_grad_(False), **fields)


def episodes(points: int = 7, dim: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, points, dim, generator=generator(), dtype=torch.float64)
    return x, torch.randn(2, points, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("components", [0, 2])
def test_queries_equal_predictions(standardise: bool, components: int) -> None:
    """Also against the general way, which puts every query in its place in the sequence."""
    subject = learner(components=components, standardise=standardise)
    x, y = episodes()
    queries = torch.randn(2, 3, 4, 3, generator=generator(2), dtype=torch.float64)
    prefixes = [5, 0, 6]
    found = subject.predict_queries(x, y, queries, prefixes)
    # 1e-10: float64 through three layers, in another order of sums.
    reference = RegressionLearner._predict_queries(subject, x, y, queries, prefixes)
    assert torch.allclose(found, reference, atol=1e-10)
    own = subject.predict_queries(x, y, x[:, :, None])[..., 0]
    assert torch.allclose(own, subject.predict(x, y), atol=1e-10)
    changed = y.clone()
    changed[:, 4:] += 3
    assert torch.allclose(subject.predict(x, changed)[:, :5], subject.predict(x, y)[:, :5], atol=1e-10)


def test_every_prefix_has_its_own_units() -> None:
    """Each prediction equals that for its prefix alone, standardised by hand."""
    subject = learner(standardise=True)
    x, y = episodes()
    x, y = 5 * x + 1000, 0.01 * y - 3
    found = subject.predict(x, y)
    plain = learner()
    for n in range(2, 7):
        mean, std = x[:, :n].mean(1, keepdim=True), x[:, :n].std(1, keepdim=True)
        shift, scale = y[:, :n].mean(1, keepdim=True), y[:, :n].std(1, keepdim=True)
        alone = plain.predict(((x - mean) / std)[:, : n + 1], ((y - shift) / scale)[:, : n + 1])[:, n]
        assert torch.allclose(found[:, n], (shift + scale * alone[:, None])[:, 0], atol=1e-10)
    assert torch.allclose(found[:, :2], plain.predict(x, y)[:, :2])


def test_units_do_not_matter() -> None:
    """Predictions move with the data, densities get the Jacobian: log p(a y + b) = log p(y) - log a."""
    subject = learner(components=3, standardise=True)
    assert isinstance(subject, TrainedProbabilisticRegressor)
    x, y = episodes()
    moved = x * torch.tensor([1e3, 1e-3, 7.0], dtype=torch.float64) - 20, 50 * y + 8
    known = slice(2, None)
    expected = 50 * subject.predict(x, y)[:, known] + 8
    assert torch.allclose(subject.predict(*moved)[:, known], expected, atol=1e-7)
    difference = subject.log_prob(x, y)[:, known] - subject.log_prob(*moved)[:, known]
    assert torch.allclose(difference, torch.full_like(difference, math.log(50)), atol=1e-7)


@pytest.mark.parametrize("standardise", [False, True])
def test_distributions_are_normalised(standardise: bool) -> None:
    subject = learner(components=2, standardise=standardise)
    assert isinstance(subject, TrainedProbabilisticRegressor)
    x, y = episodes()
    distribution = subject.distribution(x, y)
    assert distribution.batch_shape == (2, 7)
    assert torch.allclose(distribution.mean, subject.predict(x, y))
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    total = distribution.log_prob(grid[:, None, None]).exp().sum(0) * 0.002
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    queries = x[:, :, None]
    asked = subject.distribution_queries(x, y, queries)
    assert asked.batch_shape == (2, 7, 1)
    assert torch.allclose(asked.mean[..., 0], distribution.mean)
    assert torch.allclose(asked.variance[..., 0], distribution.variance)


def test_fewer_columns() -> None:
    x, y = episodes(dim=2)
    with pytest.raises(UserError, match=r"x must have shape \[episodes, points, 3\]"):
        learner().predict(x, y)
    subject = learner(pads=True)
    zeros = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
    assert torch.equal(subject.predict(x, y), learner().predict(zeros, y))
    # Units of the columns that are there; the others stay 0.
    standard = learner(pads=True, standardise=True)
    assert torch.allclose(standard.predict(x, y), standard.predict(zeros, y))
    with pytest.raises(UserError, match=r"4 columns.* at most 3; choose columns"):
        subject.predict(*episodes(dim=4))


def test_long_contexts() -> None:
    with pytest.raises(UserError, match="at most 6 are taken"):
        learner().predict(*episodes(points=8))
    longer = dataclasses.replace(learner(), allow_longer=True)
    assert longer.predict(*episodes(points=9)).shape == (2, 9)
    placed = InContextRegressor(dim=3, width=8, layers=1, heads=2, max_points=6, positions="learned")
    with pytest.raises(UserError, match="learned positions for contexts of up to 6"):
        TrainedRegressor(placed, allow_longer=True)
    with pytest.raises(UserError, match="says no density"):
        TrainedProbabilisticRegressor(placed)


def test_data_on_another_device_than_the_network() -> None:
    subject = learner()
    subject.network.to("meta")
    x, y = episodes()
    for standardise in (False, True):
        there = dataclasses.replace(subject, standardise=standardise)
        with pytest.raises(UserError, match=r"x of shape \[2, 7, 3\] is on cpu, the network on meta; move"):
            there.predict(x, y)
    with pytest.raises(UserError, match="is on cpu, the network on meta"):
        subject.predict_queries(x, y, x[:, :, None])


def test_types_of_the_data_are_kept() -> None:
    """A float32 network on float64 data, and the other way round: what comes out has the data's type."""
    for standardise in (False, True):
        subject = learner(standardise=standardise)
        x, y = episodes()
        assert subject.predict(x, y).dtype == torch.float64
        found = subject.predict(x.float(), y.float())
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), subject.predict(x, y), atol=1e-5)
