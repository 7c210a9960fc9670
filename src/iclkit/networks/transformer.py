"""A pre-norm transformer that runs over tokens, or over queries that look back at encoded tokens.

Causal attention means that token n never sees what comes after it. So a sequence can be encoded once and any
number of alternative tokens ("queries") scored against its prefixes: a query at position n attends, in every
layer, to the stored keys at positions < n and to its own key. That equals running the whole transformer on each
prefix with the query as its last token, at a fraction of the cost.

Shape letters: B episodes, T tokens, R of which are asked for, Q queries, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclkit.networks import written_block
from iclkit.networks.activations import ACTIVATIONS
from iclkit.networks.attention import Attention, Memory
from iclkit.networks.config import BlockConfig
from iclkit.networks.hooks import HookPoint
from iclkit.networks.layout import Layout
from iclkit.networks.linear_attention import MergedAttention
from iclkit.networks.masks import Mask

__all__ = ["Attention", "Block", "Memory", "Transformer"]


class Block(nn.Module):
    """Attention and a perceptron, each after a LayerNorm and each added to the residual stream."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, bias = config.width, config.units, config.bias
        if config.heads:
            self.attention_norm = _norm(config)
            self.attention = (MergedAttention if config.merged else Attention)(config)
            self.attention_out = HookPoint()
        self.residual = HookPoint()
        self.mlp = None
        if hidden:
            activation, maps = ACTIVATIONS[config.activation]
            self.mlp_norm = _norm(config)
            self.mlp = nn.Sequential(
                nn.Linear(width, maps * hidden, bias=bias), activation(), nn.Linear(hidden, width, bias=bias)
            )
            self.mlp_out = HookPoint()

    def twin(self) -> Block:
        """A block with this one's weights and hook points of its own."""
        with torch.device("meta"):
            other = Block(self.config)
        _share(other, self)
        return other

    def forward(
        self, x: Float[Tensor, "B T W"], mask: Mask, rows: slice | None = None
    ) -> tuple[Float[Tensor, "B R W"], Memory]:
        """Run over a sequence; the rows that are asked for (all if None), and what queries need."""
        if written_block.written(self, x, mask):
            out, keys, values = written_block.run(self, x, mask, rows)
            return out, Memory(keys, values)
        own = x if rows is None else x[:, rows]
        if not self.config.heads:
            nothing = x.new_empty(len(x), 0, x.shape[1], 0)
            return self._add(own, None), Memory(nothing, nothing)
        attended, memory = self.attention(self.attention_norm(x), mask, rows)
        return self._add(own, attended), memory

    def query(
        self, x: Float[Tensor, "B Q W"], memory: Memory, hidden: Bool[Tensor, "*S Q T"], twice: bool = False
    ) -> Float[Tensor, "B Q W"]:
        """The same for queries, which see the stored tokens that are not hidden from them, and themselves."""
        if not self.config.heads:
            return self._add(x, None)
        return self._add(x, self.attention.query(self.attention_norm(x), memory, hidden, twice))

    def _add(
        self, x: Float[Tensor, "B T W"], attended: Float[Tensor, "B T W"] | None
    ) -> Float[Tensor, "B T W"]:
        if attended is not None:
            x = x + self._damped(self.attention_out(attended))
        if self.mlp is not None:
            x = x + self._damped(self.mlp_out(self.mlp(self.mlp_norm(x))))
        return self.residual(x)

    def _damped(self, x: Tensor) -> Tensor:
        return x if self.config.damping == 1.0 else self.config.damping * x


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm.

    Args:
        config: What a block is made of.
        layers: Number of blocks.
        tied: Whether they all have the weights of the first. The state dict of a tied transformer holds them
            once, so that weights trained with one number of layers load into another.
        layout: The blocks one by one, instead of `layers`, `tied` and what the configuration says of heads and
            hidden units. The state dict holds the originals alone.
    """

    def __init__(
        self, config: BlockConfig, layers: int, tied: bool = False, layout: Layout | None = None
    ) -> None:
        super().__init__()
        self.embedded = HookPoint()
        if layout is None:
            likes = [0 if tied else block for block in range(layers)]
            configs = [config] * layers
        else:
            likes = layout.like
            shapes = zip(layout.heads, layout.hidden, strict=True)
            configs = [replace(config, heads=heads, hidden=hidden) for heads, hidden in shapes]
        blocks: list[Block] = []
        for place, (like, config_of) in enumerate(zip(likes, configs, strict=True)):
            blocks.append(Block(config_of) if like == place else blocks[like].twin())
        self.blocks = nn.ModuleList(blocks)
        self.norm = _norm(config)

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
        x, memories = self.embedded(x), []
        late = rows is not None and _listened(self.blocks[-1])
        for index, block in enumerate(self._stack(), 1):
            x, memory = block(x, mask, None if late or index < len(self.blocks) else rows)
            memories.append(memory)
        return self.norm(x[:, rows] if late and rows is not None else x), memories

    def query(
        self,
        x: Float[Tensor, "B Q W"],
        memories: list[Memory],
        lengths: Int[Tensor, "*B Q"],
        twice: bool = False,
    ) -> Float[Tensor, "B Q W"]:
        """Run queries against an encoded sequence; query i sees its first `lengths[i]` tokens and itself.

        Lengths [B, Q] give each episode its own. `twice` asks for a result that can be differentiated twice, at
        some cost in speed.
        """
        stored = memories[0].keys.shape[-2]
        hidden = torch.arange(stored, device=x.device) >= lengths[..., None]
        hidden = hidden if lengths.ndim == 1 else hidden[:, None]  # an axis for heads
        x = self.embedded(x)
        for block, memory in zip(self._stack(), memories, strict=True):
            x = block.query(x, memory, hidden, twice)
        return self.norm(x)

    def _stack(self) -> Iterator[Block]:
        return iter(cast("list[Block]", self.blocks))


def _norm(config: BlockConfig) -> nn.Module:
    return nn.LayerNorm(config.width, bias=config.bias) if config.norm else nn.Identity()


def _share(module: nn.Module, source: nn.Module) -> None:
    """Give a module the weights of another of the same kind, without registering them a second time."""
    for name, child in source.named_children():
        if isinstance(child, Attention):
            _share(cast(nn.Module, getattr(module, name)), child)
        elif not isinstance(child, HookPoint):
            delattr(module, name)
            object.__setattr__(module, name, child)


def _listened(block: nn.Module) -> bool:
    return any(isinstance(module, HookPoint) and module.listening for module in block.modules())
