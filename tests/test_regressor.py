"""The in-context regression network: exact queries, and its agreement with independent implementations."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.errors import UserError
from iclkit.networks import PLAIN, WEIGHTINGS, AttentionVariant, Layout, MergedAttention
from iclkit.regression import InContextRegressor

# Rounding of a few layers of sums of order one: 2^-24 and 2^-53 times some tens.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def regressor(seed: int = 0, dtype: torch.dtype = torch.float64, **config: Any) -> InContextRegressor:
    """A small network whose every parameter is random, biases and norms too."""
    torch.manual_seed(seed)
    sizes = {"dim": 3, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2, "max_points": 6}
    net = InContextRegressor(**{**sizes, **config})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.to(dtype)


def pairs(batch: int, points: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, points, dim, dtype=dtype), torch.randn(batch, points, dtype=dtype)


def by_replacement(
    net: InContextRegressor, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]
) -> Tensor:
    """The definition: the whole network on each prefix with each query as its last point."""
    last = torch.full_like(y[:, :1], math.nan) if y.shape[1] else y.new_full((len(y), 1), math.nan)
    rows = [
        torch.stack(
            [
                net(torch.cat([x[:, :n], queries[:, p, k, None]], 1), torch.cat([y[:, :n], last], 1))[:, -1]
                for k in range(queries.shape[2])
            ],
            1,
        )
        for p, n in enumerate(prefixes)
    ]
    return torch.stack(rows, 1)


VARIANTS = [
    AttentionVariant(regularised=0.3, negative=0.5),
    AttentionVariant(augmented=0.5),
    AttentionVariant(augmented=0.5, momentum=0.7),
]
LINEAR = {"embedding": "identity", "attention": "linear", "mlp_ratio": 0, "norm": False, "bias": False}


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2]))
    tokens = draw(st.sampled_from(["interleaved", "joined"]))
    backbone = draw(st.sampled_from(["transformer"] * 4 + ["lstm", "gru"]))
    embedding = draw(st.sampled_from(["linear", "linear", "identity", "features"]))
    points, dim = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    width = heads * draw(st.sampled_from([2, 4, 8]))
    config = {
        "dim": dim,
        "width": width,
        "layers": draw(st.integers(1, 3)),
        "heads": heads,
        "mlp_ratio": draw(st.integers(0, 3)),
        "max_points": 5,
        "backbone": backbone,
        "tokens": tokens,
        "attention": draw(st.sampled_from(list(WEIGHTINGS))),
        # The norm of two or three numbers is nearly a jump: no measure of rounding.
        "norm": (dim + 1 if embedding == "identity" else width) > 3 and draw(st.booleans()),
        "causal": backbone != "transformer" or draw(st.booleans()),
        "tied": draw(st.booleans()),
        "positions": draw(st.sampled_from(["none", "learned"])),
        "embedding": embedding,
        "bias": draw(st.booleans()),
        "components": draw(st.sampled_from([0, 2])) if embedding == "linear" else 0,
        "head_width": draw(st.sampled_from([3, 4])) if embedding == "identity" else None,
        "query_sees_itself": tokens == "interleaved" or draw(st.booleans()),
        "damping": draw(st.sampled_from([1.0, 0.5])),
        "variant": draw(st.sampled_from([PLAIN] * 3 + VARIANTS)),
    }
    if draw(st.integers(0, 3)) == 0:
        config |= {"merged": True, "heads": 1, "head_width": None}
    elif backbone == "transformer" and draw(st.booleans()):
        # Blocks that differ: the second without attention, the third with the weights of the first.
        config |= {"layout": ((heads, 0, heads), (3, 2, 3), (0, 1, 0)), "head_width": 3}
    if tokens == "joined" and config["causal"] and backbone == "transformer":
        config["start_token"] = draw(st.booleans())
    return {
        "config": config,
        "batch": draw(st.integers(1, 2)),
        "points": points,
        "prefixes": draw(st.lists(st.integers(0, points), min_size=1, max_size=4)),
        "count": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**31)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
    }


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_queries_equal_the_network_on_the_replaced_sequence(case: dict[str, Any]) -> None:
    config, dtype = case["config"], case["dtype"]
    layout = Layout(*config["layout"]) if "layout" in config else None
    net = regressor(case["seed"], dtype, **{**config, "layout": layout})
    x, y = (tensor.requires_grad_() for tensor in pairs(case["batch"], case["points"], config["dim"], dtype))
    prefixes = case["prefixes"]
    queries = torch.randn(case["batch"], len(prefixes), case["count"], config["dim"], dtype=dtype)
    queries.requires_grad_()

    fast = net.queries(x, y, queries, torch.tensor(prefixes))
    slow = by_replacement(net, x, y, queries, prefixes)

    def close(a: Tensor, b: Tensor) -> None:
        size = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * size)

    assert fast.shape == (*queries.shape[:3], 3 * config["components"] or 1)
    close(fast, slow)
    # A random direction tests all partial derivatives at once: with respect to pairs, queries and weights.
    direction = torch.randn_like(fast)
    inputs = [tensor for tensor in (x, y, queries, *net.parameters()) if tensor.numel()]
    gradients = [
        torch.autograd.grad((out * direction).sum(), inputs, allow_unused=True) for out in (fast, slow)
    ]
    for tensor, a, b in zip(inputs, *gradients, strict=True):
        zero = torch.zeros_like(tensor)
        close(zero if a is None else a, zero if b is None else b)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tokens": "joined"},
        {"attention": "linear", "tokens": "joined"},
        {"causal": False},
        {"backbone": "lstm"},
        {"backbone": "gru"},
    ],
)
def test_each_episode_may_have_prefixes_of_its_own(config: dict[str, Any]) -> None:
    net = regressor(positions="learned", **config)
    x, y = pairs(3, 5)
    queries, prefixes = torch.randn(3, 2, 4, 3, dtype=torch.float64), torch.tensor([[5, 0], [2, 2], [1, 4]])
    out = net.queries(x, y, queries, prefixes)
    for b in range(3):
        alone = net.queries(x[b, None], y[b, None], queries[b, None], prefixes[b])
        torch.testing.assert_close(out[b, None], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", ["transformer", "lstm", "gru"])
@pytest.mark.parametrize("tokens", ["interleaved", "joined"])
def test_forward_is_queries_at_the_points_themselves_and_blind_to_what_follows(
    tokens: str, backbone: str
) -> None:
    net = regressor(tokens=tokens, backbone=backbone, positions="learned")
    x, y = pairs(2, 7)  # max_points of context and one more
    out = net(x, y)
    assert out.shape == (2, 7, 1)
    asked = net.queries(x[:, :-1], y[:, :-1], x[:, :, None], torch.arange(7))[:, :, 0]
    torch.testing.assert_close(out, asked, rtol=0, atol=1e-12)
    later_x, later_y = x.clone(), y.clone()
    later_x[:, 4:], later_y[:, 3:] = 1e3, math.nan
    torch.testing.assert_close(net(later_x[:, :4], later_y[:, :4]), out[:, :4], rtol=0, atol=1e-12)
    later_y[:, 3:] = 1e3
    torch.testing.assert_close(net(later_x, later_y)[:, :4], out[:, :4], rtol=0, atol=1e-12)


# Independent implementations


def torchs_own(net: InContextRegressor) -> nn.TransformerEncoder:
    """torch's transformer with the network's weights."""
    blocks, config = net.backbone.blocks, net.backbone.blocks[0].config
    width, hidden = config.width, config.mlp_ratio * config.width
    layer = nn.TransformerEncoderLayer(
        width, config.heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(
        layer, len(blocks), nn.LayerNorm(width), enable_nested_tensor=False
    ).double()
    for block, other in zip(blocks, encoder.layers, strict=True):
        state = {
            "self_attn.in_proj_weight": block.attention.qkv.weight,
            "self_attn.in_proj_bias": block.attention.qkv.bias,
            "self_attn.out_proj.weight": block.attention.out.weight,
            "self_attn.out_proj.bias": block.attention.out.bias,
            "linear1.weight": block.mlp[0].weight,
            "linear1.bias": block.mlp[0].bias,
            "linear2.weight": block.mlp[2].weight,
            "linear2.bias": block.mlp[2].bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.mlp_norm.weight,
            "norm2.bias": block.mlp_norm.bias,
        }
        other.load_state_dict(state)
    encoder.norm.load_state_dict(net.backbone.norm.state_dict())
    return encoder


def prefix_tokens(net: InContextRegressor, x: Tensor, y: Tensor, n: int) -> Tensor:
    """Tokens of the n pairs and the query x_n, written down one by one."""
    matrix, bias = net.tokens.linear.weight, net.tokens.linear.bias
    tokens = []
    for j in range(n):
        if net.joined:
            tokens.append(torch.cat([x[:, j], y[:, j, None]], -1) @ matrix.T + bias)
        else:
            tokens.append(x[:, j] @ matrix[:, :-1].T + bias)
            tokens.append(y[:, j, None] * matrix[:, -1] + bias)
    tokens.append(x[:, n] @ matrix[:, :-1].T + bias + (net.tokens.flag if net.joined else 0.0))
    tokens = torch.stack(tokens, 1)
    return tokens + net.tokens.positions[: tokens.shape[1]]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", ["interleaved", "joined"])
def test_the_network_is_torchs_own_transformer_on_each_prefix(tokens: str, causal: bool) -> None:
    net = regressor(tokens=tokens, causal=causal, positions="learned", layers=3)
    x, y = pairs(2, 5)
    out, theirs = net(x, y), torchs_own(net)
    for n in range(5):
        sequence = prefix_tokens(net, x, y, n)
        length = sequence.shape[1]
        # True hides: later tokens, or from the context the query alone.
        hidden = torch.ones(length, length).triu(1).bool()
        if not causal:
            hidden = torch.zeros(length, length, dtype=torch.bool)
            hidden[:-1, -1] = True
        expected = net.readout(theirs(sequence, mask=hidden)[:, -1])
        torch.testing.assert_close(out[:, n], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", ["interleaved", "joined"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_backbones_are_torchs_own_stacked_cells(cell: str, tokens: str) -> None:
    net = regressor(tokens=tokens, backbone=cell, positions="learned", layers=3)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](16, 16, num_layers=3, batch_first=True).double()
    state = {
        name.replace("l0", f"l{index}"): value
        for index, layer in enumerate(net.backbone.layers)
        for name, value in layer.cell.state_dict().items()
    }
    theirs.load_state_dict(state)
    x, y = pairs(2, 5)
    out = net(x, y)
    for n in range(5):
        expected = net.readout(theirs(prefix_tokens(net, x, y, n))[0][:, -1])
        torch.testing.assert_close(out[:, n], expected, rtol=0, atol=1e-12)


def theory(x: Tensor, y: Tensor, layers: list[tuple[Tensor, Tensor]], unseen: bool = False) -> Tensor:
    """E ← E + W_PV E M (Eᵀ W_KQ E) / n of one prompt, all of whose pairs see each other; the last y entry."""
    n = len(x) - 1
    E = torch.cat([x, F.pad(y[:-1], (0, 1))[:, None]], 1).T  # columns (x_i, y_i), then (x_q, 0)
    seen = torch.ones(n + 1, n + 1, dtype=x.dtype)  # [key, query]
    seen[-1, :-1] = 0.0
    seen[-1, -1] = 0.0 if unseen else 1.0
    for kq, pv in layers:
        if n:
            E = E + pv @ E @ (seen * (E.T @ kq @ E)) / n
    return E[-1, -1]


@pytest.mark.parametrize("sees_itself", [True, False])
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_linear_attention_is_the_formula_of_the_theory(layers: int, merged: bool, sees_itself: bool) -> None:
    net = regressor(
        tokens="joined",
        layers=layers,
        heads=1,
        causal=False,
        merged=merged,
        query_sees_itself=sees_itself,
        **LINEAR,
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    matrices = [(block.attention.kq()[0], block.attention.pv()[0]) for block in net.backbone.blocks]
    x, y = pairs(2, 5)
    out = net(x, y)
    assert not out[:, 0].any()  # no pairs, no prediction
    for b in range(2):
        for n in range(5):
            expected = theory(x[b, : n + 1], y[b, : n + 1], matrices, not sees_itself)
            torch.testing.assert_close(out[b, n, 0], expected, rtol=1e-12, atol=1e-12)


def test_linear_attention_of_several_heads_is_the_sum_over_heads() -> None:
    net = regressor(tokens="joined", layers=1, heads=3, head_width=5, **LINEAR)
    x, y = pairs(1, 5)
    attention = net.backbone.blocks[0].attention
    heads = zip(attention.kq(), attention.pv(), strict=True)
    expected = sum(theory(x[0], y[0], [matrices]) for matrices in heads)
    torch.testing.assert_close(net(x, y)[0, -1, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_tied_linear_attention_with_the_right_weights_is_gradient_descent(steps: int) -> None:
    """von Oswald et al. (2022), proposition 1, each layer one step on Σ (wᵀx - y)² / 2n from w = 0."""
    rate, dim, points = 0.3, 3, 6
    net = regressor(
        tokens="joined",
        layers=steps,
        heads=1,
        causal=False,
        merged=True,
        tied=True,
        query_sees_itself=False,
        **LINEAR,
    )
    with torch.no_grad():
        attention = net.backbone.blocks[0].attention
        attention.key_query.weight.copy_(torch.diag(torch.tensor([1.0] * dim + [0.0], dtype=torch.float64)))
        attention.value_out.weight.copy_(torch.diag(torch.tensor([0.0] * dim + [-rate], dtype=torch.float64)))
    x, y = pairs(2, points)
    out = net(x, y)[..., 0]
    for n in range(points):
        w = torch.zeros(2, dim, dtype=torch.float64)
        for _ in range(steps if n else 0):
            error = torch.einsum("bnd,bd->bn", x[:, :n], w) - y[:, :n]
            w = w - rate * torch.einsum("bn,bnd->bd", error, x[:, :n]) / n
        # Their prediction is minus the query's entry.
        torch.testing.assert_close(-out[:, n], (w * x[:, n]).sum(-1), rtol=1e-12, atol=1e-12)


def test_damping_scales_what_a_layer_adds() -> None:
    plain = regressor(tokens="joined", layers=1, heads=1, **LINEAR)
    damped = regressor(tokens="joined", layers=1, heads=1, damping=0.25, **LINEAR)
    x, y = pairs(2, 5)
    torch.testing.assert_close(damped(x, y), 0.25 * plain(x, y), rtol=1e-12, atol=1e-12)


# Tied layers


def test_tied_layers_are_equal_layers_with_weights_held_once() -> None:
    tied, free = regressor(tied=True, layers=3), regressor(layers=3)
    first = {k.split("blocks.0.")[1]: v for k, v in tied.state_dict().items() if "blocks.0." in k}
    assert not [k for k in tied.state_dict() if "blocks.1." in k]
    state = dict(tied.state_dict())
    state |= {f"backbone.blocks.{i}.{k}": v for i in (1, 2) for k, v in first.items()}
    free.load_state_dict(state)
    x, y = pairs(2, 5)
    torch.testing.assert_close(tied(x, y), free(x, y), rtol=0, atol=1e-14)

    tied(x, y).sum().backward()
    free(x, y).sum().backward()
    gradients = [block.attention.qkv.weight.grad for block in free.backbone.blocks]
    torch.testing.assert_close(
        tied.backbone.blocks[0].attention.qkv.weight.grad, sum(gradients), rtol=0, atol=1e-12
    )


def test_tied_layers_stay_tied_through_copies_and_iterate_as_often_as_asked() -> None:
    tied = regressor(tied=True, layers=2)
    copied = copy.deepcopy(tied).float().double()
    assert copied.backbone.blocks[1].attention.qkv is copied.backbone.blocks[0].attention.qkv
    assert copied.backbone.blocks[1].attention.qkv is not tied.backbone.blocks[0].attention.qkv
    assert copied.backbone.blocks[1].attention.q is not copied.backbone.blocks[0].attention.q
    longer = regressor(tied=True, layers=5)
    longer.load_state_dict(tied.state_dict())
    x, y = pairs(2, 5)
    hidden, _ = tied.backbone(tied.tokens.sequence(x, y))
    assert (longer(x, y) - tied(x, y)).abs().max() > 1e-6
    assert hidden.shape == (2, 9, 16)


# Starts


def test_the_start_is_as_asked() -> None:
    torch.manual_seed(0)
    net = InContextRegressor(init_std=0.02, layers=2, positions="learned")
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            # The standard error of a deviation from n draws is 1/√2n; five of them.
            assert abs(float(parameter.detach().std()) / 0.02 - 1) < 5 / math.sqrt(2 * parameter.numel()), name
        elif "bias" in name:
            assert not parameter.any(), name


def test_merged_attention_starts_balanced() -> None:
    net = InContextRegressor(dim=4, tokens="joined", layers=1, heads=1, merged=True, init_std=0.3, **LINEAR)
    attention = net.backbone.blocks[0].attention
    assert isinstance(attention, MergedAttention)
    kq, pv = attention.kq()[0].detach(), attention.pv()[0].detach()
    torch.testing.assert_close(pv, 0.3 * torch.diag(torch.tensor([0.0] * 4 + [1.0])))
    torch.testing.assert_close(kq.norm(), torch.tensor(0.3))
    assert not kq[-1].any()
    assert not kq[:, -1].any()
    torch.testing.assert_close(kq, kq.T)
    assert torch.linalg.eigvalsh(kq).min() > -1e-6  # ΘΘᵀ is positive semi-definite


def test_separate_matrices_trade_a_scale_and_merged_ones_are_their_products() -> None:
    net = regressor(tokens="joined", layers=1, heads=1, **LINEAR)
    x, y = pairs(2, 5)
    before, attention = net(x, y), net.backbone.blocks[0].attention
    kq, pv = attention.kq(), attention.pv()
    merged = regressor(tokens="joined", layers=1, heads=1, merged=True, **LINEAR)
    with torch.no_grad():
        merged.backbone.blocks[0].attention.key_query.weight.copy_(2 * kq[0])
        merged.backbone.blocks[0].attention.value_out.weight.copy_(pv[0] / 2)
    torch.testing.assert_close(merged(x, y), before, rtol=1e-12, atol=1e-12)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 15}, "heads must divide the width, given 2 heads and width 15"),
        ({"layers": 0}, "layers must be at least 1, given 0"),
        ({"mlp_ratio": -1}, "mlp_ratio must not be negative"),
        ({"backbone": "mamba"}, "backbone must be one of 'transformer', 'lstm', 'gru', given 'mamba'"),
        ({"tokens": "split"}, "tokens must be one of 'interleaved', 'joined', given 'split'"),
        ({"attention": "cosine"}, "attention must be one of .*, given 'cosine'"),
        ({"positions": "rotary"}, "positions must be one of"),
        ({"embedding": "identity", "components": 2}, "components needs embedding='linear'"),
        ({"embedding": "identity", "dim": 4}, "given 2 heads and width 5"),
        ({"backbone": "gru", "causal": False}, "causal=False needs backbone='transformer'"),
        ({"merged": True}, "give heads=1"),
        ({"query_sees_itself": False}, "needs tokens='joined'"),
        ({"damping": 0.0}, "damping must be positive"),
        ({"init_std": -1.0}, "init_std must be positive"),
        ({"head_width": 0}, "head_width must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        regressor(**arguments)


@pytest.mark.parametrize("tokens", ["interleaved", "joined"])
def test_contexts_past_learned_positions_are_refused(tokens: str) -> None:
    net = regressor(tokens=tokens, positions="learned")
    with pytest.raises(UserError, match="learned positions reach 6 pairs and a query"):
        net(*pairs(1, 9))


WRONG_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "dim": ({"x": torch.zeros(2, 4, 5)}, r"x must have shape \[episodes, points, 3\], given \[2, 4, 5\]"),
    "axes": ({"x": torch.zeros(4, 3)}, r"x must have shape \[episodes, points, 3\], given \[4, 3\]"),
    "y": ({"y": torch.zeros(2, 3)}, r"y must have shape \[2, 4\], as x has points, given \[2, 3\]"),
    "list": ({"y": [[0.0] * 4] * 2}, "y must be a tensor, given list"),
    "type": ({"x": torch.zeros(2, 4, 3).double()}, r"x must be torch.float32 on cpu, .* given torch.float64"),
    "device": ({"y": torch.zeros(2, 4, device="meta")}, "y must be torch.float32 on cpu, .* on meta"),
    "queries": (
        {"queries": torch.zeros(2, 2, 3)},
        r"queries must have shape \[2, prefixes, queries, 3\], .* given \[2, 2, 3\]",
    ),
    "queries' dim": ({"queries": torch.zeros(2, 2, 1, 4)}, r"given \[2, 2, 1, 4\]"),
    "prefixes": ({"prefixes": [0, 1]}, "prefixes must be a tensor of whole numbers, given list"),
    "real prefixes": ({"prefixes": torch.tensor([0.0, 1.0])}, "whole numbers, given torch.float32"),
    "other prefixes": ({"prefixes": torch.tensor([1])}, r"shape \[2\] or \[2, 2\], .* given \[1\]"),
}


@pytest.mark.parametrize("config", [{}, {"tokens": "joined"}, {"causal": False}, {"backbone": "lstm"}], ids=str)
@pytest.mark.parametrize("mistake", WRONG_ARGUMENTS)
def test_wrong_arguments_are_told(config: dict[str, Any], mistake: str) -> None:
    net = regressor(dtype=torch.float32, **config)
    wrong, message = WRONG_ARGUMENTS[mistake]
    right = {
        "x": torch.zeros(2, 4, 3),
        "y": torch.zeros(2, 4),
        "queries": torch.zeros(2, 2, 1, 3),
        "prefixes": torch.tensor([0, 4]),
    }
    given = {**right, **wrong}
    with pytest.raises(UserError, match=message):
        net.queries(**given)
    if wrong.keys() <= {"x", "y"}:
        with pytest.raises(UserError, match=message):
            net(given["x"], given["y"])


def test_no_points_are_told() -> None:
    with pytest.raises(UserError, match=r"with at least 1 points, given \[2, 0, 3\]"):
        regressor(dtype=torch.float32)(torch.zeros(2, 0, 3), torch.zeros(2, 0))


# Blocks that differ, and a start token


def test_a_layout_is_its_blocks_one_by_one() -> None:
    """As the same blocks in networks of one shape: two layers, then one, then the first two again."""
    layout = Layout(heads=(2, 0, 2, 0), hidden=(5, 7, 5, 7), like=(0, 1, 0, 1))
    net = regressor(layout=layout, head_width=4)
    assert {name.split(".")[2] for name in net.state_dict() if name.startswith("backbone.blocks")} == {"0", "1"}
    x, y = pairs(2, 5)
    _, cache = net.run_with_cache(x, y, names="blocks.*.residual")
    assert len(cache) == 4
    blocks = net.backbone.blocks
    stream = cache["blocks.0.residual"]
    # The second block is its perceptron alone.
    torch.testing.assert_close(cache["blocks.1.residual"], stream + blocks[1].mlp(blocks[1].mlp_norm(stream)))
    with pytest.raises(UserError, match=r"unknown hook point 'blocks.1.attention.pattern'"):
        net.run_with_cache(x, y, names="blocks.1.attention.pattern")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (((1,), (2, 2), (0, 1)), "given 1, 2 and 2 entries"),
        (((), (), ()), "given 0, 0 and 0 entries"),
        (((1, -1), (2, 2), (0, 1)), "must not be negative"),
        (((1, 1), (2, 2), (1, 1)), "block 0 of a layout is like 1; name itself or an earlier original"),
        (((1, 1, 1), (2, 2, 2), (0, 0, 1)), "block 2 of a layout is like 1"),
        (((1, 2), (2, 2), (0, 0)), "block 1 of a layout is like block 0, which has another shape"),
    ],
)
def test_layouts_that_cannot_be_are_refused(entries: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Layout(*entries)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layout": Layout((1,), (2,), (0,))}, "a layout needs head_width"),
        ({"start_token": True}, "start_token=True needs a causal transformer over joined tokens"),
        ({"activation": "relu"}, "activation must be one of 'gelu', 'arithmetic'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        regressor(**config)


def test_arithmetic_units_multiply_and_divide() -> None:
    net = regressor(layout=Layout((0,), (2,), (0,)), head_width=1, activation="arithmetic", norm=False)
    up, _, down = net.backbone.blocks[0].mlp
    x, y = pairs(2, 4)
    _, cache = net.run_with_cache(x, y)
    stream = cache["embedded"]
    a, b, c = (
        stream @ weight.mT + bias for weight, bias in zip(up.weight.chunk(3), up.bias.chunk(3), strict=True)
    )
    expected = stream + (a * b / c) @ down.weight.mT + down.bias
    torch.testing.assert_close(cache["blocks.0.residual"], expected)


def test_the_start_token_is_seen_by_all() -> None:
    net = regressor(tokens="joined", start_token=True, positions="learned")
    x, y = pairs(1, 4)
    before = net(x, y)
    with torch.no_grad():
        net.tokens.start.add_(torch.randn(16))
    assert ((net(x, y) - before).abs() > 1e-6).all()
    assert len(net.tokens.positions) == 6 + 2
