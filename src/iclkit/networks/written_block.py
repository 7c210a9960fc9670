"""A transformer block over a whole sequence, with its backward pass written out.

At widths around 64 a block spends more time between its matrix products than in them: in dozens of recorded
steps, in the flash kernel, which is slow for narrow heads and short sequences, and in the library that
multiplies (see `products.py`). Written out, a block is one node of the graph. It computes what `Block` says;
tests hold its values and gradients to that. It stands in where nobody listens and no part was changed.

The backward pass of y = m + V g(U norm(m)), m = x + O a(Q norm(x)), with Q for queries, keys and values:
dm = dy + norm'(Uᵀ g'(Vᵀ dy)), dx = dm + norm'(Qᵀ a'(Oᵀ dm)).

Shape letters: B episodes, T tokens, R of which are asked for, W width, H heads, D width of a head, S = B H.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.arrays import transforming
from iclkit.networks.hooks import HookPoint
from iclkit.networks.masks import Mask
from iclkit.networks.products import linear, weight_gradient

if TYPE_CHECKING:
    from iclkit.networks.transformer import Block

# The pattern is kept for the backward pass. From about this many tokens on the flash kernel, which rebuilds it,
# is as fast (64 x 4 heads of width 16, forward: 40 tokens take 0.7 ms here, 1.4 ms there; 160 take 13 and 10).
_MOST_TOKENS = 96


class _Weights(NamedTuple):
    """Parameters of a block; None for the biases that it lacks."""

    norm: Tensor
    norm_bias: Tensor | None
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    mlp_norm_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class _Form(NamedTuple):
    """What is no weight: the heads, the tokens asked for, and what the norms add to variances."""

    heads: int
    rows: slice
    eps: float
    mlp_eps: float


class _Saved(NamedTuple):
    """What the backward pass needs of the forward pass; a row for each token where nothing is said."""

    mean: Tensor
    rstd: Tensor
    normed: Tensor
    qkv: Float[Tensor, "3 S T D"]
    pattern: Float[Tensor, "S R T"]
    attended: Tensor
    middle: Tensor
    mlp_mean: Tensor
    mlp_rstd: Tensor
    mlp_normed: Tensor
    hidden: Tensor
    active: Tensor


def written(block: Block, x: Float[Tensor, "B T W"], mask: Mask) -> bool:
    """Whether `run` does what the block's modules would do one by one."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and x.shape[1] <= _MOST_TOKENS
        and mask.hidden.ndim == 2
        and not mask.blind
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not transforming()
        and _plain(block)
    )


def _plain(block: Block) -> bool:
    config = block.config
    if config.weighting != "softmax" or config.merged or config.damping != 1.0 or not config.variant.plain:
        return False
    if not config.heads or block.mlp is None:
        return False
    kinds = (nn.LayerNorm, nn.Linear, nn.Linear, nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear)
    if any(type(part) is not kind for part, kind in zip(_parts(block), kinds, strict=True)):
        return False
    if cast(nn.GELU, _parts(block)[5]).approximate != "none":
        return False
    return not any(
        module.listening
        if isinstance(module, HookPoint)
        else module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        # The parts that a twin shares are no modules of its own.
        for module in (*block.modules(), *_parts(block))
    )


def _parts(block: Block) -> tuple[nn.Module, ...]:
    attention = block.attention
    return block.attention_norm, attention.qkv, attention.out, block.mlp_norm, *cast(nn.Sequential, block.mlp)


def run(
    block: Block, x: Float[Tensor, "B T W"], mask: Mask, rows: slice | None
) -> tuple[Float[Tensor, "B R W"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
    """The rows that are asked for (all if None), and all keys and values."""
    norm, qkv, out, mlp_norm, up, _, down = cast("tuple[nn.Linear, ...]", _parts(block))
    weights = [p for part in (norm, qkv, out, mlp_norm, up, down) for p in (part.weight, part.bias)]
    eps, mlp_eps = (cast(nn.LayerNorm, part).eps for part in (norm, mlp_norm))
    form = _Form(block.attention.heads, slice(None) if rows is None else rows, eps, mlp_eps)
    return _Written.apply(x, mask.bias, form, *weights)  # pyright: ignore[reportReturnType]


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, form, *parameters):
        ctx.form = form
        ctx.set_materialize_grads(False)
        out, keys, values, saved = _forward(x, bias, form, _Weights(*parameters))
        ctx.save_for_backward(x, bias, *parameters, *saved)
        return out, keys, values

    @staticmethod
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        count = len(_Weights._fields)
        x, bias, *tensors = ctx.saved_tensors
        weights = _Weights(*tensors[:count])
        if torch.is_grad_enabled():
            dx, dweights = _recorded_backward(grads, x, bias, ctx.form, weights)
        else:
            saved = _Saved(*tensors[count:])
            dx, dweights = _backward(grads, x, ctx.form, weights, saved, any(ctx.needs_input_grad[3:]))
        return dx, None, None, *dweights


def _forward(
    x: Float[Tensor, "B T W"], bias: Float[Tensor, "T T"], form: _Form, w: _Weights
) -> tuple[Tensor, Tensor, Tensor, _Saved]:
    batch, tokens, width = x.shape
    normed, mean, rstd = torch.native_layer_norm(x.reshape(-1, width), [width], w.norm, w.norm_bias, form.eps)
    qkv = linear(normed, w.qkv, w.qkv_bias).view(batch, tokens, 3, form.heads, -1)
    qkv = qkv.permute(2, 0, 3, 1, 4).reshape(3, batch * form.heads, tokens, -1)
    q, k, v = qkv
    pattern = torch.softmax(
        torch.baddbmm(bias[form.rows], q[:, form.rows], k.mT, alpha=1 / math.sqrt(q.shape[-1])), -1
    )
    attended = _merge(pattern @ v, batch)
    middle = linear(attended, w.out, w.out_bias, x[:, form.rows].reshape(-1, width))
    mlp_normed, mlp_mean, mlp_rstd = torch.native_layer_norm(
        middle, [width], w.mlp_norm, w.mlp_norm_bias, form.mlp_eps
    )
    hidden = linear(mlp_normed, w.up, w.up_bias)
    active = F.gelu(hidden)
    out = linear(active, w.down, w.down_bias, middle)
    saved = _Saved(
        mean, rstd, normed, qkv, pattern, attended, middle, mlp_mean, mlp_rstd, mlp_normed, hidden, active
    )
    by_head = (batch, form.heads, tokens, -1)
    return out.view(batch, -1, width), k.view(by_head), v.view(by_head), saved


def _backward(
    grads: tuple[Tensor | None, ...],
    x: Float[Tensor, "B T W"],
    form: _Form,
    w: _Weights,
    s: _Saved,
    learning: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of x and, if learning, of the weights, from those of the output, the keys and the values."""
    batch, tokens, width = x.shape
    dweights: dict[str, Tensor | None] = dict.fromkeys(_Weights._fields)

    def through_linear(name: str, grad: Tensor, given: Tensor) -> Tensor:
        if learning:
            dweights[name] = weight_gradient(grad, given)
            if getattr(w, name + "_bias") is not None:
                dweights[name + "_bias"] = grad.sum(0)
        return linear(grad, getattr(w, name).mT)

    def through_norm(name: str, grad: Tensor, given: Tensor, *moments: Tensor) -> Tensor:
        weight, bias = getattr(w, name), getattr(w, name + "_bias")
        dgiven, dweights[name], dweights[name + "_bias"] = torch.ops.aten.native_layer_norm_backward(
            grad, given, [width], *moments, weight, bias, [True, learning, learning and bias is not None]
        )
        return dgiven

    dout, dkeys, dvalues = grads
    dqkv = torch.zeros_like(s.qkv) if dout is None or form.rows != slice(None) else torch.empty_like(s.qkv)
    dmiddle = None
    if dout is not None:
        dout = dout.reshape(-1, width)
        dhidden = through_linear("down", dout, s.active)
        torch.ops.aten.gelu_backward.grad_input(dhidden, s.hidden, grad_input=dhidden)
        dnormed = through_linear("up", dhidden, s.mlp_normed)
        dmiddle = through_norm("mlp_norm", dnormed, s.middle, s.mlp_mean, s.mlp_rstd).add_(dout)
        dattended = through_linear("out", dmiddle, s.attended).view(batch, -1, form.heads, s.qkv.shape[-1])
        dattended = dattended.transpose(1, 2).reshape(len(s.pattern), -1, s.qkv.shape[-1])
        q, k, v = s.qkv
        dscores = torch.ops.aten._softmax_backward_data(dattended @ v.mT, s.pattern, -1, x.dtype)
        dscores = dscores.mul_(1 / math.sqrt(q.shape[-1]))
        dqkv[0][:, form.rows] = dscores @ k
        torch.bmm(dscores.mT, q[:, form.rows], out=dqkv[1])
        torch.bmm(s.pattern.mT, dattended, out=dqkv[2])
    for part, extra in zip(dqkv[1:], (dkeys, dvalues), strict=True):
        if extra is not None:
            part.add_(extra.reshape(part.shape))
    dqkv = dqkv.view(3, batch, form.heads, tokens, -1).permute(1, 3, 0, 2, 4).reshape(batch * tokens, -1)
    dx = through_norm("norm", through_linear("qkv", dqkv, s.normed), x.reshape(-1, width), s.mean, s.rstd)
    dx = dx.view(x.shape)
    if dmiddle is not None:
        dx[:, form.rows] += dmiddle.view(batch, -1, width)
    return dx, list(dweights.values())


def _merge(x: Float[Tensor, "S R D"], batch: int) -> Float[Tensor, "_ W"]:
    heads, rows, width = len(x) // batch, *x.shape[1:]
    return x.view(batch, heads, rows, width).transpose(1, 2).reshape(batch * rows, heads * width)


def _recorded_backward(
    grads: tuple[Tensor | None, ...], x: Tensor, bias: Tensor, form: _Form, w: _Weights
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The same for gradients that are differentiated again (create_graph=True): their steps are recorded."""
    given = [tensor for tensor in (x, *w) if tensor is not None and tensor.requires_grad]
    outputs = [(o, g) for o, g in zip(reference(x, bias, form, w), grads, strict=True) if g is not None]
    found = torch.autograd.grad(
        [o for o, _ in outputs], given, [g for _, g in outputs], create_graph=True, allow_unused=True
    )
    of = {id(tensor): grad for tensor, grad in zip(given, found, strict=True)}
    dx, *dweights = (of.get(id(tensor)) for tensor in (x, *w))
    return dx, dweights


def reference(
    x: Float[Tensor, "B T W"], bias: Float[Tensor, "T T"], form: _Form, w: _Weights
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, any number of times differentiable."""
    width = x.shape[-1]
    normed = F.layer_norm(x, [width], w.norm, w.norm_bias, form.eps)
    qkv = F.linear(normed, w.qkv, w.qkv_bias).unflatten(-1, (3, form.heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q[:, :, form.rows] @ k.mT / math.sqrt(q.shape[-1])
    attended = torch.softmax(scores + bias[form.rows], -1) @ v
    middle = x[:, form.rows] + F.linear(attended.transpose(1, 2).flatten(2), w.out, w.out_bias)
    normed = F.layer_norm(middle, [width], w.mlp_norm, w.mlp_norm_bias, form.mlp_eps)
    return middle + F.linear(F.gelu(F.linear(normed, w.up, w.up_bias)), w.down, w.down_bias), k, v
