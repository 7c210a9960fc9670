"""Induction heads: which heads look back at what followed a token before, and which write what they see.

An induction head at a token looks for earlier copies of it, attends to the tokens after them, and raises their
logits: ... A B ... A -> B. Scores are of every layer and head at once; patterns come from `run_with_cache`.

Shape letters: L layers, H heads, B sequences, T tokens, W width, D width of a head, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.networks import Hooked
from iclkit.sequences import TokenTransformer


def attention_patterns(model: Any, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "L H B T T"]:
    """How much each token (first T) attends to each (second T), in each head.

    Args:
        model: A network that takes tokens, with as many heads in every layer; or a learner that has one.
        tokens: Sequences.

    Raises:
        UserError: A network without hook points of that name, or whose layers differ in their heads; tokens
            that it does not take.
    """
    cache = _run(model, tokens, "blocks.*.attention.pattern")
    heads = [pattern.shape[1] for pattern in cache.values()]
    if len(set(heads)) > 1:
        raise UserError(
            f"the layers have {', '.join(map(str, heads))} heads; give a network with as many in each"
        )
    return torch.stack(list(cache.values())).transpose(1, 2)


def followers(tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T T"]:
    """At [i, j], whether token j comes right after an earlier copy of token i: x_(j-1) = x_i, 1 <= j <= i."""
    found = torch.zeros(*tokens.shape, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    found[:, :, 1:] = tokens[:, :, None] == tokens[:, None, :-1]
    return found.tril()


def ambiguous(tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Whether different tokens came after earlier copies of a token: it alone does not say what is next."""
    matches = followers(tokens)
    after = tokens[:, None]
    least = torch.where(matches, after, tokens.max() + 1).amin(-1)
    return torch.where(matches, after, -1).amax(-1) > least


def prefix_matching_score(
    patterns: Float[Tensor, "L H B T T"], tokens: Int[Tensor, "B T"], queries: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, "L H"]:
    """The attention that a token gives to whatever followed earlier copies of it, all of them together.

    Args:
        patterns: What `attention_patterns` returns.
        tokens: The sequences.
        queries: The tokens that are asked, such as the copies of repeated sequences; those with an earlier copy
            if None.

    Returns:
        The mean over queries; 1 for a head that attends to nothing else.

    Raises:
        UserError: Shapes that do not belong together, or no query.

    Source: Olsson et al. (2022), "In-context learning and induction heads", prefix-matching score.
    """
    if patterns.ndim != 5 or patterns.shape[2:] != (*tokens.shape, tokens.shape[-1]):
        raise UserError(
            f"patterns must have shape [layers, heads, sequences, tokens, tokens] for tokens of shape "
            f"{list(tokens.shape)}, given {list(patterns.shape)}"
        )
    matches = followers(tokens)
    queries = matches.any(-1) if queries is None else queries
    if queries.shape != tokens.shape or queries.dtype != torch.bool:
        raise UserError(
            f"queries must be truth values of shape {list(tokens.shape)}, "
            f"given {queries.dtype} of {list(queries.shape)}"
        )
    if not queries.any():
        raise UserError("no token has an earlier copy to look for; give sequences that repeat")
    asked = (matches & queries[..., None]).to(patterns.dtype)
    return torch.einsum("lhbij,bij->lh", patterns, asked) / queries.sum()


def copying_score(model: TokenPredictor | TokenTransformer, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "L H"]:
    """Of the logits that a head raises directly, the share that goes to the tokens it attends to.

    Head h at token i adds A_ij l_j to the logits for each j that it attends to, l_j without its mean over the
    vocabulary. What of this is positive is its mass, and the share is that of the entries x_j. So the last
    LayerNorm does not matter, which divides all that is added at i by the same number.

    Args:
        model: The network, or a learner that has it.
        tokens: Sequences, such as random ones.

    Returns:
        The mean share over all i, scaled to [-1, 1]: 1 for a head that raises nothing but what it sees, -1 for
        one that raises nothing of it. Chance is 2 / V - 1 (logits that have nothing to do with what is
        attended to), not 0: with 64 tokens -0.97, so that -0.37 is far above it.

    Raises:
        UserError: Another kind of network, or tokens that it does not take.

    Source: after Olsson et al. (2022), appendix, head activation evaluators. Which tokens count as attended to
    is decided here by the attention that they get.
    """
    network = _read_out(model)
    cache = _run(network, tokens, "blocks.*.attention.v", "blocks.*.attention.pattern")
    with torch.no_grad():
        shares = [
            _share(
                network,
                layer,
                cache[f"blocks.{layer}.attention.v"],
                cache[f"blocks.{layer}.attention.pattern"],
                tokens,
            )
            for layer in range(network.layers)
        ]
    return 2 * torch.stack(shares) - 1


def _share(
    network: TokenTransformer,
    layer: int,
    values: Float[Tensor, "B H T D"],
    pattern: Float[Tensor, "B H T T"],
    tokens: Int[Tensor, "B T"],
) -> Float[Tensor, " H"]:
    attention = network.attentions()[layer]
    out = attention.out.weight.view(-1, attention.heads, attention.head_width)
    raised = network.direct_logits(torch.einsum("bhtd,whd->bhtw", values, out)).relu()
    own = raised.gather(-1, tokens[:, None, :, None].expand(-1, attention.heads, -1, 1))
    # [B, H, T, 2]: the mass on the tokens attended to, and all of it.
    mass = pattern @ torch.cat([own, raised.sum(-1, keepdim=True)], -1)
    # A head that raises nothing copies nothing.
    return (mass[..., 0] / mass[..., 1].clamp(min=torch.finfo(mass.dtype).tiny)).mean((0, 2))


def copying_eigenvalues(model: TokenPredictor | TokenTransformer) -> Float[Tensor, "L H"]:
    """Σλ / Σ|λ| over the eigenvalues of W_E W_V W_O W_U [V, V] of each head: cheap, beside `copying_score`.

    Positive eigenvalues mean that sets of tokens raise their own logits; LayerNorms are left out. The D x D
    matrix W_V W_Eᵀ W_U W_O has the same eigenvalues but for zeros, for tr (AB)^n = tr (BA)^n.

    Raises:
        UserError: Another kind of network.

    Source: Elhage et al. (2021), "A mathematical framework for transformer circuits", copying heads.
    """
    network = _read_out(model)
    with torch.no_grad():
        through = network.tokens.weight.mT @ network.unembedding.weight  # [W, W]: from what is written to read
        products = []
        for attention in network.attentions():
            _, _, values = attention.qkv.weight.view(3, attention.heads, attention.head_width, -1)
            out = attention.out.weight.view(-1, attention.heads, attention.head_width).transpose(0, 1)
            products.append(values @ through @ out)
        found = torch.linalg.eigvals(torch.stack(products))
    # A head whose product is zero copies nothing.
    return found.real.sum(-1) / found.abs().sum(-1).clamp(min=torch.finfo(found.real.dtype).tiny)


def in_context_learning_score(
    losses: Float[Tensor, "B T-1"], late: int | range, early: int | range
) -> Float[Tensor, ""]:
    """The loss late in the sequence minus that early in it: negative if the network learns from its context.

    Args:
        losses: -log p(x_t | x_<t) for t = 1 .. T - 1, as `next_token_losses` returns them.
        late: Number t of a late token, or of several; 500 as published.
        early: Of an early token, or of several; 50 as published.

    Raises:
        UserError: Tokens that have no loss.

    Source: Olsson et al. (2022), in-context learning score.
    """
    return _mean_at(losses, "late", late) - _mean_at(losses, "early", early)


def _mean_at(losses: Float[Tensor, "B T-1"], name: str, places: int | range) -> Float[Tensor, ""]:
    chosen = [places] if isinstance(places, int) else list(places)
    if not chosen or not 1 <= min(chosen) <= max(chosen) <= losses.shape[1]:
        raise UserError(f"{name} must be numbers of tokens in 1..{losses.shape[1]}, given {places}")
    return losses[:, [place - 1 for place in chosen]].mean()


def _read_out(model: Any) -> TokenTransformer:
    network = getattr(model, "network", model)
    if not isinstance(network, TokenTransformer):
        raise UserError(
            f"what a head raises is known of a TokenTransformer alone, given {type(network).__name__}; "
            "prefix matching takes any network of tokens with hook points"
        )
    return network


def _run(model: Any, tokens: Int[Tensor, "B T"], *names: str) -> dict[str, Tensor]:
    network = getattr(model, "network", model)
    if not isinstance(network, Hooked):
        raise UserError(
            f"the network has no hook points, given {type(network).__name__}; derive it from networks.Hooked"
        )
    if hasattr(network, "dim"):
        raise UserError(f"{type(network).__name__} takes points; give a network of tokens: TokenTransformer")
    with torch.no_grad():
        return network.run_with_cache(tokens, names=names)[1]
