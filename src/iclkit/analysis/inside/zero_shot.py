"""Linear attention as a zero-shot model and its update by the demonstrations.

W_V [X'; X] (W_K [X'; X])ᵀ q = (W_ZSL + ΔW_ICL) q: a query gets what it would get by its own tokens X alone, and
what the demonstrations X' add. That is a step of gradient descent, Σ e_i k_iᵀ as in `linear_dual.py`: on inputs
k_i = W_K x'_i, with the errors e_i = W_V x'_i.

Shape letters: B sequences, N demonstration tokens, M query tokens, W width, H heads, D width of a head, Q
queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.networks import Attention
from iclkit.networks.weighting import Linear


@dataclass(frozen=True, eq=False)
class ZeroShotUpdate:
    """The matrices of one layer and one context, by sequence and head.

    Args:
        zero_shot: W_ZSL = Σ v_j k_jᵀ over the query's tokens.
        update: ΔW_ICL = Σ v_i k_iᵀ over the demonstrations.
    """

    zero_shot: Float[Tensor, "B H D D"]
    update: Float[Tensor, "B H D D"]

    def __call__(self, queries: Float[Tensor, "B H Q D"]) -> Float[Tensor, "B H Q D"]:
        """(W_ZSL + ΔW_ICL) q, before the heads are merged."""
        return queries @ (self.zero_shot + self.update).mT


def zero_shot_update(
    attention: Attention, demonstrations: Float[Tensor, "B N W"], query: Float[Tensor, "B M W"]
) -> ZeroShotUpdate:
    """Take a layer of linear attention apart into a zero-shot model and what a context does to it.

    The divisor of linear attention, the tokens counted, is part of both matrices. So with other demonstrations
    W_ZSL changes by a factor, where the paper, which divides by nothing, has it fixed.

    Args:
        attention: A layer with linear attention.
        demonstrations: X', as they enter the layer (behind its norm).
        query: X, the tokens that belong to the query; the last is the one that asks, and is to itself what
            `BlockConfig.own` says.

    Raises:
        UserError: Attention of another kind, or tokens that do not fit it.

    Source: Dai et al. (2022), "Why can GPT learn in-context?", equations 9 to 12.
    """
    if not isinstance(attention, Attention):
        raise UserError(
            f"attention must be a layer of attention, given {type(attention).__name__}; give one such as "
            "network.backbone.blocks[0].attention"
        )
    if not isinstance(attention.weighting, Linear):
        raise UserError(
            "only linear attention is a zero-shot model and its update, given "
            f"{type(attention.weighting).__name__.lower()}; for softmax see softmax_dual"
        )
    if attention.variant.remixes:
        raise UserError(
            f"attention must be plain to be a zero-shot model and its update, given {attention.variant}"
        )
    width = attention.width
    for name, tokens in (("demonstrations", demonstrations), ("query", query)):
        if tokens.ndim != 3 or tokens.shape[2] != width or len(tokens) != len(query):
            raise UserError(
                f"{name} must have shape [{len(query)}, tokens, {width}], as the query's sequences and the "
                f"layer's width are, given {list(tokens.shape)}"
            )
    if not query.shape[1]:
        raise UserError("query must have at least one token, the one that asks, given none")
    _, k_context, v_context = attention.project(demonstrations)
    _, k, v = attention.project(query)
    if attention.own == "unseen":
        k, v = k[:, :, :-1], v[:, :, :-1]
    counted = demonstrations.shape[1] + query.shape[1] - (attention.own != "counted")
    share = 1 / counted if counted else 0.0  # where nothing is counted, nothing is attended to
    return ZeroShotUpdate(share * v.mT @ k, share * v_context.mT @ k_context)
