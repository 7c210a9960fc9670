"""The transformer, its exact two-stream evaluation, and the attention kernel that makes it fast."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.networks import WEIGHTINGS, BlockConfig, Mask, Transformer
from iclkit.networks.query_attention import query_attention, reference
from iclkit.regression import InContextRegressor

# Rounding of a few layers of sums, with energies of order one: 2^-24 and 2^-53 times some tens.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def network(dtype: torch.dtype = torch.float64, seed: int = 0, **config: object) -> EnergyTransformer:
    """A small network with weights of its own seed; the readout is random even where it would start at zero."""
    torch.manual_seed(seed)
    arguments = {"dim": 2, "width": 16, "layers": 2, "heads": 2, "max_points": 12, **config}
    built = EnergyTransformer(**arguments)  # pyright: ignore[reportArgumentType]
    nn.init.normal_(built.readout.weight, std=0.25)
    return built.to(dtype)


def re_encoded(net: EnergyTransformer, x: Tensor, candidates: Tensor) -> Tensor:
    """The definition: run the whole network on each prefix with each candidate as its last point."""
    _, points, count, _ = candidates.shape
    rows = [
        torch.stack(
            [net.energies(torch.cat([x[:, :n], candidates[:, n, k, None]], 1))[:, -1] for k in range(count)], -1
        )
        for n in range(points)
    ]
    return torch.stack(rows, 1)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "config": {
            "dim": draw(st.integers(1, 4)),
            "heads": heads,
            "width": heads * draw(st.sampled_from([2, 4, 8])),
            "layers": draw(st.integers(1, 3)),
            "mlp_ratio": draw(st.integers(1, 4)),
            "positions": draw(st.sampled_from(["none", "learned"])),
            "features": draw(st.sampled_from([0, 3])),
            "base_std": draw(st.sampled_from([None, 2.0])),
            "max_points": 6,
        },
        "batch": draw(st.integers(1, 3)),
        "points": draw(st.integers(1, 6)),
        "count": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 2**31)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
    }


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases())
def test_candidate_energies_equal_re_encoding_every_prefix_for_every_candidate(case: dict) -> None:
    config, dtype = case["config"], case["dtype"]
    net = network(dtype, case["seed"], **config)
    x = torch.randn(case["batch"], case["points"], config["dim"], dtype=dtype).requires_grad_()
    candidates = torch.randn(*x.shape[:2], case["count"], config["dim"], dtype=dtype).requires_grad_()

    fast = net.candidate_energies(x, candidates)
    slow = re_encoded(net, x, candidates)

    # A random direction tests all partial derivatives at once: with respect to candidates, context and weights.
    direction = torch.randn_like(fast)
    inputs = [candidates, x, *net.parameters()]
    fast_gradients = torch.autograd.grad((fast * direction).sum(), inputs, allow_unused=True)
    slow_gradients = torch.autograd.grad((slow * direction).sum(), inputs, allow_unused=True)

    def close(a: Tensor, b: Tensor) -> None:
        size = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * size)

    close(fast, slow)
    # n = 0 is the first row: no context at all.
    close(fast[:, 0], slow[:, 0])
    for tensor, a, b in zip(inputs, fast_gradients, slow_gradients, strict=True):
        # Where the definition never uses an input (a single point is nobody's context), its gradient is None.
        zero = torch.zeros_like(tensor)
        close(zero if a is None else a, zero if b is None else b)


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_prefixes_may_be_chosen_in_any_order_and_the_whole_context_is_one(positions: str) -> None:
    net = network(positions=positions)
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    candidates = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    chosen = torch.tensor([5, 0, 3, 3])

    energies = net.query(net.encode(x), candidates, chosen)

    for row, n in enumerate(chosen.tolist()):
        for k in range(3):
            sequence = torch.cat([x[:, :n], candidates[:, row, k, None]], 1)
            torch.testing.assert_close(energies[:, row, k], net.energies(sequence)[:, -1], rtol=0, atol=1e-12)


def test_an_empty_context_is_encoded_and_scored() -> None:
    net = network()
    candidates = torch.randn(3, 1, 4, 2, dtype=torch.float64)
    energies = net.query(net.encode(candidates.new_zeros(3, 0, 2)), candidates, torch.tensor([0]))
    torch.testing.assert_close(
        energies[:, 0], net.energies(candidates[:, 0].reshape(12, 1, 2)).view(3, 4), rtol=0, atol=1e-12
    )
    assert net.energies(candidates.new_zeros(3, 0, 2)).shape == (3, 0)


def test_energies_never_depend_on_later_points() -> None:
    net = network()
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    other = torch.cat([x[:, :3], torch.randn(2, 3, 2, dtype=torch.float64)], 1)
    assert torch.equal(net.energies(x)[:, :3], net.energies(other)[:, :3])


def test_encode_and_score_is_both() -> None:
    net = network()
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    energies, context = net.encode_and_score(x)
    assert torch.equal(energies, net.energies(x))
    for one, two in zip(context.memories, net.encode(x).memories, strict=True):
        assert torch.equal(one.keys, two.keys)
        assert torch.equal(one.values, two.values)


def test_the_transformer_equals_torchs_own() -> None:
    """An independent implementation with the same weights: pre-norm, exact GELU, a final LayerNorm."""
    torch.manual_seed(1)
    width, layers, heads, ratio = 24, 3, 4, 3
    ours = Transformer(BlockConfig(width, heads, ratio), layers).double()
    layer = nn.TransformerEncoderLayer(
        width, heads, ratio * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms away from 0 and 1
        for block, other in zip(ours.blocks, theirs.layers, strict=True):
            pairs = {
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
            other.load_state_dict(pairs)
        theirs.norm.load_state_dict(ours.norm.state_dict())

    x = torch.randn(2, 7, width, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x, mask=mask), rtol=0, atol=1e-12)


def test_an_untrained_network_with_a_base_is_that_gaussian() -> None:
    std = 1.7
    net = EnergyTransformer(dim=3, width=16, layers=1, heads=2, base_std=std).double()
    x = 3 * torch.randn(2, 5, 3, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, torch.tensor(std, dtype=torch.float64))
    torch.testing.assert_close(net.energies(x), -normal.log_prob(x).sum(-1), rtol=0, atol=1e-12)


def test_without_positions_the_order_of_the_context_is_irrelevant_to_one_layer_alone() -> None:
    """One layer sums over the context; a second sees keys that depend on what each of them could see."""
    x = torch.randn(1, 6, 2, dtype=torch.float64)
    candidates = torch.randn(1, 1, 4, 2, dtype=torch.float64)
    shuffled = x[:, [3, 0, 5, 1, 4, 2]]
    whole = torch.tensor([6])
    one = network(layers=1)
    a = one.query(one.encode(x), candidates, whole)
    b = one.query(one.encode(shuffled), candidates, whole)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    placed = network(layers=1, positions="learned")
    a = placed.query(placed.encode(x), candidates, whole)
    b = placed.query(placed.encode(shuffled), candidates, whole)
    assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 5, 7, 4), (3, 2, 40, 17, 8)])
def test_the_fused_attention_equals_its_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, heads, queries, stored, width = shape
    q, k, v = (torch.randn(batch, heads, queries, width, dtype=dtype) for _ in range(3))
    keys, values = (torch.randn(batch, heads, stored, width, dtype=dtype) for _ in range(2))
    q = 3 * q  # peaked weights, too
    hidden = torch.rand(queries, stored) < 0.5
    hidden[0] = True  # a query that sees itself alone
    hidden[-1] = queries == 1
    inputs = [tensor.requires_grad_() for tensor in (q, k, v, keys, values)]

    fused = query_attention(*inputs, hidden)
    definition = reference(*inputs, hidden)

    direction = torch.randn_like(fused)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(fused, definition, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(fused[:, :, 0], v[:, :, 0], rtol=tolerance, atol=tolerance)
    for name, a, b in zip(
        ("q", "k", "v", "keys", "values"),
        torch.autograd.grad(fused, inputs, direction),
        torch.autograd.grad(definition, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=10 * tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_hidden_keys_have_no_influence_however_large() -> None:
    q, k, v = (torch.randn(1, 1, 2, 4, dtype=torch.float64) for _ in range(3))
    keys, values = (torch.randn(1, 1, 3, 4, dtype=torch.float64) for _ in range(2))
    hidden = torch.tensor([[False, True, True], [False, False, True]])
    out = query_attention(q, k, v, keys, values, hidden)
    keys[..., 2, :], values[..., 2, :] = 1e3, 1e6
    assert torch.equal(query_attention(q, k, v, keys, values, hidden), out)


def test_the_twice_differentiable_path_has_right_second_derivatives() -> None:
    q, k, v = (torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    keys, values = (torch.randn(1, 2, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    hidden = torch.arange(4) >= torch.tensor([[0], [2], [4]])

    def attention(*inputs: Tensor) -> Tensor:
        return query_attention(*inputs, hidden, twice=True)  # pyright: ignore[reportCallIssue]

    assert torch.autograd.gradcheck(attention, (q, k, v, keys, values))
    assert torch.autograd.gradgradcheck(attention, (q, k, v, keys, values))


def test_the_fused_path_refuses_a_second_derivative_rather_than_giving_a_wrong_one() -> None:
    net = network()
    candidates = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    context = net.encode(torch.randn(1, 4, 2, dtype=torch.float64))
    energy = net.query(context, candidates, torch.arange(4))
    with pytest.raises(RuntimeError, match="pass twice=True"):
        torch.autograd.grad(energy.sum(), candidates, create_graph=True)


def test_both_paths_of_query_agree_and_twice_allows_losses_on_the_score() -> None:
    net = network()
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    candidates = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    prefixes = torch.arange(4)
    fast = net.query(net.encode(x), candidates, prefixes)
    slow = net.query(net.encode(x), candidates, prefixes, twice=True)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)

    def squared_score(weight: Tensor) -> Tensor:
        with torch.no_grad():
            net.readout.weight.copy_(weight)
        energy = net.query(net.encode(x), candidates, prefixes, twice=True)
        (score,) = torch.autograd.grad(energy.sum(), candidates, create_graph=True)
        return score.square().sum()

    # The derivative of the loss along a random direction of one weight matrix, against central differences.
    weight = net.readout.weight.detach().clone()
    (gradient,) = torch.autograd.grad(squared_score(weight), net.readout.weight)
    direction, step = torch.randn_like(weight), 1e-5
    difference = squared_score(weight + step * direction) - squared_score(weight - step * direction)
    assert math.isclose(
        float((gradient * direction).sum()), float(difference.detach()) / (2 * step), rel_tol=1e-6
    )


# Kinds of attention


def attend(name: str, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, counts: Tensor) -> Tensor:
    kind = WEIGHTINGS[name]
    features, keys = kind.features(q, k)
    return kind.weights(features @ keys.mT, hidden, counts) @ v


def one_by_one(name: str, q: Tensor, k: Tensor, v: Tensor, seen: list[list[int]], counts: list[int]) -> Tensor:
    """The definitions of `networks/weighting.py` for one sequence and one head, key by key."""
    scale = math.sqrt(q.shape[-1])
    weigh = {
        "softmax": lambda q, k: (q @ k / scale).exp(),
        "gaussian": lambda q, k: (-(q - k).square().sum() / (2 * scale)).exp(),
        "kernel": lambda q, k: torch.where(q > 0, q + 1, q.exp()) @ torch.where(k > 0, k + 1, k.exp()),
        "linear": lambda q, k: q @ k,
        "hard": lambda q, k: q @ k,
    }[name]
    rows = []
    for index, keys in enumerate(seen):
        weights = [weigh(q[index], k[t]) for t in keys]
        if name == "hard":
            scores = [float(q[index] @ k[t]) for t in keys]
            weights = [float(score == max(scores)) for score in scores]
        total = counts[index] if name == "linear" else sum(weights)
        parts = [w * v[t] / total for w, t in zip(weights, keys, strict=True)]
        rows.append(sum(parts, torch.zeros_like(v[0])))
    return torch.stack(rows)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_attention_is_what_its_definition_says(name: str) -> None:
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    seen = [[0], [0, 1], [], [3, 1], [0, 1, 2, 3, 4]]
    hidden = torch.tensor([[t not in keys for t in range(5)] for keys in seen])
    counts = [1, 3, 1, 2, 7]
    out = attend(name, q, k, v, hidden, torch.tensor(counts))
    for b in range(2):
        for h in range(3):
            expected = one_by_one(name, q[b, h], k[b, h], v[b, h], seen, counts)
            torch.testing.assert_close(out[b, h], expected, rtol=1e-12, atol=1e-12)
    assert not out[:, :, 2].any()  # it sees nothing
    assert not attend("linear", q, k, v, hidden, torch.zeros(5, dtype=torch.long)).any()


def test_kernel_attention_is_a_recurrent_network() -> None:
    """Katharopoulos et al. (2020), equations 16 to 20: state s and normaliser z take one update a token."""
    q, k, v = (torch.randn(6, 4, dtype=torch.float64) for _ in range(3))
    later = torch.ones(6, 6).triu(1).bool()
    out = attend("kernel", q, k, v, later, torch.arange(1, 7))
    s, z = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for t in range(6):
        features, key = nn.functional.elu(q[t]) + 1, nn.functional.elu(k[t]) + 1
        s, z = s + torch.outer(key, v[t]), z + key
        torch.testing.assert_close(out[t], features @ s / (features @ z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own", ["counted", "uncounted", "unseen"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_queries_in_a_sequence_of_their_own_mask_equal_queries_against_memory(name: str, own: str) -> None:
    net = Transformer(BlockConfig(16, 2, 2, weighting=name, own=own), 3).double()
    context, queries = torch.randn(2, 4, 16, dtype=torch.float64), torch.randn(2, 6, 16, dtype=torch.float64)
    lengths = torch.tensor([0, 1, 2, 3, 4, 4])
    place = torch.arange(4)
    mask = Mask.with_queries(place <= place[:, None], place < lengths[:, None], own, torch.float64)
    together, _ = net(torch.cat([context, queries], 1), mask)
    encoded, memories = net(context)
    torch.testing.assert_close(together[:, :4], encoded, rtol=0, atol=1e-12)
    apart = net.query(queries, memories, lengths)
    torch.testing.assert_close(together[:, 4:], apart, rtol=0, atol=1e-12)
    some, _ = net(torch.cat([context, queries], 1), mask, slice(1, None, 3))
    torch.testing.assert_close(some, together[:, 1::3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 15}, "heads must divide width, given 2 heads and width 15"),
        ({"layers": 0}, "at least 1"),
        ({"dim": 0}, "at least 1"),
        ({"positions": "rotary"}, "given 'rotary'"),
        ({"base_std": 0.0}, "base_std must lie in 1e-9..1e9 or be None, given 0.0"),
        ({"base_std": math.nan}, "base_std must lie in"),
        ({"base_std": 1e300}, "base_std must lie in"),
        ({"base_std": 1e-300}, "base_std must lie in"),
        ({"features": -1}, "features must not be negative, given -1"),
        ({"features": 2, "wavelengths": (0.0, 1.0)}, "wavelengths must be the shortest and the longest"),
        ({"features": 2, "wavelengths": (2.0, 1.0)}, "given 2.0 and 1.0"),
        ({"features": 2, "wavelengths": (1.0, math.nan)}, "wavelengths must be"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        network(**arguments)


@pytest.mark.parametrize("tokens", ["joined", "interleaved"])
def test_learned_positions_reach_as_far_as_they_say(tokens: str) -> None:
    arguments = {"dim": 2, "width": 8, "layers": 1, "heads": 1, "max_points": 4, "positions": "learned"}
    pairs = InContextRegressor(**arguments, tokens=tokens)
    points = EnergyTransformer(**arguments)
    x = torch.zeros(1, 8, 2)
    assert pairs(x[:, :5], x[:, :5, 0]).shape == (1, 5, 1)
    assert points(x[:, :5]).shape == (1, 5)
    for n in (6, 7):
        with pytest.raises(UserError, match=f"{n - 1} pairs is too long"):
            pairs(x[:, :n], x[:, :n, 0])
        with pytest.raises(UserError, match=f"{n} points are too many"):
            points(x[:, :n])
        with pytest.raises(UserError, match=f"{n} pairs is too long"):
            pairs.queries(x[:, :n], x[:, :n, 0], x[:, :1, None], torch.tensor([n]))
    with pytest.raises(UserError, match="6 points are too many"):
        points.query(points.encode(x[:, :5]), x[:, :1, None], torch.tensor([5]))
