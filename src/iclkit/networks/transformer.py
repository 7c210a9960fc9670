"""A pre-norm transformer that runs over tokens, or over queries that look back at encoded tokens.

Causal attention means that token n never sees what comes after it. So a sequence can be encoded once and any
number of alternative tokens ("queries") scored against its prefixes: a query at position n attends, in every
layer, to the stored keys at positions < n and to its own key. That equals running the whole transformer on each
prefix with the query as its last token, at a fraction of the cost.

Shape letters: B episodes, N tokens, Q queries, W width, H heads, D = W / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.networks.query_attention import query_attention


@dataclass(frozen=True)
class Memory:
    """Keys and values of one encoded sequence in one layer."""

    keys: Float[Tensor, "B H N D"]
    values: Float[Tensor, "B H N D"]


class Attention(nn.Module):
    """Multi-head softmax attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Float[Tensor, "B T W"]) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, width = x.shape
        # [B, T, 3W] -> 3 x [B, H, T, D]
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _merge(self, x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return self.out(x.transpose(1, 2).flatten(2))

    def forward(self, x: Float[Tensor, "B N W"]) -> tuple[Float[Tensor, "B N W"], Memory]:
        """Causal attention of a sequence over itself, and what later queries need of it."""
        q, k, v = self._split(x)
        return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)), Memory(k, v)

    def query(
        self, x: Float[Tensor, "B Q W"], memory: Memory, hidden: Bool[Tensor, "Q N"], twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """Attention of each query over the stored tokens that are not hidden from it, and over itself."""
        q, k, v = self._split(x)
        return self._merge(query_attention(q, k, v, memory.keys, memory.values, hidden, twice))


class Block(nn.Module):
    """Attention and a GELU perceptron, each after a LayerNorm and each added to the residual stream."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )

    def forward(self, x: Float[Tensor, "B N W"]) -> tuple[Float[Tensor, "B N W"], Memory]:
        attended, memory = self.attention(self.attention_norm(x))
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), memory

    def query(
        self, x: Float[Tensor, "B Q W"], memory: Memory, hidden: Bool[Tensor, "Q N"], twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """The same for queries, which see the stored tokens that are not hidden from them, and themselves."""
        x = x + self.attention.query(self.attention_norm(x), memory, hidden, twice)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm.

    Args:
        width: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads in each; must divide the width.
        mlp_ratio: Hidden width of the perceptrons over the width.
    """

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B N W"]) -> tuple[Float[Tensor, "B N W"], list[Memory]]:
        """Encode a sequence causally."""
        memories = []
        for block in self.blocks:
            x, memory = block(x)
            memories.append(memory)
        return self.norm(x), memories

    def query(
        self, x: Float[Tensor, "B Q W"], memories: list[Memory], lengths: Tensor, twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """Run queries against an encoded sequence; query i sees its first `lengths[i]` tokens and itself.

        `twice` asks for a result that can be differentiated twice, at some cost in speed.
        """
        stored = memories[0].keys.shape[-2]
        hidden = torch.arange(stored, device=x.device) >= lengths[:, None]
        for block, memory in zip(cast("list[Block]", self.blocks), memories, strict=True):
            x = block.query(x, memory, hidden, twice)
        return self.norm(x)
