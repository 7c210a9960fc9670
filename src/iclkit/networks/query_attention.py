"""Attention of queries over stored tokens and over themselves.

A query's softmax runs over the keys that it may see and over its own. `reference` writes that down; `_Fused`
computes the same in a third of the time on a CPU, by way of the flash kernel over the stored keys alone:

    out = (1 - w) out_stored + w v,    w = exp(s_own - L),    L = log(exp(L_stored) + exp(s_own)),

where L_stored is the log-sum-exp that the kernel returns. The kernel's backward pass rebuilds its probabilities
as exp(s - L) and needs rowsum(dout * out): given the merged L and the merged output, it yields the gradients of
the merged attention with respect to the stored part; the own part is elementwise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Hides a key from the kernel, which cannot take -inf in a row that hides every key. exp of it is an exact zero.
HIDDEN = -1e9


def query_attention(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H Q D"],
    v: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B H N D"],
    values: Float[Tensor, "B H N D"],
    hidden: Bool[Tensor, "*S Q N"],
    twice: bool = False,
) -> Float[Tensor, "B H Q D"]:
    """Attend from every query to the stored keys that are not hidden from it and to its own key.

    Args:
        q: Queries.
        k: The queries' own keys.
        v: The queries' own values.
        keys: Stored keys.
        values: Stored values.
        hidden: True where a query must not see a stored token: [Q, N], or [B, 1, Q, N] for one in each episode.
        twice: Whether the result must be twice differentiable, which the fused kernel is not.
    """
    if twice or not fusible(q) or not keys.shape[-2]:
        return reference(q, k, v, keys, values, hidden)
    return _Fused.apply(q, k, v, keys, values, hiding_bias(hidden, q.dtype))  # pyright: ignore[reportReturnType]


def fusible(x: Tensor) -> bool:
    """Whether the fused kernel exists for tensors like this one."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def hiding_bias(hidden: Bool[Tensor, "*S Q N"], dtype: torch.dtype) -> Float[Tensor, "*S Q N"]:
    """What the kernel adds to the logits, so that hidden keys get no weight."""
    return hidden.new_zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, hiding(dtype))


def hiding(dtype: torch.dtype) -> float:
    """`HIDDEN`, or what hides as well in half precision, whose numbers end at 65504; a score may be added."""
    return max(HIDDEN, torch.finfo(dtype).min / 2)


def reference(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H Q D"],
    v: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B H N D"],
    values: Float[Tensor, "B H N D"],
    hidden: Bool[Tensor, "*S Q N"],
) -> Float[Tensor, "B H Q D"]:
    """The definition, on any device and any number of times differentiable."""
    q = q / math.sqrt(q.shape[-1])
    stored = (q @ keys.mT).masked_fill(hidden, -math.inf)
    own = (q * k).sum(-1, keepdim=True)
    weights = torch.softmax(torch.cat([stored, own], -1), -1)
    return weights[..., :-1] @ values + weights[..., -1:] * v


class Attended(NamedTuple):
    """The merged output and what its backward pass needs."""

    out: Float[Tensor, "B H Q D"]
    total: Float[Tensor, "B H Q"]
    own_weight: Float[Tensor, "B H Q 1"]


def fused_forward(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Attended:
    """The merged attention by the kernel; shapes as in `query_attention`, the bias from `hiding_bias`."""
    scale = 1 / math.sqrt(q.shape[-1])
    out, stored = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, keys, values, 0.0, False, attn_mask=bias, scale=scale
    )
    own = (q * k).sum(-1).mul_(scale)
    total = torch.logaddexp(stored.to(own.dtype), own)
    weight = own.sub_(total).exp_().unsqueeze(-1)
    return Attended(out.lerp_(v, weight), total, weight)


def fused_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    attended: Attended,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to q, k, v, keys and values."""
    out, total, weight = attended
    scale = 1 / math.sqrt(q.shape[-1])
    dq, dkeys, dvalues = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, keys, values, out, total, 0.0, False, attn_mask=bias, scale=scale
    )
    # d own = w (dout . (v - out)), the softmax rule for the last of the merged weights.
    down = (grad * (v - out)).sum(-1, keepdim=True).mul_(weight).mul_(scale)
    return torch.addcmul(dq, down, k), down * q, weight * grad, dkeys, dvalues


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, keys, values, bias):
        attended = fused_forward(q, k, v, keys, values, bias)
        ctx.save_for_backward(q, k, v, keys, values, bias, *attended)
        return attended.out

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            # `once_differentiable` would raise too late: `torch.autograd.grad` for given inputs never reaches
            # its error and takes this gradient for a constant.
            raise RuntimeError(
                "the fused attention is differentiable once; for create_graph=True pass twice=True"
            )
        q, k, v, keys, values, bias, *attended = ctx.saved_tensors
        return *fused_backward(grad, q, k, v, keys, values, bias, Attended(*attended)), None
