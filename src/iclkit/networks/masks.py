"""Which tokens of a sequence see which.

Shape letters: S sequences with masks of their own (1 or none for a mask that all share), Q queries, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn import functional as F

from iclkit.networks.query_attention import hiding_bias


@dataclass(frozen=True)
class Mask:
    """What each token must not see, and how many tokens it counts.

    Args:
        hidden: True where a row's token must not see a column's: [Q, T], or [S, 1, Q, T] with an axis for
            heads.
        counts: The divisor of linear attention in each row: [Q] or [S, 1, Q]. The tokens seen if None.
        causal: Whether this is the plain causal mask, for which kernels have a faster way.
        blind: Whether there may be rows that see nothing at all, whose attention is then 0.
        dtype: Of the attention that it is for.
    """

    hidden: Bool[Tensor, "*S Q T"]
    counts: Shaped[Tensor, "*S Q"]
    dtype: torch.dtype
    causal: bool = False
    blind: bool = False

    @classmethod
    def lower(cls, like: Tensor) -> Mask:
        """The plain causal mask of a sequence [B, T, W]."""
        place = torch.arange(like.shape[1], device=like.device)
        return cls(place > place[:, None], place + 1, like.dtype, causal=True)

    @classmethod
    def with_queries(
        cls,
        context: Bool[Tensor, "*S T T"],
        queries: Bool[Tensor, "*S Q T"],
        own: str,
        dtype: torch.dtype,
    ) -> Mask:
        """For context tokens with queries behind them, which no other token sees.

        Args:
            context: True where a context token (row) sees another (column).
            queries: True where a query sees a context token.
            own: What a query is to itself, as in `BlockConfig`.
            dtype: Of the attention.
        """
        count = queries.shape[-2]
        itself = torch.eye(count, dtype=torch.bool, device=queries.device)
        itself = (itself & (own != "unseen")).expand(*queries.shape[:-2], count, count)
        visible = torch.cat([F.pad(context, (0, count)), torch.cat([queries, itself], -1)], -2)
        counts = visible.sum(-1)
        if own == "uncounted":
            counts[..., -count:] -= 1
        return cls(~visible, counts, dtype, blind=own == "unseen")

    def for_heads(self) -> Mask:
        """With an axis for heads, where every sequence has a mask of its own."""
        return Mask(self.hidden[:, None], self.counts[:, None], self.dtype, blind=self.blind)

    @cached_property
    def bias(self) -> Shaped[Tensor, "*S Q T"]:
        """What a fused kernel adds to the scores."""
        return hiding_bias(self.hidden, self.dtype)

    @cached_property
    def seeing(self) -> Bool[Tensor, "*S Q 1"]:
        """Whether a row sees anything."""
        return ~self.hidden.all(-1, keepdim=True)

    def of(self, rows: slice) -> Mask:
        """The mask for some of the rows alone."""
        return Mask(self.hidden[..., rows, :], self.counts[..., rows], self.dtype, False, self.blind)
