"""A pre-norm transformer that runs over tokens, or over queries that look back at encoded tokens.

Causal attention means that token n never sees what comes after it. So a sequence can be encoded once and any
number of alternative tokens ("queries") scored against its prefixes: a query at position n attends, in every
layer, to the stored keys at positions < n and to its own key. That equals running the whole transformer on each
prefix with the query as its last token, at a fraction of the cost.

Shape letters: B episodes, T tokens, R of which are asked for, Q queries, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclkit.networks.attention import Attention, Memory
from iclkit.networks.hooks import HookPoint
from iclkit.networks.masks import Mask

__all__ = ["Attention", "Block", "Memory", "Transformer"]


class Block(nn.Module):
    """Attention and a GELU perceptron, each after a LayerNorm and each added to the residual stream.

    Args:
        width: Width of the residual stream.
        heads: Attention heads.
        mlp_ratio: Hidden width of the perceptron over the width; 0 for none.
        norm: Whether there are LayerNorms.
        bias: Whether linear maps and norms have a bias.
        damping: A factor on what the attention and the perceptron add to the stream.
        head_width, weighting, own: As in `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int,
        norm: bool = True,
        bias: bool = True,
        damping: float = 1.0,
        head_width: int | None = None,
        weighting: str = "softmax",
        own: str = "counted",
    ) -> None:
        super().__init__()
        self.damping = damping
        self.attention_norm = nn.LayerNorm(width, bias=bias) if norm else nn.Identity()
        self.attention = Attention(width, heads, head_width, weighting, bias, own)
        self.attention_out, self.residual = HookPoint(), HookPoint()
        self.mlp = None
        if mlp_ratio:
            self.mlp_norm = nn.LayerNorm(width, bias=bias) if norm else nn.Identity()
            self.mlp = nn.Sequential(
                nn.Linear(width, mlp_ratio * width, bias=bias),
                nn.GELU(),
                nn.Linear(mlp_ratio * width, width, bias=bias),
            )
            self.mlp_out = HookPoint()

    def forward(
        self, x: Float[Tensor, "B T W"], mask: Mask, rows: slice | None = None
    ) -> tuple[Float[Tensor, "B R W"], Memory]:
        """Run over a sequence; the rows that are asked for (all if None), and what queries need."""
        attended, memory = self.attention(self.attention_norm(x), mask, rows)
        return self._add(x if rows is None else x[:, rows], attended), memory

    def query(
        self, x: Float[Tensor, "B Q W"], memory: Memory, hidden: Bool[Tensor, "Q T"], twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """The same for queries, which see the stored tokens that are not hidden from them, and themselves."""
        return self._add(x, self.attention.query(self.attention_norm(x), memory, hidden, twice))

    def _add(self, x: Float[Tensor, "B T W"], attended: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        x = x + self._damped(self.attention_out(attended))
        if self.mlp is not None:
            x = x + self._damped(self.mlp_out(self.mlp(self.mlp_norm(x))))
        return self.residual(x)

    def _damped(self, x: Tensor) -> Tensor:
        return x if self.damping == 1.0 else self.damping * x


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm.

    Args:
        width: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads in each; must divide the width unless `head_width` is given.
        mlp_ratio: Hidden width of the perceptrons over the width; 0 for none.
        norm: Whether there are LayerNorms.
        bias: Whether linear maps and norms have a bias.
        damping: A factor on what attention and perceptrons add to the residual stream.
        head_width: Width of a head; by default the heads share `width` evenly.
        weighting: A name of `WEIGHTINGS`: how attention turns scores into weights.
        own: What a query is to itself; see `Attention`.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: int = 4,
        norm: bool = True,
        bias: bool = True,
        damping: float = 1.0,
        head_width: int | None = None,
        weighting: str = "softmax",
        own: str = "counted",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, norm, bias, damping, head_width, weighting, own)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, bias=bias) if norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B T W"], mask: Mask | None = None, rows: slice | None = None
    ) -> tuple[Float[Tensor, "B R W"], list[Memory]]:
        """Encode a sequence.

        Args:
            x: Tokens.
            mask: Which of them see which; causal if None.
            rows: The tokens whose output is wanted; all if None. The last block does no work for the others,
                unless somebody listens to it.
        """
        mask = Mask.lower(x) if mask is None else mask
        memories = []
        late = rows is not None and _listened(self.blocks[-1])
        for index, block in enumerate(self._stack(), 1):
            x, memory = block(x, mask, None if late or index < len(self.blocks) else rows)
            memories.append(memory)
        return self.norm(x[:, rows] if late and rows is not None else x), memories

    def query(
        self,
        x: Float[Tensor, "B Q W"],
        memories: list[Memory],
        lengths: Int[Tensor, " Q"],
        twice: bool = False,
    ) -> Float[Tensor, "B Q W"]:
        """Run queries against an encoded sequence; query i sees its first `lengths[i]` tokens and itself.

        `twice` asks for a result that can be differentiated twice, at some cost in speed.
        """
        stored = memories[0].keys.shape[-2]
        hidden = torch.arange(stored, device=x.device) >= lengths[:, None]
        for block, memory in zip(self._stack(), memories, strict=True):
            x = block.query(x, memory, hidden, twice)
        return self.norm(x)

    def _stack(self) -> Iterator[Block]:
        return iter(cast("list[Block]", self.blocks))


def _listened(block: nn.Module) -> bool:
    return any(isinstance(module, HookPoint) and module.listening for module in block.modules())
