"""Multi-head attention of a sequence over itself, and of queries over an encoded sequence.

Shape letters: B episodes, T tokens, Q queries, W width, H heads, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.arrays import transforming
from iclkit.networks.config import BlockConfig
from iclkit.networks.hooks import HookPoint
from iclkit.networks.masks import Mask
from iclkit.networks.query_attention import query_attention
from iclkit.networks.weighting import WEIGHTINGS


@dataclass(frozen=True)
class Memory:
    """Keys and values of one encoded sequence in one layer.

    `uncontrasted` are the values without what their negatives took, where any did.
    """

    keys: Float[Tensor, "B H T D"]
    values: Float[Tensor, "B H T D"]
    uncontrasted: Float[Tensor, "B H T D"] | None = None


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        config: Of the block that it belongs to.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.width = config.width
        self.heads = config.heads
        self.head_width = config.head_width or config.width // config.heads
        self.own = config.own
        self.weighting = WEIGHTINGS[config.weighting]
        self.variant = config.variant
        self.fusible = config.weighting == "softmax" and not config.variant.remixes
        self._make_matrices(config)
        if config.variant.augmented:
            self.augment_k, self.augment_v = _perceptron(self.head_width), _perceptron(self.head_width)
        self.q, self.k, self.v = HookPoint(), HookPoint(), HookPoint()
        # Before and after the softmax, or what stands in for it; the first also for tokens that are hidden.
        self.scores, self.pattern = HookPoint(), HookPoint()

    def _make_matrices(self, config: BlockConfig) -> None:
        inner = self.heads * self.head_width
        self.qkv = nn.Linear(config.width, 3 * inner, bias=config.bias)
        self.out = nn.Linear(inner, config.width, bias=config.bias)

    def kq(self) -> Float[Tensor, "H W W"]:
        """W_KQ of each head: query e_q gives key e_k the score e_kᵀ W_KQ e_q (no biases, no √D)."""
        q, k, _ = self.qkv.weight.view(3, self.heads, self.head_width, -1)
        return k.mT @ q

    def pv(self) -> Float[Tensor, "H W W"]:
        """W_PV of each head: a token e that gets the weight w adds w W_PV e (without biases)."""
        _, _, v = self.qkv.weight.view(3, self.heads, self.head_width, -1)
        return self.out.weight.view(-1, self.heads, self.head_width).transpose(0, 1) @ v

    def project(self, x: Float[Tensor, "B T W"], rows: slice | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of some rows (all if None), keys and values of all: each [B, H, tokens, D]."""
        weight, bias = self.qkv.weight, self.qkv.bias
        if rows is None or self.qkv._forward_hooks:
            q, k, v = self._heads(self.qkv(x), 3)
            q = q if rows is None else q[:, :, rows]
        else:
            inner = len(weight) // 3
            (q,) = self._heads(F.linear(x[:, rows], weight[:inner], None if bias is None else bias[:inner]), 1)
            k, v = self._heads(F.linear(x, weight[inner:], None if bias is None else bias[inner:]), 2)
        k, v = self._augment(k, v)
        return self.q(q), self.k(k), self.v(v)

    def _augment(
        self, k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        c = self.variant.augmented
        return (k + c * self.augment_k(k), v + c * self.augment_v(v)) if c else (k, v)

    def _heads(self, x: Float[Tensor, "B T _"], parts: int) -> Float[Tensor, "parts B H T D"]:
        return x.view(*x.shape[:2], parts, self.heads, self.head_width).permute(2, 0, 3, 1, 4)

    def _merge(self, x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return self.out(x.transpose(1, 2).flatten(2))

    @property
    def fused(self) -> bool:
        """Whether the weights need not be known one by one, and kernels that torch.func lacks will do."""
        return self.fusible and not transforming() and not (self.pattern.listening or self.scores.listening)

    def forward(
        self, x: Float[Tensor, "B T W"], mask: Mask, rows: slice | None = None
    ) -> tuple[Float[Tensor, "B R W"], Memory]:
        """Attention of a sequence over itself, and what later queries need of it.

        Args:
            x: Tokens.
            mask: Which of them see which.
            rows: The tokens whose attention is wanted; all if None.
        """
        if self.variant.remixes:
            return self._remixed(x, mask, rows)
        q, k, v = self.project(x, rows)
        memory = Memory(k, v)
        if rows is not None:
            mask = mask.of(rows)
        if not self.fused:
            q, k = self.weighting.features(q, k)
            weights = self.weighting.weights(self.scores(q @ k.mT), mask.hidden, mask.counts)
            return self._merge(self.pattern(weights) @ v), memory
        if mask.causal:
            return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)), memory
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bias)
        return self._merge(attended * mask.seeing if mask.blind else attended), memory

    def _remixed(
        self, x: Float[Tensor, "B T W"], mask: Mask, rows: slice | None
    ) -> tuple[Float[Tensor, "B R W"], Memory]:
        """The same where values are changed by scores, weights or places."""
        places = torch.arange(x.shape[1], device=x.device)
        # The negatives of a token are those of its own query, whether its attention is wanted or not.
        late = rows is not None and bool(self.variant.negative)
        q, k, v = self.project(x, None if late else rows)
        q_features, k_features = self.weighting.features(q, k)
        scores, memory = self.scores(q_features @ k_features.mT), Memory(k, v)
        if self.variant.negative:
            others = mask.hidden | (places == places[:, None])
            memory = Memory(k, v - self.variant.contrast(scores, others, v), v)
        if rows is not None:
            scores, mask, places = scores[..., rows, :] if late else scores, mask.of(rows), places[rows]
        weights = self.pattern(self.weighting.weights(scores, mask.hidden, mask.counts))
        return self._merge(self.variant.shares(weights, mask.hidden, places) @ memory.values), memory

    def query(
        self, x: Float[Tensor, "B Q W"], memory: Memory, hidden: Bool[Tensor, "*S Q T"], twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """Attention of each query over the stored tokens that are not hidden from it, and over itself."""
        q, k, v = self.project(x)
        if self.fused and self.own != "unseen":
            return self._merge(query_attention(q, k, v, memory.keys, memory.values, hidden, twice))
        return self._merge(self._query_explicitly(q, k, v, memory, hidden))

    def _query_explicitly(
        self, q: Tensor, k: Tensor, v: Tensor, memory: Memory, hidden: Bool[Tensor, "*S Q T"]
    ) -> Float[Tensor, "B H Q D"]:
        counts = (~hidden).sum(-1)
        if self.own == "counted":
            counts = counts + 1
        q_features, keys = self.weighting.features(q, memory.keys)
        scores = q_features @ keys.mT
        last = torch.full(scores.shape[-2:-1], scores.shape[-1], device=scores.device)
        if self.own != "unseen":
            own = (q_features * self.weighting.features(q, k)[1]).sum(-1, keepdim=True)
            scores = torch.cat([scores, own], -1)
        scores = self.scores(scores)
        if self.own == "unseen":
            weights = self.pattern(self.weighting.weights(scores, hidden, counts))
            return self.variant.shares(weights, hidden, last) @ memory.values
        if memory.uncontrasted is not None:
            v = v - self.variant.contrast(scores[..., :-1], hidden, memory.uncontrasted)
        hidden = F.pad(hidden, (0, 1))
        weights = self.pattern(self.weighting.weights(scores, hidden, counts))
        weights = self.variant.shares(weights, hidden, last)
        return weights[..., :-1] @ memory.values + weights[..., -1:] * v


def _perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
