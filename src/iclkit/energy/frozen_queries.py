"""Gradients of the energy for many rounds of candidates, under one encoded context and frozen weights.

Langevin chains need the gradient with respect to the candidates alone, again and again, while contexts and
weights stay the same. Here the forward and the backward pass are written out: nothing is recorded, no gradient
reaches a weight, and each LayerNorm's gain and shift are folded into the matrix behind it beforehand. Tests
hold it to automatic differentiation, which takes a tenth more time.

Shape letters: B episodes, Q = P K queries, T = B Q, W width, H heads, D = W / H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.networks.query_attention import Attended, fused_backward, fused_forward, fusible, hiding_bias
from iclkit.networks.transformer import Block, Memory

if TYPE_CHECKING:
    from iclkit.energy.network import EncodedContext, EnergyTransformer


class _Weights(NamedTuple):
    """One block's matrices [in, out] and biases, the gains of its norms folded in."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class _Saved(NamedTuple):
    """What one block's backward pass needs of its forward pass."""

    x: Tensor
    moments: tuple[Tensor, Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Attended
    middle: Tensor
    middle_moments: tuple[Tensor, Tensor]
    hidden: Tensor


class FrozenQueries:
    """A network with frozen weights and an encoded context, ready for candidates.

    Args:
        network: The network; its weights of this moment are used.
        context: What it encoded; constant from here on.
        prefixes: Lengths of the prefixes, P integers in 0..N.
        count: Candidates for each prefix (K).
    """

    def __init__(
        self, network: EnergyTransformer, context: EncodedContext, prefixes: Tensor, count: int
    ) -> None:
        with torch.no_grad():
            self._network = network
            self._memories = [Memory(m.keys.detach(), m.values.detach()) for m in context.memories]
            self._blocks = [_fold(cast(Block, block)) for block in network.transformer.blocks]
            lengths = prefixes.repeat_interleave(count)
            self._positions = None if network.positions is None else network.positions[lengths]
            hidden = torch.arange(context.points, device=lengths.device) >= lengths[:, None]
            self._bias = hiding_bias(hidden, self._blocks[0].qkv.dtype)

    @staticmethod
    def supports(network: EnergyTransformer, context: EncodedContext) -> bool:
        """Whether attention is plain, its fused kernel exists where the network lives, and nobody listens to
        its activations (else use automatic differentiation)."""
        plain = network.variant.plain and fusible(network.readout.weight)
        return plain and context.points > 0 and not network.listening

    @torch.no_grad()
    def gradient(self, candidates: Float[Tensor, "B P K d"]) -> Float[Tensor, "B P K d"]:
        """∇E of candidates, each under its own prefix."""
        network = self._network
        points = candidates.flatten(1, 2)
        batch, queries, _ = points.shape
        tokens = network.embedding(points)
        if self._positions is not None:
            tokens = tokens + self._positions
        x = tokens.view(batch * queries, -1)
        tape = []
        for weights, memory in zip(self._blocks, self._memories, strict=True):
            x, saved = self._forward(weights, memory, x, batch)
            tape.append(saved)
        # The read-out is linear: its weight is the gradient with respect to every normed token.
        _, moments = _norm(x)
        gain = cast(nn.LayerNorm, network.transformer.norm).weight
        grad = (network.readout.weight * gain).expand(len(x), -1).contiguous()
        grad = _norm_backward(grad, x, moments)
        for weights, memory, saved in zip(
            reversed(self._blocks), reversed(self._memories), reversed(tape), strict=True
        ):
            grad = self._backward(weights, memory, grad, saved)
        grad = network.embedding.pull_back(points, grad.view(batch, queries, -1))
        if network.base_std is not None:
            grad = grad + points / network.base_std**2
        return grad.view(candidates.shape)

    def _forward(
        self, w: _Weights, memory: Memory, x: Float[Tensor, "T W"], batch: int
    ) -> tuple[Float[Tensor, "T W"], _Saved]:
        heads, width = memory.keys.shape[1], x.shape[-1]
        normed, moments = _norm(x)
        qkv = torch.addmm(w.qkv_bias, normed, w.qkv)
        # [T, 3W] -> 3 x [B, H, Q, D]
        q, k, v = qkv.view(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attended = fused_forward(q, k, v, memory.keys, memory.values, self._bias)
        middle = torch.addmm(x + w.out_bias, attended.out.transpose(1, 2).reshape(x.shape), w.out)
        normed, middle_moments = _norm(middle)
        hidden = torch.addmm(w.up_bias, normed, w.up)
        result = torch.addmm(middle + w.down_bias, F.gelu(hidden), w.down)
        return result, _Saved(x, moments, q, k, v, attended, middle, middle_moments, hidden)

    def _backward(
        self, w: _Weights, memory: Memory, grad: Float[Tensor, "T W"], saved: _Saved
    ) -> Float[Tensor, "T W"]:
        q, k, v = saved.q, saved.k, saved.v
        dhidden = torch.ops.aten.gelu_backward(grad @ w.down.mT, saved.hidden)
        grad = _norm_backward(dhidden @ w.up.mT, saved.middle, saved.middle_moments).add_(grad)
        dout = (grad @ w.out.mT).view(q.transpose(1, 2).shape).transpose(1, 2)
        dq, dk, dv, _, _ = fused_backward(dout, q, k, v, memory.keys, memory.values, self._bias, saved.attended)
        # 3 x [B, H, Q, D] -> [T, 3W]
        dqkv = torch.stack([part.transpose(1, 2) for part in (dq, dk, dv)], 2).view(len(grad), -1)
        return _norm_backward(dqkv @ w.qkv.mT, saved.x, saved.moments).add_(grad)


def _fold(block: Block) -> _Weights:
    # The blocks of an energy network have perceptrons and norms, which those of others may lack.
    attention, (up, _, down) = block.attention, cast(nn.Sequential, block.mlp)

    def behind(norm: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        # W (gain * z + shift) + b = (W gain) z + (W shift + b)
        norm = cast(nn.LayerNorm, norm)
        return (linear.weight * norm.weight).mT.contiguous(), linear.weight @ norm.bias + linear.bias

    qkv, qkv_bias = behind(block.attention_norm, attention.qkv)
    up_weight, up_bias = behind(block.mlp_norm, cast(nn.Linear, up))
    out, down = attention.out, cast(nn.Linear, down)
    return _Weights(
        qkv,
        qkv_bias,
        out.weight.mT.contiguous(),
        out.bias.detach(),
        up_weight,
        up_bias,
        down.weight.mT.contiguous(),
        down.bias.detach(),
    )


def _norm(x: Float[Tensor, "T W"]) -> tuple[Float[Tensor, "T W"], tuple[Tensor, Tensor]]:
    normed, mean, rstd = torch.native_layer_norm(x, [x.shape[-1]], None, None, 1e-5)
    return normed, (mean, rstd)


def _norm_backward(grad: Tensor, x: Tensor, moments: tuple[Tensor, Tensor]) -> Float[Tensor, "T W"]:
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, [x.shape[-1]], *moments, None, None, [True, False, False]
    )[0]
