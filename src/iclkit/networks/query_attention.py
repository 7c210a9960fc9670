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

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Hides a key from the kernel, which cannot take -inf in a row that hides every key. exp of it is an exact zero.
_HIDDEN = -1e9


def query_attention(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H Q D"],
    v: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B H N D"],
    values: Float[Tensor, "B H N D"],
    hidden: Bool[Tensor, "Q N"],
    twice: bool = False,
) -> Float[Tensor, "B H Q D"]:
    """Attend from every query to the stored keys that are not hidden from it and to its own key.

    Args:
        q: Queries.
        k: The queries' own keys.
        v: The queries' own values.
        keys: Stored keys.
        values: Stored values.
        hidden: True where a query must not see a stored token.
        twice: Whether the result must be twice differentiable, which the fused kernel is not.
    """
    if twice or q.device.type != "cpu" or q.dtype not in (torch.float32, torch.float64) or not keys.shape[-2]:
        return reference(q, k, v, keys, values, hidden)
    # The kernel takes one batch size and wants the feature axis contiguous.
    bias = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, _HIDDEN)
    return _Fused.apply(q, k, v, keys, values, bias)  # pyright: ignore[reportReturnType]


def reference(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H Q D"],
    v: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B H N D"],
    values: Float[Tensor, "B H N D"],
    hidden: Bool[Tensor, "Q N"],
) -> Float[Tensor, "B H Q D"]:
    """The definition, on any device and any number of times differentiable."""
    q = q / math.sqrt(q.shape[-1])
    stored = (q @ keys.mT).masked_fill(hidden, -math.inf)
    own = (q * k).sum(-1, keepdim=True)
    weights = torch.softmax(torch.cat([stored, own], -1), -1)
    return weights[..., :-1] @ values + weights[..., -1:] * v


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, keys, values, bias):
        scale = 1 / math.sqrt(q.shape[-1])
        out, stored = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, keys, values, 0.0, False, attn_mask=bias, scale=scale
        )
        own = (q * k).sum(-1).mul_(scale)
        total = torch.logaddexp(stored.to(own.dtype), own)
        weight = (own - total).exp_().unsqueeze(-1)
        out = torch.lerp(out, v, weight)
        ctx.save_for_backward(q, k, v, keys, values, bias, out, total, weight)
        return out

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            # `once_differentiable` would raise too late: `torch.autograd.grad` for given inputs never reaches
            # its error and takes this gradient for a constant.
            raise RuntimeError(
                "the fused attention is differentiable once; for create_graph=True pass twice=True"
            )
        q, k, v, keys, values, bias, out, total, weight = ctx.saved_tensors
        scale = 1 / math.sqrt(q.shape[-1])
        dq, dkeys, dvalues = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, keys, values, out, total, 0.0, False, attn_mask=bias, scale=scale
        )
        # d own = w (dout . (v - out)), the softmax rule for the last of the merged weights.
        down = (grad * (v - out)).sum(-1, keepdim=True).mul_(weight).mul_(scale)
        return torch.addcmul(dq, down, k), down * q, weight * grad, dkeys, dvalues, None
