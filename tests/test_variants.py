"""Attention that is changed as its dual forms suggest: definitions, causality, exact queries, recipes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from iclkit.analysis import match_scale
from iclkit.analysis.counterparts import counterpart
from iclkit.cli.train import _override
from iclkit.energy.frozen_queries import FrozenQueries
from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.learners import GradientDescent
from iclkit.networks import (
    WEIGHTINGS,
    Attention,
    AttentionVariant,
    BlockConfig,
    Mask,
    Transformer,
    written_block,
)
from iclkit.networks.transformer import Block
from iclkit.networks.variants import fading, lowest
from iclkit.regression import InContextRegressor
from iclkit.tasks import LinearRegression
from iclkit.training import Recipe, Trainer, recipe_named

VARIANTS: dict[str, dict[str, float]] = {
    "regularised": {"regularised": 0.3},
    "augmented": {"augmented": 0.5},
    "negative": {"negative": 0.7, "negative_share": 0.4},
    "momentum": {"momentum": 0.6},
    "all": {"regularised": -0.2, "augmented": 0.5, "negative": 0.7, "momentum": 1.0},
}
# Sums of some tens of terms of order one in float64.
TOLERANCE = 1e-12


def attention(variant: AttentionVariant, weighting: str = "softmax", own: str = "counted") -> Attention:
    torch.manual_seed(0)
    return Attention(BlockConfig(8, 2, weighting=weighting, own=own, variant=variant)).double()


def by_definition(made: Attention, x: Tensor, seen: list[list[int]]) -> Tensor:
    """One sequence [T, W], one head and one token after the other, from the words of `networks/variants.py`."""
    variant, out = made.variant, []
    q, k, v = made.qkv(x).view(len(x), 3, made.heads, made.head_width).unbind(1)
    if variant.augmented:
        k, v = k + variant.augmented * made.augment_k(k), v + variant.augmented * made.augment_v(v)
    for head in range(made.heads):
        features = made.weighting.features(q[:, head], k[:, head])
        scores = features[0] @ features[1].mT
        values = v[:, head]
        if variant.negative:
            values = values.clone()
            for t, tokens in enumerate(seen):
                others = sorted((i for i in tokens if i != t), key=lambda i, t=t: scores[t, i].item())
                count = math.ceil(variant.negative_share * len(others))
                if count:
                    values[t] = v[t, head] - variant.negative * v[others[:count], head].mean(0)
        rows = []
        for t, tokens in enumerate(seen):
            hidden = torch.tensor([i not in tokens for i in range(len(x))])
            weights = made.weighting.weights(scores[t, None], hidden[None], torch.tensor([len(tokens)]))[0]
            row = sum((weights[i] * values[i] for i in tokens), torch.zeros_like(values[0]))
            row = row - variant.regularised * weights[t] * values[t]
            before = [i for i in tokens if i < t]
            for place, i in enumerate(reversed(before)):
                row = row + variant.momentum ** (place + 1) * values[i]
            rows.append(row)
        out.append(torch.stack(rows))
    return made.out(torch.cat(out, -1))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_attention_is_what_its_definition_says(name: str, weighting: str) -> None:
    made = attention(AttentionVariant(**VARIANTS[name]), weighting)
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    causal = [list(range(t + 1)) for t in range(7)]
    odd = [[0], [0, 1], [0, 2], [0, 1, 2, 3, 5], [1, 4, 6], [0, 5], [6, 1, 3]]
    for seen in (causal, odd):
        hidden = torch.tensor([[i not in tokens for i in range(7)] for tokens in seen])
        mask = Mask.lower(x) if seen is causal else Mask(hidden, (~hidden).sum(-1), x.dtype)
        out, _ = made(x, mask)
        for sequence in range(2):
            expected = by_definition(made, x[sequence], seen)
            torch.testing.assert_close(out[sequence], expected, rtol=0, atol=TOLERANCE)
        for rows in (slice(2, None, 2), slice(6, None)):
            torch.testing.assert_close(made(x, mask, rows)[0], out[:, rows], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "all"])
def test_every_variant_is_softmax_at_zero(name: str) -> None:
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    plain = attention(AttentionVariant())
    expected = plain(x, Mask.lower(x))[0]
    zero = attention(AttentionVariant(**{**VARIANTS[name], name: 0.0}))
    assert zero.variant.plain
    assert set(zero.state_dict()) == set(plain.state_dict())
    assert torch.equal(zero(x, Mask.lower(x))[0], expected)
    # Near 0 it takes its own way, and comes near: nothing jumps there.
    near = attention(AttentionVariant(**{**VARIANTS[name], name: 1e-9}))
    near.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(near(x, Mask.lower(x))[0], expected, rtol=0, atol=1e-7)
    far = attention(AttentionVariant(**VARIANTS[name]))
    far.load_state_dict(plain.state_dict(), strict=False)
    assert (far(x, Mask.lower(x))[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("rate", [0.1, 0.9, 1.0])
def test_momentum_is_the_running_sum(rate: float) -> None:
    """m_t = η (m_{t-1} + v_{t-1}), Dai et al. (2022)."""
    v = torch.randn(3, 50, 4, dtype=torch.float64)
    later = torch.ones(50, 50).triu(1).bool()
    sums = fading(later, torch.arange(50), rate, v.dtype) @ v
    running = torch.zeros(3, 4, dtype=torch.float64)
    for t in range(50):
        torch.testing.assert_close(sums[:, t], running, rtol=0, atol=TOLERANCE)
        running = rate * (running + v[:, t])


def test_momentum_adds_to_softmax_attention() -> None:
    made, plain = attention(AttentionVariant(momentum=0.8)), attention(AttentionVariant())
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    v = plain.qkv(x)[0, :, 16:]
    sums = torch.stack(
        [sum((0.8 ** (t - i) * v[i] for i in range(t)), torch.zeros_like(v[0])) for t in range(6)]
    )
    added = made(x, Mask.lower(x))[0] - plain(x, Mask.lower(x))[0]
    torch.testing.assert_close(added[0], sums @ plain.out.weight.mT, rtol=0, atol=TOLERANCE)


def test_the_lowest_are_as_many_as_asked_and_all_that_tie() -> None:
    scores = torch.tensor([[3.0, 1, 2, 1 + 1e-16, 5], [0, 0, 0, 0, 0], [4, 3, 2, 1, 0]], dtype=torch.float64)
    hidden = torch.tensor([[0, 0, 0, 0, 1], [1, 0, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    third = 1 / 3
    expected = torch.tensor([[0, 0.5, 0, 0.5, 0], [0, third, third, 0, third], [0] * 5], dtype=torch.float64)
    torch.testing.assert_close(lowest(scores, hidden, 0.25), expected)
    seven = lowest(torch.arange(10.0, dtype=torch.float64)[None], torch.zeros(1, 10).bool(), 0.7)
    assert seven.nonzero()[:, 1].tolist() == list(range(7))  # 0.7 * 10 = 7.000000000000001
    assert lowest(torch.zeros(2, 0), torch.zeros(2, 0).bool(), 0.5).shape == (2, 0)


@pytest.mark.parametrize("own", ["counted", "uncounted", "unseen"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", VARIANTS)
def test_queries_in_a_sequence_of_their_own_mask_equal_queries_against_memory(
    name: str, weighting: str, own: str
) -> None:
    torch.manual_seed(0)
    config = BlockConfig(16, 2, 2, weighting=weighting, own=own, variant=AttentionVariant(**VARIANTS[name]))
    net = Transformer(config, 3).double()
    context, queries = torch.randn(2, 4, 16, dtype=torch.float64), torch.randn(2, 6, 16, dtype=torch.float64)
    lengths, place = torch.tensor([0, 1, 2, 3, 4, 4]), torch.arange(4)
    mask = Mask.with_queries(place <= place[:, None], place < lengths[:, None], own, torch.float64)
    together, _ = net(torch.cat([context, queries], 1), mask)
    encoded, memories = net(context)
    torch.testing.assert_close(together[:, :4], encoded, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(together[:, 4:], net.query(queries, memories, lengths), rtol=0, atol=TOLERANCE)
    each = net.query(queries, memories, lengths.expand(2, -1))
    torch.testing.assert_close(together[:, 4:], each, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", VARIANTS)
def test_energies_of_candidates_are_exact_and_causal(name: str) -> None:
    torch.manual_seed(1)
    net = EnergyTransformer(2, 16, 2, 2, max_points=8, variant=AttentionVariant(**VARIANTS[name])).double()
    x, candidates = torch.randn(2, 5, 2, dtype=torch.float64), torch.randn(2, 5, 3, 2, dtype=torch.float64)
    energies = net.candidate_energies(x, candidates)
    for n in range(5):
        for k in range(3):
            alone = net.energies(torch.cat([x[:, :n], candidates[:, n, k, None]], 1))[:, -1]
            torch.testing.assert_close(energies[:, n, k], alone, rtol=0, atol=TOLERANCE)
    other = torch.cat([x[:, :3], 1e3 * torch.randn(2, 2, 2, dtype=torch.float64)], 1)
    torch.testing.assert_close(net.energies(other)[:, :3], net.energies(x)[:, :3], rtol=0, atol=TOLERANCE)
    # What knows plain softmax alone keeps out of the way, and the score is still a gradient.
    assert not FrozenQueries.supports(net, net.encode(x))
    landscape = net.condition(x[0])
    points, step = candidates[0, 0], 1e-5
    for axis in range(2):
        shift = step * torch.eye(2, dtype=torch.float64)[axis]
        slope = (landscape.energy(points + shift) - landscape.energy(points - shift)) / (2 * step)
        torch.testing.assert_close(landscape.score(points)[:, axis], -slope.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_written_block_keeps_out_of_the_way(name: str) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    assert written_block.written(Block(BlockConfig(8, 2)).double(), x, Mask.lower(x))
    made = Block(BlockConfig(8, 2, variant=AttentionVariant(**VARIANTS[name]))).double()
    assert not written_block.written(made, x, Mask.lower(x))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layers", [1, 2])
def test_without_a_causal_mask_the_pairs_of_a_prefix_see_each_other(layers: int, name: str) -> None:
    """One layer too, where the values of the context depend on what it sees."""
    torch.manual_seed(2)
    variant = AttentionVariant(**VARIANTS[name])
    net: Any = InContextRegressor(3, 16, layers, 2, 2, tokens="joined", causal=False, variant=variant)
    net = net.double()
    x, y = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    tokens = torch.cat(
        [net.tokens.pairs(x[:, :5], y[:, :5]), net.tokens.queries(x[:, 5:], torch.tensor([5]))], 1
    )
    hidden = torch.zeros(6, 6).bool()
    hidden[:5, 5] = True
    hidden_stream, _ = net.backbone(tokens, Mask(hidden, (~hidden).sum(-1), x.dtype))
    torch.testing.assert_close(net(x, y)[:, 5], net.readout(hidden_stream[:, 5]), rtol=0, atol=TOLERANCE)


def test_augmented_keys_and_values_are_those_that_hooks_see_and_tied_layers_share() -> None:
    variant = AttentionVariant(augmented=0.5)
    net: Any = InContextRegressor(3, 16, 2, 2, 2, tied=True, variant=variant)
    added = [name for name in net.state_dict() if "augment" in name]
    assert len(added) == 8  # two perceptrons with two maps and their biases, held once
    x, y = torch.randn(2, 4, 3), torch.randn(2, 4)
    _, cache = net.run_with_cache(x, y, names=["embedded", "blocks.0.attention.k"])
    net(x, y).sum().backward()
    block = net.backbone.blocks[0]
    assert all(parameter.grad is not None for parameter in block.parameters())
    qkv = block.attention.qkv(block.attention_norm(cache["embedded"]))
    k = qkv.view(2, -1, 3, 2, 8)[:, :, 1].transpose(1, 2)
    torch.testing.assert_close(cache["blocks.0.attention.k"], k + 0.5 * block.attention.augment_k(k))


def test_what_is_said_of_plain_linear_attention_is_not_said_of_variants() -> None:
    given: dict[str, Any] = {"heads": 1, "mlp_ratio": 0, "norm": False, "bias": False, "tokens": "joined"}
    given |= {"dim": 3, "layers": 1, "embedding": "identity", "attention": "linear"}
    net = InContextRegressor(**given, variant=AttentionVariant(momentum=0.5))
    with pytest.raises(UserError, match="the scale is free in plain attention alone, given AttentionVariant"):
        match_scale(net, net)
    task = LinearRegression(dim=3)
    with pytest.raises(UserError, match="this network differs in variant"):
        counterpart(net, GradientDescent(1, 0.1), task)
    assert counterpart(InContextRegressor(**given), GradientDescent(1, 0.1), task).dim == 3


# Recipes


@pytest.mark.parametrize("name", ["linear", "energy-tiny"])
def test_recipes_reach_variants_by_options(name: str) -> None:
    small = ["--network.width", "16", "--network.heads", "2", "--network.layers", "2", "--episodes", "4"]
    options = ["--network.variant.momentum", "0.5", "--network.variant.negative", "0.1"]
    recipe: Any = _override(recipe_named(name), small + options)
    variant = AttentionVariant(momentum=0.5, negative=0.1)
    assert recipe.network.variant == variant
    assert Recipe.from_json(recipe.to_json()) == recipe
    trainer = Trainer(recipe)
    assert all(made.variant == variant for made in trainer.network.modules() if isinstance(made, Attention))
    values = trainer.update()
    assert math.isfinite(values["loss"])
    assert values["gradient_norm"] > 0
    # Recipes on disk that were written before there were variants.
    data = recipe_named(name).to_dict()
    del data["network"]["variant"]
    assert Recipe.from_dict(data) == recipe_named(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": 1.1}, r"momentum of an attention variant must be in \[0, 1\], given 1.1"),
        ({"momentum": math.nan}, "momentum .* given nan"),
        ({"negative_share": 0.0}, r"negative_share of an attention variant must be in \(0, 1\], given 0.0"),
        ({"augmented": math.inf}, "augmented of an attention variant must be finite, given inf"),
    ],
)
def test_variants_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttentionVariant(**given)
    with pytest.raises(UserError):
        dataclasses.replace(AttentionVariant(), **given)
