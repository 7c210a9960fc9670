"""Compiled programs: against the interpreter, their sizes, and as learners like any other."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import iclkit
from compiler_programs import CASES, SMOOTH, episodes
from iclkit.compiler import Interpreted, compile, interpret, programs, registers
from iclkit.compiler.compilation import planned
from iclkit.compiler.reciprocal import reciprocal
from iclkit.errors import UserError
from iclkit.learners import Ridge
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.tasks import LinearRegression
from iclkit.training import recipe_named
from iclkit.training.models import save
from iclkit.training.network_config import RegressorConfig
from iclkit.training.trainer import Trainer

# What "exact" may differ from the interpreter by: rounding, also that of ill-conditioned contexts.
EXACT = 1e-10


def largest_error(name: str, dim: int, points: int, target: str, batch: int = 3, **options: float) -> float:
    program = CASES[name].make(dim, points)
    x, y = episodes(dim, points, batch)
    found = TrainedRegressor(compile(program, target, **options)).predict(x, y)
    return float((found - Interpreted(program).predict(x, y)).abs().max())


# The target "exact"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dim", "points"), [(1, 1), (2, 9), (5, 12)])
def test_exact_networks_equal_the_interpreter(name: str, dim: int, points: int) -> None:
    assert largest_error(name, dim, points, "exact") < EXACT


@pytest.mark.parametrize("size", [1e3, 1e5])
def test_the_nearest_neighbor_is_found_whatever_the_size_of_inputs(size: float) -> None:
    program = programs.nearest_neighbor(2, 9)
    x, y = episodes(2, 9, batch=8)
    found = TrainedRegressor(compile(program)).predict(size * x, y)
    torch.testing.assert_close(found, Interpreted(program).predict(size * x, y), rtol=0, atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dim", range(1, 11))
def test_exact_networks_equal_the_interpreter_at_every_dimension(name: str, dim: int) -> None:
    for points in (1, 8, 40):
        assert largest_error(name, dim, points, "exact", batch=2) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("dim", range(1, 11))
def test_sherman_morrison_is_ridge_regression_at_every_dimension(dim: int, penalty: float) -> None:
    x, y = episodes(dim, 40)
    found = TrainedRegressor(compile(programs.ridge(dim, 40, penalty))).predict(x, y)
    torch.testing.assert_close(found, Ridge(penalty).predict(x, y), rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dim", range(1, 11))
def test_standard_networks_are_near_the_interpreter_at_every_dimension(name: str, dim: int) -> None:
    assert largest_error(name, dim, 40, "standard", batch=2) < 1e-2


@pytest.mark.parametrize(("dim", "points", "penalty"), [(4, 40, 0.01), (8, 20, 0.5)])
def test_sherman_morrison_is_ridge_regression_at_every_prefix(dim: int, points: int, penalty: float) -> None:
    x, y = episodes(dim, points)
    found = TrainedRegressor(compile(programs.ridge(dim, points, penalty))).predict(x, y)
    torch.testing.assert_close(found, Ridge(penalty).predict(x, y), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "target"), [(name, "exact") for name in CASES] + [(name, "standard") for name in SMOOTH]
)
def test_queries_equal_the_sequence(name: str, target: str) -> None:
    """The other way through the network: the context is encoded once, and queries look back at it."""
    x, y = episodes(3, 6)
    learner = TrainedRegressor(compile(CASES[name].make(3, 6), target))
    answers = learner.predict_queries(x[:, :-1], y[:, :-1], x[:, :, None])[..., 0]
    torch.testing.assert_close(answers, learner.predict(x, y), rtol=1e-7, atol=1e-7)


# The target "standard"


@pytest.mark.parametrize("name", SMOOTH)
def test_standard_networks_are_near_the_interpreter(name: str) -> None:
    assert largest_error(name, 4, 8, "standard") < 1e-4


def test_standard_networks_have_nothing_but_softmax_gelu_and_layer_norm() -> None:
    given = compile(programs.ridge(2, 4), "standard").arguments
    assert (given["attention"], given["activation"], given["norm"], given["merged"]) == (
        "softmax",
        "gelu",
        True,
        False,
    )


@pytest.mark.parametrize(("name", "least"), [("sgd", 1e-3), ("ridge", 1e-2)])
def test_errors_of_the_standard_target_fall_with_the_square_of_the_scale(name: str, least: float) -> None:
    """The product's error is of order s²: slope 2, until rounding and LayerNorm have the last word."""
    scales = [10.0**-k for k in (2.0, 2.5, 3.0, 3.5)]
    errors = [largest_error(name, 4, 8, "standard", scale=scale) for scale in scales]
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    assert 1.9 < slope < 2.1
    assert largest_error(name, 4, 8, "standard") < least / 100


@pytest.mark.parametrize("ratio", [1.0, 5.0, 100.0, 1e5])
@pytest.mark.parametrize("least", [0.01, 1.0, 300.0])
def test_reciprocals_are_right_on_their_range(ratio: float, least: float) -> None:
    c = np.exp(np.linspace(math.log(least), math.log(least * ratio), 1001))
    assert np.abs(reciprocal(least, least * ratio)(c) * c - 1).max() < 1e-12


# Sizes


def test_layer_counts() -> None:
    """Of one step: Akyürek et al. need 9 for SGD and 14 for Sherman-Morrison."""
    layers = {
        (name, target): len(planned(make(8, 40), target).blocks)
        for name, make in (("sgd", programs.sgd), ("ridge", programs.ridge))
        for target in ("exact", "standard")
    }
    assert layers == {
        ("sgd", "exact"): 2,
        ("sgd", "standard"): 2,
        ("ridge", "exact"): 3,
        ("ridge", "standard"): 5,
    }
    network = compile(programs.sgd(3, 7))
    assert len(network.arguments["layout"].like) == 8 * 2  # a pass for each pair and one that reads
    held = {name.split(".")[2] for name in network.state_dict() if name.startswith("backbone.blocks")}
    assert held == {"0", "1"}  # whose weights all passes share


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_widths_grow_as_the_theory_says(target: str) -> None:
    dims = np.array([16, 24, 32])

    def slope(name: str) -> float:
        widths = [planned(programs.PROGRAMS[name](int(d), 4), target).width for d in dims]
        return float(np.polyfit(np.log(dims), np.log(widths), 1)[0])

    assert 0.8 < slope("sgd") < 1.05  # O(d)
    assert 1.8 < slope("ridge") < 2.05  # O(d²)
    # 2 d + 3 codes, y, prediction and residual; d² + 3 d + ...: u dies before the gain is there.
    assert planned(programs.sgd(8, 4)).width == 2 * 8 + 6


def test_rows_are_used_again() -> None:
    rows = planned(programs.gradient_descent(6, 4)).registers
    assert rows["G"] == rows["xx"]
    assert sum(len(span) for span in rows.values()) > len({row for span in rows.values() for row in span})


def test_compiling_is_fast() -> None:
    compile(programs.averaging(1, 1), "standard")  # imports
    for target in ("exact", "standard"):
        start = time.process_time()
        compile(programs.ridge(8, 40), target)
        assert time.process_time() - start < 5


@pytest.mark.slow
@pytest.mark.parametrize("target", ["exact", "standard"])
def test_running_is_fast(target: str) -> None:
    """Ten seconds of two cores for 256 episodes; ridge, the slowest program, takes 8 to 12 of one."""
    learner = TrainedRegressor(compile(programs.ridge(8, 40), target))
    x, y = episodes(8, 40, 256)
    start = time.process_time()
    learner.predict(x, y)
    assert time.process_time() - start < 20


# As networks and learners


@pytest.mark.parametrize(("target", "tolerance"), [("exact", 1e-11), ("standard", 1e-5)])
def test_registers_are_read_by_name(target: str, tolerance: float) -> None:
    program = programs.sgd(3, 5, 0.05)
    network = compile(program, target)
    x, y = episodes(3, 5)
    _, cache = network.run_with_cache(x, y, names="blocks.*.residual")
    held = registers(network, cache)
    expected = interpret(program, x.numpy(), y.numpy())
    last = len(network.arguments["layout"].like) - 1
    # The residual is made in the first block of a pass and used up by the second.
    assert set(held["residual"]) == set(range(0, last, 2))
    for name, block in {"residual": last - 1, "xᵀw": last, "w": last - 2, "x": last - 1}.items():
        found = held[name][block]
        assert found.shape == expected[name].shape
        if name == "w":
            continue  # of a pass before
        np.testing.assert_allclose(found.numpy(), expected[name], rtol=0, atol=tolerance)
    # After the first pass the first pair's column is right: w = 2 rate y x.
    w = held["w"][1][:, 1]
    torch.testing.assert_close(w, 0.1 * y[:, :1] * x[:, 0], rtol=0, atol=tolerance)
    assert registers(network, cache, "place")["place"][0].shape == (3, 12)
    with pytest.raises(UserError, match="unknown register 'residul'; did you mean 'residual'"):
        registers(network, cache, "residul")
    with pytest.raises(UserError, match="no residual stream"):
        registers(network, {})


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_registers_are_hook_points(target: str) -> None:
    network = compile(programs.sgd(3, 5, 0.05), target)
    x, y = episodes(3, 5)
    _, cache = network.run_with_cache(x, y)
    for name, blocks in registers(network, cache).items():
        for block, value in blocks.items():
            assert torch.equal(cache[f"registers.{name}.{block}"], value)
    answers, cache = network.run_with_cache(x, y, names=["registers.xᵀw.*", "registers.residual.0"])
    last = len(network.arguments["layout"].like) - 1
    assert list(cache) == [f"registers.xᵀw.{block}" for block in range(last + 1)] + ["registers.residual.0"]
    torch.testing.assert_close(cache[f"registers.xᵀw.{last}"][:, 6:], answers[..., 0], rtol=0, atol=1e-7)
    with pytest.raises(UserError, match=r"unknown hook point 'registers\.residual\.1'"):
        network.run_with_cache(x, y, names="registers.residual.1")


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_a_register_can_be_replaced(target: str) -> None:
    """An intervention by name: with w set to another w the network predicts by that, also behind norms."""
    network = compile(programs.sgd(3, 5), target)
    x, y = episodes(3, 5)
    other = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    before = network(x, y)
    # The last of twelve blocks but two leaves w for the last pass, which only predicts.
    with network.hooks({"registers.w.9": other.expand_as}):
        found = network(x, y)[..., 0]
    torch.testing.assert_close(found, x @ other, rtol=0, atol=1e-6)
    wrong = network.hooks({"registers.w.9": lambda w: w[..., :1]})
    with pytest.raises(UserError, match=r"register w must have shape \[3, 12, 3\], given \[3, 12, 1\]"), wrong:
        network(x, y)
    assert torch.equal(network(x, y), before)
    assert not network.listening


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_saving_and_loading(target: str, tmp_path: Path) -> None:
    network = compile(programs.ridge(3, 6), target)
    x, y = episodes(3, 6)
    _, cache = network.run_with_cache(x, y)
    learner = iclkit.load(save(network, tmp_path / "ridge", LinearRegression(dim=3)))
    assert learner.network.registers == network.registers
    assert torch.equal(learner.predict(x, y), network(x, y)[..., 0])
    assert registers(learner.network, cache).keys() == registers(network, cache).keys()


def test_compiling_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    compile(programs.ridge(2, 3), "standard")
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_networks_can_be_trained() -> None:
    """The loss of a standard network has a gradient at every weight that it uses."""
    network = compile(programs.averaging(2, 6), "standard").requires_grad_(True)
    x, y = episodes(2, 6)
    loss = (network(x, y)[..., 0] - y).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad.abs().max() > 0 for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_identify_names_compiled_programs(target: str) -> None:
    task = LinearRegression(dim=4, noise_std=0.5)
    sizes = {"points": 12, "episodes": 48, "fresh": 48, "dtype": torch.float64}
    families = ["ridge", "GD", "averaging", "least squares", "one-pass SGD"]

    def nearest(program):
        found = iclkit.identify(TrainedRegressor(compile(program, target)), task, families=families, **sizes)
        return found.nearest.family.name, found.nearest.parameters

    family, parameters = nearest(programs.ridge(4, 12, 0.25))
    assert family == "ridge"
    assert parameters["penalty"].value == pytest.approx(0.25, rel=0.01)
    family, parameters = nearest(programs.gradient_descent(4, 12, 3, 0.4))
    assert family == "GD"
    assert parameters["steps"].value == 3
    assert parameters["rate"].value == pytest.approx(0.4, rel=0.01)


def test_training_may_start_at_a_compiled_network(tmp_path: Path) -> None:
    """A recipe of the same shapes: its first loss is that of the algorithm, up to float32."""
    program = programs.averaging(3, 10)
    # Of scales at which float32 can follow, see `compile`.
    network = compile(program, "standard", scale=0.01)
    folder = save(network, tmp_path / "averaging", LinearRegression(dim=3))
    recipe = dataclasses.replace(
        recipe_named("linear"),
        task=LinearRegression(dim=3),
        network=RegressorConfig(**network.arguments),
        points=11,
        start=str(folder),
    )
    trainer = Trainer(recipe)
    x, y = episodes(3, 10)
    found = trainer.network(x.float(), y.float())[..., 0].detach()
    expected = Interpreted(program).predict(x, y)
    assert float((found - expected).square().mean() / expected.square().mean()) < 1e-4
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trainer.network.state_dict()[name], value.float())


def test_large_batches_are_predicted_in_parts_unless_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = episodes(3, 6)
    learner = TrainedRegressor(compile(programs.ridge(3, 6)))
    whole = learner.predict(x, y)
    monkeypatch.setattr("iclkit.learners.trained_regression._NUMBERS", 1)
    given: list[int] = []
    learner.network.register_forward_pre_hook(lambda network, pairs: given.append(len(pairs[0])))
    torch.testing.assert_close(learner.predict(x, y), whole, rtol=0, atol=1e-12)
    assert given == [1] * len(x)
    seen: list[int] = []
    with learner.network.hooks({"blocks.0.residual": lambda activation: seen.append(len(activation))}):
        learner.predict(x, y)
    assert seen == [len(x)]


@pytest.mark.parametrize("target", ["exact", "standard"])
def test_contexts_that_are_too_long_are_refused_in_a_sentence(target: str) -> None:
    network = compile(programs.ridge(2, 6), target=target)
    for points in range(7, 16):
        x, y = episodes(2, points - 1, batch=1)
        if points == 7:
            assert network(x, y).shape == (1, 7, 1)
            continue
        with pytest.raises(UserError, match=f"the context of {points - 1} pairs is too long"):
            network(x, y)
