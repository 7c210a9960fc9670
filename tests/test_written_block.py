"""The written-out block against its modules called one by one, and its products against torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.networks import BlockConfig, Mask, Transformer, written_block
from iclkit.networks.products import linear, weight_gradient
from iclkit.networks.transformer import Block
from iclkit.regression import InContextRegressor

# Rounding of sums of some hundred terms of order one: 2^-24 and 2^-53 times some tens.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@contextmanager
def one_by_one() -> Iterator[None]:
    """The modules do the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_block, "written", lambda *_: False)
        yield


def block(seed: int, dtype: torch.dtype = torch.float64, **config: Any) -> Block:
    """A block whose every parameter is random."""
    torch.manual_seed(seed)
    made = Block(BlockConfig(**{"width": 8, "heads": 2, **config})).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def close(a: Tensor | None, b: Tensor | None, dtype: torch.dtype) -> None:
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        size = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * size)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    heads, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    step = draw(st.integers(1, 3))
    return {
        "config": {
            "width": draw(st.sampled_from([4, 8, 16])) if heads != 3 else 12,
            "heads": heads,
            "mlp_ratio": draw(st.integers(1, 4)),
            "bias": draw(st.booleans()),
            "head_width": draw(st.sampled_from([None, 3])),
        },
        # Enough rows for either library, and few enough for one alone.
        "batch": draw(st.sampled_from([1, 3, 40, 150])),
        "tokens": tokens,
        "rows": draw(st.sampled_from([None, slice(None, None, step), slice(tokens - 1, None)])),
        "causal": draw(st.booleans()),
        "read": draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=120, deadline=None, derandomize=True)
@given(cases())
def test_values_and_gradients_equal_those_of_the_modules(case: dict[str, Any]) -> None:
    dtype, tokens = case["dtype"], case["tokens"]
    made = block(case["seed"], dtype, **case["config"])
    x = torch.randn(case["batch"], tokens, case["config"]["width"], dtype=dtype, requires_grad=True)
    mask = Mask.lower(x)
    if not case["causal"]:
        # Any mask that all episodes share, as long as each token sees something.
        hidden = (torch.rand(tokens, tokens) < 0.5) & ~torch.eye(tokens, dtype=torch.bool)
        mask = Mask(hidden, (~hidden).sum(-1), dtype)
    assert written_block.written(made, x, mask)

    def outputs() -> list[Tensor]:
        out, memory = made(x, mask, case["rows"])
        return [out, memory.keys, memory.values]

    fast = outputs()
    with one_by_one():
        slow = outputs()
    directions = [torch.randn_like(tensor) for tensor in slow]
    for a, b in zip(fast, slow, strict=True):
        close(a, b, dtype)

    def gradients(found: list[Tensor]) -> tuple[Tensor | None, ...]:
        read = [(o, d) for o, d, wanted in zip(found, directions, case["read"], strict=True) if wanted]
        wrt = [x, *made.parameters()]
        return torch.autograd.grad([o for o, _ in read], wrt, [d for _, d in read], allow_unused=True)

    for a, b in zip(gradients(fast), gradients(slow), strict=True):
        # A parameter that no output depends on has no gradient, or one of zeros.
        if a is None or b is None:
            assert a is None or not a.any()
            assert b is None or not b.any()
        else:
            close(a, b, dtype)


@pytest.mark.parametrize("frozen", ["weights", "input"])
def test_frozen_parts_get_no_gradient_and_change_no_other(frozen: str) -> None:
    made, x = block(0), torch.randn(5, 6, 8, dtype=torch.float64)
    x.requires_grad_(frozen == "weights")
    made.requires_grad_(frozen == "input")

    def gradients() -> list[Tensor | None]:
        x.grad = None
        made.zero_grad()
        made(x, Mask.lower(x))[0].square().sum().backward()
        return [x.grad, *(p.grad for p in made.parameters())]

    fast = gradients()
    with one_by_one():
        slow = gradients()
    for a, b in zip(fast, slow, strict=True):
        close(a, b, torch.float64)


def test_gradients_can_be_differentiated_again() -> None:
    made = block(1, width=4)
    made.requires_grad_(False)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    made.attention.qkv.weight.requires_grad_(True)
    assert written_block.written(made, x, Mask.lower(x))

    def function(x: Tensor, _: Tensor) -> Tensor:
        return made(x, Mask.lower(x), slice(1, None))[0]

    assert torch.autograd.gradgradcheck(function, (x, made.attention.qkv.weight))


def test_the_modules_run_where_somebody_listens_or_has_changed_a_part() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    mask = Mask.lower(x)
    made = block(2)
    assert written_block.written(made, x, mask)
    remove = made.attention.pattern.add(lambda _: None)
    assert not written_block.written(made, x, mask)
    remove()

    handle = made.attention_norm.register_forward_hook(lambda *_: None)
    assert not written_block.written(made, x, mask)
    handle.remove()

    with torch.autocast("cpu", torch.bfloat16):
        assert not written_block.written(made, x, mask)

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    made.attention.out = Doubled(8, 8, dtype=torch.float64)
    assert not written_block.written(made, x, mask)

    assert isinstance(made.mlp, nn.Sequential)
    other = block(2)
    assert other.mlp is not None
    other.mlp[1] = nn.GELU(approximate="tanh")
    assert not written_block.written(other, x, mask)


@pytest.mark.parametrize(
    "config", [{"norm": False}, {"mlp_ratio": 0}, {"weighting": "linear"}, {"damping": 0.5}, {"merged": True}]
)
def test_the_modules_run_other_kinds_of_blocks(config: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    assert not written_block.written(block(0, **{"heads": 1, **config}), x, Mask.lower(x))


@pytest.mark.parametrize("tied", [False, True])
def test_whole_networks_train_alike(tied: bool) -> None:
    """A few updates of a regressor: the same course as with the modules, rounding aside."""

    def course() -> list[float]:
        torch.manual_seed(0)
        net = InContextRegressor(dim=3, width=16, layers=2, heads=2, max_points=6, tied=tied).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        losses = []
        for _ in range(5):
            x, y = torch.randn(9, 6, 3, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
            loss = F.mse_loss(net(x, y)[..., 0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    fast = course()
    with one_by_one():
        slow = course()
    assert fast == pytest.approx(slow, rel=1e-11)


def test_an_empty_sequence_goes_through() -> None:
    transformer = Transformer(BlockConfig(8, 2), 2)
    assert transformer(torch.randn(3, 0, 8))[0].shape == (3, 0, 8)
    assert transformer(torch.randn(0, 3, 8))[0].shape == (0, 3, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 100, 300])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 24), (24, 5), (1, 1)])
def test_products_equal_their_definition(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x, weight, bias, residual = draw(rows, inputs), draw(outputs, inputs), draw(outputs), draw(rows, outputs)
    double = [tensor.double() for tensor in (x, weight, bias, residual)]
    before = residual.clone()
    for b in (None, bias):
        for r in (None, residual):
            right = double[0] @ double[1].mT
            right = right + (0 if b is None else double[2]) + (0 if r is None else double[3])
            close(linear(x, weight, b, r), right.to(dtype), dtype)
    close(linear(residual, weight.mT), (double[3] @ double[1]).to(dtype), dtype)
    # Sums of 300 terms: √300 of them at once.
    close(weight_gradient(residual, x), (double[3].mT @ double[0]).to(dtype), dtype)
    assert torch.equal(residual, before)
