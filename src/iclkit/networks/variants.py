"""Changes to attention that its dual forms suggest: each is plain attention at 0, exactly.

The output of a token t is Σ_i w_ti v_i, with weights of any kind (`weighting.py`). Four numbers change it:

    regularised   w_tt becomes (1 - α) w_tt: decay of the dual model's first weights
    augmented     k_i becomes k_i + c f(k_i) and v_i becomes v_i + c g(v_i), f and g small perceptrons
    negative      v_i becomes v_i - β mean{v_j : j ∈ N(i)}, N(i) the tokens that score lowest with i's query
    momentum      Σ_{i<t} η^(t-i) v_i is added, by the values alone

Together they apply in the order augmented, negative, then the others. All keep to the mask: N(i) are tokens
that i sees, itself excepted, and the distance t - i counts those that t sees.

Shape letters: B episodes, H heads, Q queries, T tokens, D width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclkit.errors import UserError
from iclkit.networks.weighting import rounding


@dataclass(frozen=True)
class AttentionVariant:
    """How attention is changed; by default not at all.

    Args:
        regularised: α, how much a token's own value loses.
        augmented: c, the factor of what perceptrons add to keys and values. They have weights of their own,
            which are there only if it is not 0: one hidden layer as wide as a head, the same for all heads.
        negative: β, how much of the mean value of its negatives every value loses.
        negative_share: Which share of the tokens that a token sees are its negatives, in (0, 1]; at least one,
            and all that tie with the last of them.
        momentum: η, in [0, 1]; by how much a value fades from token to token.

    Raises:
        UserError: Numbers outside these ranges, or not finite.

    Source: Ren and Liu (2023), "In-context learning with Transformer is really equivalent to a contrastive
    learning pattern", for the first three, where what N(i) is is left open; Dai et al. (2022), "Why can GPT
    learn in-context?", section 5, for momentum.
    """

    regularised: float = 0.0
    augmented: float = 0.0
    negative: float = 0.0
    negative_share: float = 0.25
    momentum: float = 0.0

    def __post_init__(self) -> None:
        for name in ("regularised", "augmented", "negative"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} of an attention variant must be finite, given {getattr(self, name)}")
        if not 0 <= self.momentum <= 1:
            raise UserError(f"momentum of an attention variant must be in [0, 1], given {self.momentum}")
        if not 0 < self.negative_share <= 1:
            raise UserError(
                f"negative_share of an attention variant must be in (0, 1], given {self.negative_share}"
            )

    @property
    def remixes(self) -> bool:
        """Whether anything happens to values that depends on scores, weights or places."""
        return bool(self.regularised or self.negative or self.momentum)

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return not (self.remixes or self.augmented)

    def shares(
        self,
        weights: Float[Tensor, "*batch Q T"],
        hidden: Bool[Tensor, "*#batch Q T"],
        places: Int[Tensor, " Q"],
    ) -> Float[Tensor, "*batch Q T"]:
        """How often each value counts, from the weights of attention: regularised, and with momentum.

        Args:
            weights: As attention has them.
            hidden: True where a query must not see a token.
            places: Which token a query is; T for one that comes after all.
        """
        if self.regularised:
            itself = _places(hidden) == places[:, None]
            weights = torch.where(itself, (1 - self.regularised) * weights, weights)
        if self.momentum:
            weights = weights + fading(hidden, places, self.momentum, weights.dtype)
        return weights

    def contrast(
        self,
        scores: Float[Tensor, "*batch Q T"],
        hidden: Bool[Tensor, "*#batch Q T"],
        values: Float[Tensor, "*batch T D"],
    ) -> Float[Tensor, "*batch Q D"]:
        """What negatives take from the values of the queries: β mean{v_j : j ∈ N}.

        Args:
            scores: Of the tokens, for each query.
            hidden: True where a query must not see a token, or is that token.
            values: Of the tokens.
        """
        return self.negative * lowest(scores, hidden, self.negative_share) @ values


PLAIN = AttentionVariant()


def fading(
    hidden: Bool[Tensor, "*S Q T"], places: Int[Tensor, " Q"], rate: float, dtype: torch.dtype
) -> Float[Tensor, "*S Q T"]:
    """η^(t-i) for the tokens i before t that it sees, 0 for others; t - i counts the seen ones from i on.

    Its product with the values is the running sum m_t = η (m_{t-1} + v_{t-1}), all t at once.
    """
    before = ~hidden & (_places(hidden) < places[:, None])
    # Powers of integers would be float32.
    steps = before.flip(-1).cumsum(-1).flip(-1).to(dtype)
    return torch.where(before, rate**steps, 0.0)


def lowest(
    scores: Float[Tensor, "*batch Q T"], hidden: Bool[Tensor, "*#batch Q T"], share: float
) -> Float[Tensor, "*batch Q T"]:
    """The uniform weights of the tokens that score lowest among those seen; 0 where none is seen.

    Which these are is no function that could be differentiated: no gradient reaches the scores.
    """
    scores = scores.detach()
    if not scores.shape[-1]:
        return scores
    seen = scores.masked_fill(hidden, 0.0)
    # One in 10⁶ less, lest a product like 0.7 · 10 be rounded up past the next integer.
    wanted = (share * (1 - 1e-6) * (~hidden).sum(-1)).ceil().long().clamp_min(1)
    ranked = scores.masked_fill(hidden, math.inf).sort(-1).values
    last = ranked.gather(-1, (wanted - 1)[..., None].expand(*scores.shape[:-1], 1))
    # A small score is no more exact than the largest, with which it came out of one product of matrices.
    room = rounding(seen.abs().amax(-1, keepdim=True))
    chosen = (scores <= last + room) & ~hidden
    return chosen / chosen.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)


def _places(hidden: Bool[Tensor, "*S Q T"]) -> Int[Tensor, " T"]:
    return torch.arange(hidden.shape[-1], device=hidden.device)
