"""Weights by hand in linear attention: against the learners, plain NumPy, and as models like any other."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import iclkit
from iclkit import cli, compiler
from iclkit.analysis.attention_limit import attention_limit, limit_network
from iclkit.analysis.counterparts import counterpart
from iclkit.analysis.interpolation import MATCHED, UNMATCHED, straight_lines
from iclkit.compiler import linear_attention
from iclkit.errors import UserError
from iclkit.learners import GradientDescent, GradientDescentPlusPlus, OnFeatures, RegressionLearner
from iclkit.learners.trained_regression import trained_regressor
from iclkit.networks import MergedAttention
from iclkit.regression import InContextRegressor
from iclkit.tasks import LinearRegression
from iclkit.training import Trainer, recipe_named, save

# Rounding of float64 over up to 100 layers of numbers near 1.
EXACT = 1e-12
DIM, POINTS = 5, 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def episodes(dim: int = DIM, points: int = POINTS, count: int = 8) -> tuple[Tensor, Tensor]:
    """Inputs from U(-1/2, 1/2), on which the rates below converge, and targets that are no function of them."""
    x = torch.rand(count, points + 1, dim, generator=seeded(), dtype=torch.float64) - 0.5
    return x, torch.randn(count, points + 1, generator=seeded(1), dtype=torch.float64)


def off(network: InContextRegressor, learner: RegressionLearner) -> float:
    """The largest difference between a network and a learner, after every prefix."""
    x, y = episodes()
    return float((network(x, y)[..., 0] - learner.predict(x, y)).abs().max())


# Gradient descent


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_gradient_descent_after_every_prefix(steps: int, tied: bool, merged: bool) -> None:
    network = compiler.gradient_descent(DIM, POINTS, steps, 0.7, tied=tied, merged=merged)
    assert off(network, GradientDescent(steps, 0.7)) < EXACT
    assert len(network.state_dict()) == (3 + 2 * (1 if tied else steps))


def test_a_rate_for_each_step() -> None:
    rates = (0.1, 2.0, 0.5)
    assert off(compiler.gradient_descent(DIM, POINTS, 3, rates), GradientDescent(3, rates)) < EXACT


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_plain_tokens(steps: int, merged: bool) -> None:
    network = compiler.gradient_descent(DIM, POINTS, steps, 0.7, plain=True, merged=merged)
    assert off(network, GradientDescent(steps, 0.7)) < EXACT
    assert network.negated == (steps > 1)
    network = compiler.gradient_descent_plus_plus(DIM, POINTS, steps, 0.7, 0.4, plain=True, merged=merged)
    assert off(network, GradientDescentPlusPlus(steps, 0.7, 0.4, curvature="mean")) < EXACT


def descend(x: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int, rate: float) -> np.ndarray:
    """W after steps on (1/2N) Σ |W x_i - y_i|², the gradient written out; x [N, d], y and W several outputs."""
    weights = start.copy()
    for _ in range(steps):
        weights -= rate / len(x) * (x @ weights.T - y).T @ x
    return weights


@pytest.mark.parametrize("steps", [1, 5, 100])
def test_from_other_weights_against_numpy_with_several_outputs(steps: int) -> None:
    """The sizes at which the construction was published to be exact; each output is a network."""
    dim, points, outputs = 12, 45, 3
    numbers = np.random.default_rng(0)
    x, query = numbers.uniform(-0.5, 0.5, (points, dim)), numbers.uniform(-0.5, 0.5, dim)
    y, start = numbers.normal(size=(points, outputs)), numbers.normal(size=(outputs, dim))
    expected = descend(x, y, start, steps, 1.3) @ query
    asked = torch.tensor(query)[None, None, None]
    for output in range(outputs):
        network = compiler.gradient_descent(dim, points, steps, 1.3, start[output].tolist())
        said = network.queries(
            torch.tensor(x)[None], torch.tensor(y[None, :, output]), asked, torch.tensor([points])
        )
        assert float(said) == pytest.approx(expected[output], abs=EXACT)


def test_without_pairs_the_start_predicts() -> None:
    start = torch.randn(DIM, generator=seeded(2), dtype=torch.float64)
    x, y = episodes()
    said = compiler.gradient_descent(DIM, POINTS, 4, 0.7, start)(x, y)[:, 0, 0]
    torch.testing.assert_close(said, x[:, 0] @ start, atol=EXACT, rtol=0)


# GD++


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gd_plus_plus_after_every_prefix(steps: int) -> None:
    network = compiler.gradient_descent_plus_plus(DIM, POINTS, steps, 0.7, 0.4, tied=True)
    expected = GradientDescentPlusPlus(steps, 0.7, 0.4, curvature="mean")
    assert off(network, expected) < EXACT
    # At one length it is that with the sum, γ as published.
    x, y = episodes()
    for n in (1, 5, POINTS):
        published = GradientDescentPlusPlus(steps, 0.7, 0.4 / n).predict(x, y)[:, n]
        torch.testing.assert_close(network(x, y)[:, n, 0], published, atol=EXACT, rtol=0)


def test_gd_plus_plus_against_numpy_with_a_start() -> None:
    """Tokens moved one layer at a time, as the paper writes them: W₀ in W_V, and the query's y at -W₀x."""
    rates, gammas = (0.9, 1.4, 0.3), (0.2, 0.5, 0.1)
    start = np.random.default_rng(3).normal(size=DIM)
    x, y = (part.numpy() for part in episodes(count=1))
    pairs, targets, query, said = x[0, :POINTS], y[0, :POINTS], x[0, POINTS], -start @ x[0, POINTS]
    first, own = pairs.copy(), query.copy()
    residual = targets - first @ start
    for rate, gamma in zip(rates, gammas, strict=True):
        step = rate / POINTS * residual @ pairs
        residual, said = residual - pairs @ step, said - step @ query
        shrink = np.eye(DIM) - gamma / POINTS * pairs.T @ pairs
        pairs, query = pairs @ shrink, shrink @ query
    assert not np.allclose(own, query)
    network = compiler.gradient_descent_plus_plus(DIM, POINTS, 3, rates, gammas, start.tolist())
    assert float(network(torch.tensor(x), torch.tensor(y))[0, -1, 0]) == pytest.approx(-said, abs=EXACT)


# What stands before a layer


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_descent_on_features(steps: int, biased: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        features = nn.Sequential(
            nn.Linear(DIM, 9, bias=biased), nn.GELU(), nn.Linear(9, 6, bias=biased)
        ).double()
    expected = OnFeatures(GradientDescent(steps, 0.7), features.requires_grad_(False))
    for options in ({}, {"merged": False, "width": 20, "tied": True}):
        network = compiler.feature_descent(features, POINTS, steps, 0.7, **options)
        assert off(network, expected) < EXACT


def test_copying_joins_separate_tokens() -> None:
    network = compiler.copying(DIM, POINTS, 0.7)
    assert off(network, GradientDescent(1, 0.7)) < EXACT
    x, y = episodes()
    _, cache = network.run_with_cache(x, y, names="blocks.0.residual")
    # The last block asks for the rows of x alone, but those before it have all.
    joined = cache["blocks.0.residual"][:, 1::2, : DIM + 1]
    torch.testing.assert_close(joined, torch.cat([x, y[..., None]], -1)[:, :POINTS], atol=EXACT, rtol=0)


def test_kernel_smoother_against_numpy() -> None:
    x, y = episodes()
    said = compiler.kernel_smoother(DIM, POINTS, 0.3)(x, y)[..., 0].numpy()
    assert (said[:, 0] == 0).all()
    for n in (1, 3, POINTS):
        distances = ((x[:, :n] - x[:, n, None]) ** 2).sum(-1).numpy()
        weights = np.exp(-distances / (2 * 0.3**2))
        expected = (weights * y[:, :n].numpy()).sum(1) / weights.sum(1)
        np.testing.assert_allclose(said[:, n], expected, atol=EXACT)


# The limit of training


@pytest.mark.parametrize("merged", [True, False])
def test_limit_for_correlated_inputs(merged: bool) -> None:
    root = torch.randn(DIM, DIM, generator=seeded(3), dtype=torch.float64)
    covariance = root @ root.mT
    gamma = compiler.limit_gamma(covariance, POINTS)
    expected = (1 + 1 / POINTS) * covariance + covariance.trace() / POINTS * torch.eye(DIM)
    torch.testing.assert_close(gamma, expected)
    x, y = episodes()
    said = compiler.trained_limit(gamma, POINTS, merged=merged)(x, y)[:, -1, 0]
    mean = (y[:, :-1, None] * x[:, :-1]).mean(1)
    weights = torch.linalg.solve(gamma, mean.mT).mT
    torch.testing.assert_close(said, (x[:, -1] * weights).sum(-1), atol=EXACT, rtol=0)
    key_query, value_out = compiler.limit_matrices(gamma)
    balance = float(torch.linalg.matrix_power(torch.linalg.inv(gamma), 2).trace()) ** 0.25
    assert float(value_out[-1, -1]) == pytest.approx(balance)
    assert float(key_query.norm()) == pytest.approx(balance)


# Models like any other


def test_identified_by_name() -> None:
    """The families that could be confused with it, and some that could not."""
    task = LinearRegression(dim=3, inputs_law="uniform")
    families = ["averaging", "least squares", "ridge", "GD", "GD++", "mean-curvature GD++"]
    made = {
        "GD": (compiler.gradient_descent(3, 8, 5, 0.5), {"steps": 5, "rate": 0.5}),
        "mean-curvature GD++": (
            compiler.gradient_descent_plus_plus(3, 8, 2, 0.9, 0.3),
            {"steps": 2, "rate": 0.9, "gamma": 0.3},
        ),
    }
    for name, (network, values) in made.items():
        learner = trained_regressor(network, name="by hand")
        found = iclkit.identify(
            learner, task, points=9, episodes=32, fresh=32, families=families, dtype=torch.float64
        )
        assert found.nearest.family.name == name, found.verdict
        assert found.grade == "is", found.verdict
        for parameter, value in values.items():
            assert found.nearest.parameters[parameter].value == pytest.approx(value, rel=1e-2), found.verdict


def test_gd_plus_plus_at_one_length_is_identified_as_published() -> None:
    network = compiler.gradient_descent_plus_plus(3, 8, 2, 0.9, 0.4)
    found = iclkit.identify(
        trained_regressor(network),
        LinearRegression(dim=3, inputs_law="uniform"),
        points=9,
        episodes=32,
        fresh=32,
        families=["ridge", "GD", "GD++"],
        context_sizes=[8],
        dtype=torch.float64,
    )
    assert found.nearest.family.name == "GD++", found.verdict
    assert found.nearest.parameters["gamma"].value == pytest.approx(0.4 / 8, rel=1e-2)


MADE: dict[str, Callable[[], InContextRegressor]] = {
    "gradient_descent": lambda: compiler.gradient_descent(DIM, POINTS, 3, 0.7, [1.0] * DIM),
    "tied": lambda: compiler.gradient_descent(DIM, POINTS, 3, 0.7, tied=True),
    "gradient_descent_plus_plus": lambda: compiler.gradient_descent_plus_plus(DIM, POINTS),
    "copying": lambda: compiler.copying(DIM, POINTS),
    "feature_descent": lambda: compiler.feature_descent(
        nn.Sequential(nn.Linear(DIM, 4), nn.GELU(), nn.Linear(4, 4)), POINTS, 2
    ),
    "kernel_smoother": lambda: compiler.kernel_smoother(DIM, POINTS),
    "trained_limit": lambda: compiler.trained_limit(torch.eye(DIM), POINTS),
}


@pytest.mark.parametrize("name", MADE)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    network = MADE[name]()
    folder = save(network, tmp_path / "made", LinearRegression(dim=DIM))
    learner = iclkit.load(folder)
    x, y = episodes()
    assert torch.equal(learner.predict(x, y), network(x, y)[..., 0])
    assert (learner.name, learner.task, learner.limit) == ("made", LinearRegression(dim=DIM), POINTS)
    with pytest.raises(UserError, match="already exists"):
        save(network, folder)
    assert iclkit.load(save(network, folder, name="other", overwrite=True)).task is None


def test_the_limit_is_where_training_may_start(tmp_path: Path) -> None:
    """A run of the recipe `lsa` from it has the loss of the limit, and no update makes it less."""
    recipe = recipe_named("lsa")
    task = recipe.task
    assert isinstance(task, LinearRegression)
    folder = save(limit_network(task, 10), tmp_path / "limit", task)
    trainer = Trainer(dataclasses.replace(recipe, start=str(folder)))
    limit = attention_limit(task, 10).loss
    # 20 batches of 2048 episodes whose squared errors have a standard deviation near 0.6: 5 standard errors.
    losses = [trainer.update()["loss"] for _ in range(20)]
    bound = 5 * 0.6 / (20 * 2048) ** 0.5
    assert sum(losses) / 20 == pytest.approx(limit, abs=bound)
    assert losses[0] == pytest.approx(limit, abs=bound * 20**0.5)


def test_training_may_start_at_gradient_descent(tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe_named("lsa-recurrent"), episodes=256)
    task = recipe.task
    assert isinstance(task, LinearRegression)
    made = compiler.gradient_descent(10, 10, 2, 6.0, plain=True, tied=True)
    folder = save(made, tmp_path / "made", task)
    trainer = Trainer(dataclasses.replace(recipe, start=str(folder)))
    x, y = (part.float() for part in task.sample(16, 11, seeded()))
    said = trainer.network(x, y)[:, -1, 0]
    torch.testing.assert_close(said, GradientDescent(2, 6.0).predict(x, y)[:, -1], atol=1e-5, rtol=1e-5)
    other = dataclasses.replace(
        recipe, start=str(save(compiler.gradient_descent(10, 10, 2), tmp_path / "other"))
    )
    with pytest.raises(UserError, match="of another shape than the recipe's"):
        Trainer(other)
    other = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, negated=False))
    with pytest.raises(UserError, match="the other sign than the recipe's"):
        Trainer(dataclasses.replace(other, start=str(tmp_path / "made")))


# Refusals

REFUSED: dict[str, Callable[[], object]] = {
    "rate must be positive, given 0.0": lambda: compiler.gradient_descent(3, 5, 2, 0.0),
    "rate must be positive, given nan": lambda: compiler.copying(3, 5, float("nan")),
    "rate must be one number or 2, one a step, given 3": lambda: compiler.gradient_descent(3, 5, 2, (1, 2, 3)),
    "gamma must be positive": lambda: compiler.gradient_descent_plus_plus(3, 5, 2, 1.0, -1.0),
    "steps must be at least 1, given 0": lambda: compiler.gradient_descent(3, 5, 0),
    "dim must be at least 1, given 0": lambda: compiler.gradient_descent(0, 5),
    "points must be at least 1, given 0": lambda: compiler.copying(3, 0),
    r"start must have shape \[3\]": lambda: compiler.gradient_descent(3, 5, start=[1.0, 2.0]),
    "start must be finite": lambda: compiler.gradient_descent(2, 5, start=[1.0, float("nan")]),
    "tied layers have one rate": lambda: compiler.gradient_descent(3, 5, 2, (1.0, 2.0), tied=True),
    "plain=True has no place": lambda: compiler.gradient_descent(2, 5, start=[1.0, 1.0], plain=True),
    "need a width of at least 5, given 4": lambda: compiler.feature_descent(
        nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 4)), 5, 2, width=4
    ),
    "hidden layer has 4 units, but their last map takes 5": lambda: compiler.feature_descent(
        nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(5, 3)), 5
    ),
    r"features must be nn\.Sequential": lambda: compiler.feature_descent(nn.Sequential(nn.Linear(2, 4)), 5),
    "length_scale must be positive": lambda: compiler.kernel_smoother(3, 5, 0.0),
    "gamma must be a symmetric matrix": lambda: compiler.trained_limit(torch.ones(2, 3), 5),
    "gamma must be positive definite": lambda: compiler.trained_limit(torch.ones(2, 2), 5),
    r"covariance must be a matrix \[d, d\], given one of shape \[2, 3\]": lambda: compiler.limit_gamma(
        torch.ones(2, 3), 5
    ),
    r"value_out must be a finite matrix \[3, 3\], given shape \[4, 4\]": lambda: compiler.attention_layer(
        torch.eye(3), torch.eye(4), 5
    ),
    "key_query must be a finite matrix": lambda: compiler.attention_layer(
        torch.full((3, 3), float("nan")), torch.eye(3), 5
    ),
    "negated=True needs embedding='identity'": lambda: InContextRegressor(3, negated=True),
    "the task's inputs have dim 3, the network takes 2": lambda: save(
        compiler.copying(2, 5), "unused", LinearRegression(dim=3)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_say_what_is_wrong(message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


# The line to a trained network


def turned_network(network: InContextRegressor, scale: float) -> InContextRegressor:
    """The same function with other matrices: W_KQ times, and W_PV divided by, a number."""
    other = copy.deepcopy(network)
    for block in linear_attention.blocks(other)[: len(other.state_dict()) // 2]:
        assert isinstance(block.attention, MergedAttention)
        block.attention.key_query.weight *= scale
        block.attention.value_out.weight /= scale
    return other


@pytest.mark.parametrize(
    ("steps", "learner"),
    [
        (1, "limit"),
        (1, GradientDescent(1)),
        (2, GradientDescent(2, 6.0)),
        (2, GradientDescentPlusPlus(2, 12.0, 0.15)),
    ],
)
def test_line_to_a_counterpart_is_flat_once_scales_match(
    steps: int, learner: str | GradientDescent | GradientDescentPlusPlus
) -> None:
    recipe = recipe_named("lsa" if steps == 1 else "lsa-recurrent")
    task = recipe.task
    assert isinstance(task, LinearRegression)
    network = recipe.network.build()
    made = counterpart(network, learner, task)
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    expected = GradientDescent(1, attention_limit(task, 10).rate) if steps == 1 else learner
    assert isinstance(expected, RegressionLearner)
    x, y = task.sample(16, 11, seeded())
    torch.testing.assert_close(made(x, y)[:, -1, 0], expected.predict(x, y)[:, -1], atol=1e-5, rtol=1e-5)
    found = straight_lines(turned_network(made, 3.0), made, task, episodes=64, steps=5)
    matched, unmatched = found.lines[MATCHED], found.lines[UNMATCHED]
    # Equal to rounding of float32 with the scales matched; without, a layer adds up to 4/3 times as much.
    assert float(matched.losses.values.std(1).max()) < 1e-4
    assert float(unmatched.losses.values.std(1).max()) > 1e-2
    assert "scales matched" in found.verdict
    assert found.table().columns == ["fraction", UNMATCHED, MATCHED]
    assert len(found.to_csv().splitlines()) == 1 + 2 * 5


def test_counterparts_that_there_are_not() -> None:
    recurrent, task = recipe_named("lsa-recurrent").network, LinearRegression(dim=10)
    network = recurrent.build()
    with pytest.raises(UserError, match="the limit is known of one layer"):
        counterpart(network, "limit", task)
    with pytest.raises(UserError, match="takes 3 layers, the network has 2"):
        counterpart(network, GradientDescent(3, 1.0), task)
    with pytest.raises(UserError, match="made by hand are GradientDescent"):
        counterpart(network, GradientDescent(2, 1.0, "sum"), task)
    with pytest.raises(UserError, match="only if the query is no key"):
        counterpart(dataclasses.replace(recurrent, negated=False).build(), GradientDescent(2, 1.0), task)
    with pytest.raises(UserError, match="this network differs in attention, heads"):
        counterpart(recipe_named("linear").network.build(), GradientDescent(1, 1.0), LinearRegression())
    with pytest.raises(UserError, match="must have the same weights"):
        straight_lines(network, recipe_named("linear").network.build(), task)


def test_interpolate_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_named("lsa")
    task = recipe.task
    assert isinstance(task, LinearRegression)
    folder = save(compiler.gradient_descent(10, 10, 1, 5.0, plain=True), tmp_path / "made", task)
    options = ["--episodes", "64", "--steps", "3", "--out", str(tmp_path / "out")]
    assert cli.main(["interpolate", str(folder), *options]) == 0
    assert "Barrier from made to limit" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"interpolate.csv", "interpolate.md", "interpolate.png"}
    for wrong in (["--steps", "1"], ["gd(2, 1.0)"], ["ridge(1.0)"]):
        assert cli.main(["interpolate", str(folder), *wrong]) == 2
    assert cli.main(["interpolate", "gd(1)"]) == 2
    assert capsys.readouterr().err.count("\n") == 4
