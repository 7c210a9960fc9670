"""Hook points: what is read, what is replaced, and that nobody pays for them unasked."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import iclkit
from iclkit.energy import EnergyTransformer
from iclkit.energy.frozen_queries import FrozenQueries
from iclkit.errors import UserError
from iclkit.estimators import InContextDensity, InContextRegression
from iclkit.networks import Hooked, weighting
from iclkit.regression import InContextRegressor

BLOCK = [
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.scores",
    "attention.pattern",
    "attention_out",
    "mlp_out",
    "residual",
]


def regressor(**config: Any) -> InContextRegressor:
    torch.manual_seed(0)
    sizes = {"dim": 3, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2, "positions": "learned"}
    return InContextRegressor(**{**sizes, **config}).double()


def pairs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)


def energy() -> EnergyTransformer:
    torch.manual_seed(0)
    return EnergyTransformer(dim=3, width=16, layers=2, heads=2).double()


NETWORKS: dict[str, tuple[Hooked, tuple[Tensor, ...]]] = {
    "interleaved": (regressor(), pairs()),
    "joined": (regressor(tokens="joined"), pairs()),
    "not causal": (regressor(tokens="joined", causal=False, query_sees_itself=False), pairs()),
    "linear": (regressor(attention="linear"), pairs()),
    "kernel": (regressor(attention="kernel"), pairs()),
    "gaussian": (regressor(attention="gaussian"), pairs()),
    "tied": (regressor(tied=True), pairs()),
    "energy": (energy(), pairs()[:1]),
    "lstm": (regressor(backbone="lstm"), pairs()),
    "gru": (regressor(backbone="gru", tokens="joined"), pairs()),
}
TRANSFORMERS = [name for name in NETWORKS if name not in ("lstm", "gru")]


@pytest.mark.parametrize("name", NETWORKS)
def test_listening_changes_nothing(name: str) -> None:
    net, inputs = NETWORKS[name]
    plain = net(*inputs)
    output, cache = net.run_with_cache(*inputs)
    torch.testing.assert_close(output, plain, rtol=0, atol=1e-12)
    assert set(cache) == set(net.hook_points())
    assert not net.listening
    assert torch.equal(net(*inputs), plain)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_names_are_the_same_in_every_transformer(name: str) -> None:
    net, _ = NETWORKS[name]
    names = {f"blocks.{index}.{point}" for index in (0, 1) for point in BLOCK}
    assert set(net.hook_points()) == {"embedded", *names}


def test_names_of_recurrent_layers() -> None:
    assert list(NETWORKS["lstm"][0].hook_points()) == ["embedded", "layers.0.state", "layers.1.state"]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_stream_is_the_sum_of_what_the_layers_add(name: str) -> None:
    net, inputs = NETWORKS[name]
    _, cache = net.run_with_cache(*inputs)
    stream = cache["embedded"]
    for index in (0, 1):
        stream = stream + cache[f"blocks.{index}.attention_out"] + cache[f"blocks.{index}.mlp_out"]
        torch.testing.assert_close(cache[f"blocks.{index}.residual"], stream, rtol=0, atol=1e-12)


def test_patterns_are_the_softmax_of_queries_and_keys_at_all_tokens() -> None:
    net, inputs = NETWORKS["interleaved"]
    _, cache = net.run_with_cache(*inputs, names="blocks.*.attention.*")
    assert len(cache) == 10
    for index in (0, 1):  # the last block too, whose work is otherwise done for the x tokens alone
        q, k, pattern = (cache[f"blocks.{index}.attention.{part}"] for part in ("q", "k", "pattern"))
        scores = q @ k.mT / math.sqrt(8)
        expected = torch.softmax(scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf), -1)
        assert pattern.shape == (2, 2, 9, 9)
        torch.testing.assert_close(pattern, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(cache[f"blocks.{index}.attention.scores"], scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["interleaved", "joined", "not causal", "linear", "kernel"])
def test_replaced_scores_have_their_effect_on_sequences_and_queries(name: str) -> None:
    net, (x, y) = NETWORKS[name]
    assert isinstance(net, InContextRegressor)
    plain = net(x, y)
    with net.hooks({"blocks.*.attention.scores": torch.ones_like}):
        replaced = net(x, y)
        asked = net.queries(x, y, x[:, :, None], torch.arange(5))[:, :, 0]
        _, cache = net.run_with_cache(x, y, names="blocks.*.attention.pattern")
    torch.testing.assert_close(asked, replaced, rtol=0, atol=1e-12)
    assert (replaced - plain).abs().max() > 1e-3
    for pattern in cache.values():  # all that is seen has the same weight
        most = pattern.amax(-1, keepdim=True)
        assert ((pattern == 0) | ((pattern - most).abs() < 1e-12)).all()


def test_replaced_activations_have_their_effect() -> None:
    net, (x, y) = NETWORKS["interleaved"]
    assert isinstance(net, InContextRegressor)
    with net.hooks({"blocks.*.attention_out": torch.zeros_like}):
        alone = net(x, y)
    # Without attention no token knows of another: each prediction is that of an empty context at its place.
    for n in range(5):
        tokens = net.tokens.sequence(x, y)[:, 2 * n]
        for block in net.backbone.blocks:
            tokens = tokens + block.mlp(block.mlp_norm(tokens))
        torch.testing.assert_close(alone[:, n], net.readout(net.backbone.norm(tokens)), rtol=0, atol=1e-12)


def test_replaced_patterns_have_their_effect() -> None:
    net, inputs = NETWORKS["joined"]

    def themselves(pattern: Tensor) -> Tensor:
        return torch.eye(pattern.shape[-1], dtype=pattern.dtype).expand_as(pattern)

    with net.hooks({"blocks.0.attention.pattern": themselves}):
        _, cache = net.run_with_cache(*inputs)
    value, out = cache["blocks.0.attention.v"], cache["blocks.0.attention_out"]
    attention = net.get_submodule("backbone.blocks.0.attention")
    torch.testing.assert_close(out, attention.out(value.transpose(1, 2).flatten(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["interleaved", "joined", "not causal", "linear", "kernel"])
def test_queries_are_hooked_too(name: str) -> None:
    """A function that doubles what the heads attend to acts in `queries` as in the whole network."""
    net, (x, y) = NETWORKS[name]
    assert isinstance(net, InContextRegressor)
    plain = net(x, y)
    with net.hooks({"blocks.*.attention.pattern": lambda pattern: 2 * pattern}):
        expected = net(x, y)
        asked = net.queries(x, y, x[:, :, None], torch.arange(5))[:, :, 0]
    torch.testing.assert_close(asked, expected, rtol=0, atol=1e-12)
    assert (expected - plain).abs().max() > 1e-6


def test_gradients_of_activations_can_be_taken() -> None:
    net, inputs = NETWORKS["interleaved"]
    output, cache = net.run_with_cache(*inputs, names=["blocks.0.residual"])
    (gradient,) = torch.autograd.grad(output.sum(), cache["blocks.0.residual"])
    step = 1e-6 * torch.randn_like(gradient)
    with net.hooks({"blocks.0.residual": lambda value: value + step}):
        change = (net(*inputs) - output).sum()
    assert math.isclose(float(change.detach()), float((gradient * step).sum()), rel_tol=1e-4)


def test_functions_run_in_turn_and_go_when_their_block_ends_or_fails() -> None:
    net, inputs = NETWORKS["interleaved"]
    seen: list[float] = []

    def note(value: Tensor) -> None:
        seen.append(float(value.detach().abs().sum()))

    with net.hooks({"blocks.1.mlp_out": torch.zeros_like}):
        with net.hooks({"blocks.1.mlp_out": note}):
            net(*inputs)
        assert seen == [0.0]
        net(*inputs)
        assert len(seen) == 1
    assert not net.listening

    def fail(value: Tensor) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), net.hooks({"*": note, "blocks.1.*": fail}):
        net(*inputs)
    assert not net.listening


@pytest.mark.parametrize("wanted", ["blocks.0.attention.patern", "blocks.7.*"])
def test_names_that_no_point_has_are_refused(wanted: str) -> None:
    net, inputs = NETWORKS["interleaved"]
    with pytest.raises(UserError, match=r"unknown hook point .*blocks\.0\.attention\.pattern"):
        net.run_with_cache(*inputs, names=["blocks.0.residual", wanted])
    with pytest.raises(UserError, match="unknown hook point"), net.hooks({wanted: torch.zeros_like}):
        pass
    assert not net.listening


def test_patterns_are_computed_for_listeners_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("the pattern was computed")

    monkeypatch.setattr(weighting.Softmax, "weights", never)
    net, (x, y) = NETWORKS["interleaved"]
    assert isinstance(net, InContextRegressor)
    net(x, y)
    net.queries(x, y, x[:, :, None], torch.arange(5))
    with net.hooks({"blocks.1.residual": torch.zeros_like}):
        net(x, y)
    with pytest.raises(AssertionError, match="was computed"):
        net.run_with_cache(x, y)


def test_frozen_gradients_give_way_to_hooks() -> None:
    net = energy()
    context = net.encode(torch.randn(1, 4, 3, dtype=torch.float64))
    assert FrozenQueries.supports(net, context)
    with net.hooks({"blocks.0.mlp_out": torch.zeros_like}):
        assert not FrozenQueries.supports(net, context)


def test_hook_points_hold_no_weights() -> None:
    for net, _ in NETWORKS.values():
        points = [f".{name}." for name in net.hook_points()]
        assert isinstance(net, nn.Module)
        assert not [key for key in net.state_dict() if any(point in f".{key}." for point in points)]


class TestInterventionsEndWithTheirBlock:
    """Whatever is computed within `hooks` has the intervention, and nothing after it has."""

    @pytest.fixture
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draw = np.random.default_rng(0)
        x = draw.normal(size=(20, 2))
        return x, x @ [1.0, 2.0], draw.normal(size=(5, 2))

    @pytest.mark.parametrize("used_before", [False, True])
    def test_regression_estimators(self, table: tuple[np.ndarray, ...], used_before: bool) -> None:
        x, y, queries = table
        learner = iclkit.load("general", "regression")
        plain = InContextRegression(learner).fit(x, y).predict(queries)
        fitted = InContextRegression(learner).fit(x, y)
        if used_before:
            fitted.predict(queries)
        with learner.network.hooks({"blocks.0.residual": torch.zeros_like}):
            inside = fitted.predict(queries)
        assert np.abs(inside - plain).max() > 0.1
        np.testing.assert_array_equal(fitted.predict(queries), plain)
        np.testing.assert_array_equal(InContextRegression(learner).fit(x, y).predict(queries), plain)

    @pytest.mark.parametrize("used_before", [False, True])
    def test_density_estimators(self, table: tuple[np.ndarray, ...], used_before: bool) -> None:
        x, _, queries = table
        learner = iclkit.load("energy-2d", "energy")
        plain = InContextDensity(learner).fit(x).score_samples(queries)
        fitted = InContextDensity(learner).fit(x)
        if used_before:
            fitted.score_samples(queries)
        with learner.network.hooks({"blocks.*.residual": lambda value: 0.5 * value}):
            inside = fitted.score_samples(queries)
            again = InContextDensity(learner).fit(x).score_samples(queries)
        assert np.abs(inside - plain).max() > 1e-3
        np.testing.assert_array_equal(inside, again)
        np.testing.assert_array_equal(fitted.score_samples(queries), plain)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
    def test_copies_come_without_them(self, copied: Callable[[Any], Any]) -> None:
        network = InContextRegressor(dim=2, width=8, layers=1, heads=1)
        with network.hooks({"blocks.0.residual": torch.zeros_like}):
            other = copied(network)
            assert network.listening
        assert not other.listening
        with other.hooks({"blocks.0.residual": torch.zeros_like}):
            assert not network.listening

    @pytest.mark.parametrize("inner_first", [True, False])
    def test_the_same_function_twice_leaves_the_order_of_the_others(self, inner_first: bool) -> None:
        network = InContextRegressor(dim=2, width=8, layers=1, heads=1)
        name = "blocks.0.residual"
        point = network.hook_points()[name]

        def f(value: torch.Tensor) -> torch.Tensor:
            return value.flip(-1)

        def g(value: torch.Tensor) -> torch.Tensor:
            return value * 2

        with network.hooks({name: f}), network.hooks({name: g}):
            with network.hooks({name: f}):
                assert point.functions == [f, g, f]
            assert point.functions == [f, g]
        # Blocks that end out of turn, as generators may, end their own turn alone.
        first, second = network.hooks({name: f}), network.hooks({name: g})
        third = network.hooks({name: f})
        for block in (first, second, third):
            block.__enter__()
        (third if inner_first else first).__exit__(None, None, None)
        assert point.functions == ([f, g] if inner_first else [g, f])
        (first if inner_first else third).__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert not network.listening
