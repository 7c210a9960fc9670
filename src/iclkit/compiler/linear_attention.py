"""Networks of linear attention whose matrices are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.networks import MergedAttention
from iclkit.networks.transformer import Block
from iclkit.regression import InContextRegressor

Rates = float | Sequence[float]


def attention_layer(
    key_query: Float[Tensor, "W W"], value_out: Float[Tensor, "W W"], points: int, *, merged: bool = True
) -> InContextRegressor:
    """One layer f = E + W_PV E (Eᵀ W_KQ E) / n on the tokens (x, y) and (x, 0) as they are.

    Args:
        key_query: W_KQ; W = d + 1.
        value_out: W_PV.
        points: Longest context.
        merged: Whether it holds these two, or W_K, W_Q, W_V and W_O with the same products.

    Raises:
        UserError: Points below one, or matrices that are not square, of one width and finite.
    """
    size = len(key_query)
    for name, matrix in (("key_query", key_query), ("value_out", value_out)):
        if matrix.shape != (size, size) or not matrix.isfinite().all():
            raise UserError(f"{name} must be a finite matrix {[size, size]}, given shape {list(matrix.shape)}")
    dim = size - 1
    network = build(dim, points, width=dim + 1, layers=1, tied=False, merged=merged, embedding="identity")
    set_layer(blocks(network)[0], key_query, value_out)
    return network


def build(
    dim: int, points: int, *, tied: bool = False, merged: bool = True, **sizes: Any
) -> InContextRegressor:
    """A network of attention alone, float64 and all weights 0, whose query is neither key nor value.

    Args:
        dim: Dimension of x.
        points: Longest context.
        tied: Whether all layers are one.
        merged: Whether attention has two matrices or four.
        sizes: Further arguments of `InContextRegressor`.

    Raises:
        UserError: Sizes below one.
    """
    check_sizes(dim, points)
    given = {
        "heads": 1,
        "mlp_ratio": 0,
        "tokens": "joined",
        "attention": "linear",
        "norm": False,
        "bias": False,
    }
    # Pairs see all pairs of their context, and the query is none of them.
    given |= {"causal": False, "query_sees_itself": False}
    # On the meta device nothing is drawn from the global generator.
    with torch.device("meta"):
        network = InContextRegressor(dim, max_points=points, tied=tied, merged=merged, **{**given, **sizes})
    network = network.double().to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.detach().zero_()
    return network.requires_grad_(False).eval()


def blocks(network: InContextRegressor) -> list[Block]:
    """The blocks of a network, in order; one that is tied holds its first alone."""
    return cast("list[Block]", list(cast(nn.ModuleList, network.backbone.blocks)))


def set_layer(block: Block, key_query: Float[Tensor, "W W"], value_out: Float[Tensor, "W W"]) -> None:
    """Give the attention of a block these matrices W_KQ and W_PV; if it has four, W_K = W_O = I."""
    attention = block.attention
    assert attention is not None
    if isinstance(attention, MergedAttention):
        set_weights(attention.key_query.weight, key_query)
        set_weights(attention.value_out.weight, value_out)
        return
    own = torch.eye(len(key_query), dtype=torch.float64)
    set_weights(attention.qkv.weight, torch.cat([key_query, own, value_out]))
    set_weights(attention.out.weight, own)


def set_weights(parameter: Tensor, values: Tensor) -> None:
    """Put values into the first rows and columns of a parameter; what is left of it is 0."""
    with torch.no_grad():
        parameter.zero_()
        parameter[tuple(slice(size) for size in values.shape)] = values.to(parameter)


def diagonal(dim: int, inputs: float, output: float) -> Float[Tensor, "W W"]:
    """diag(a I, b) on the tokens (x, y)."""
    return torch.diag(torch.tensor([inputs] * dim + [output], dtype=torch.float64))


def turned(value_out: Float[Tensor, "W W"]) -> Float[Tensor, "W W"]:
    """W_PV with the other sign in the row of y: what is to be read as it is, and not its negative."""
    value_out = value_out.clone()
    value_out[-1] *= -1
    return value_out


# The largest sizes that weights are made for; a matrix of dim by dim must fit beside the others.
_MOST = {"dim": 1024, "points": 2**20}


def check_sizes(dim: int, points: int) -> None:
    """Refuse dimensions and contexts below one, or beyond what weights can be made for.

    Raises:
        UserError: One of them is.
    """
    for name, value in (("dim", dim), ("points", points)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, given {value}")
        if value > _MOST[name]:
            raise UserError(f"{name} must be at most {_MOST[name]}, given {value}")


def check_each(name: str, given: Rates, steps: int) -> list[float]:
    """One positive number for each step.

    Args:
        name: What they are called.
        given: One for all steps, or one for each.
        steps: How many steps.

    Raises:
        UserError: Fewer than one step, more or fewer numbers than steps, or one that is not positive.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, given {steps}")
    values = [float(value) for value in given] if isinstance(given, Sequence) else [float(given)] * steps
    if len(values) != steps:
        raise UserError(f"{name} must be one number or {steps}, one a step, given {len(values)}")
    if not all(0 < value < float("inf") for value in values):
        raise UserError(f"{name} must be positive, given {given}")
    return values


def check_tied(tied: bool, *numbers: Sequence[float]) -> bool:
    """Refuse tied layers whose numbers differ.

    Args:
        tied: Whether all layers are one.
        numbers: Rates and the like, one for each layer.

    Returns:
        `tied`.

    Raises:
        UserError: Layers that are tied, with different numbers.
    """
    for values in numbers:
        if tied and len(set(values)) > 1:
            raise UserError(f"tied layers have one rate, given {values}; give one number, or tied=False")
    return tied
