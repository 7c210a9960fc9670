"""How much learning in context looks like fine-tuning on the same demonstrations: the published measures.

Pure functions of what a network did in three settings: alone with the query (zero-shot), with the
demonstrations before it (in context), and alone after an epoch of training on the demonstrations (fine-tuned).

Shape letters: B episodes, H heads, T tokens of the query, C tokens of the context, N demonstrations, W width.

Source: Dai et al. (2022), "Why can GPT learn in-context?", section 4.2, and the code published with it. What is
said below of that code, where it says more than the paper, is from reading it; its random updates are not
copied.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.analysis.cosine import cosine, normalised
from iclkit.analysis.intervals import Curve, Interval

# Comparisons of pairs that are held at a time.
_PAIRS = 1 << 23


def rec2ftp(
    zero_shot: Bool[Tensor, " B"],
    in_context: Bool[Tensor, " B"],
    fine_tuned: Bool[Tensor, " B"],
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Rec2FTP: of the queries that fine-tuning sets right, the share that the context sets right.

    Args:
        zero_shot: Whether the network is right without anything to learn from.
        in_context: Whether it is right behind the demonstrations.
        fine_tuned: Whether it is right after training on them.
        level: Coverage of the interval.
        seed: Seed of the resampling, which is of the queries that fine-tuning sets right.

    Returns:
        The share with its bootstrap interval; NaN where fine-tuning sets nothing right.
    """
    learned = fine_tuned & ~zero_shot
    if not learned.any():
        nothing = torch.tensor(float("nan"), dtype=torch.float64)
        return Interval(nothing, nothing, nothing)
    return Curve((0,), in_context[learned].double()[:, None]).interval(level, seed)[0]


def sim_aou(
    zero_shot: Float[Tensor, "*B W"], in_context: Float[Tensor, "*B W"], fine_tuned: Float[Tensor, "*B W"]
) -> Float[Tensor, "*B"]:
    """SimAOU: the cosine between the two updates of what attention adds to the last token.

    Each output is first divided by its length; an update is the difference to the output without
    demonstrations.

    Args:
        zero_shot: Output of an attention layer at the last token, behind its output matrix.
        in_context: The same behind the demonstrations.
        fine_tuned: The same after training on them.

    Returns:
        cos(ĥ_ICL - ĥ_ZSL, ĥ_FT - ĥ_ZSL); 0 where there is no update.
    """
    before = normalised(zero_shot)
    return cosine(normalised(in_context) - before, normalised(fine_tuned) - before)


def random_sim_aou(
    zero_shot: Float[Tensor, "*B W"], in_context: Float[Tensor, "*B W"], generator: torch.Generator
) -> Float[Tensor, "*B"]:
    """SimAOU with random updates: N(0, 1) in each coordinate, so that its mean is 0 whatever the network does.

    The published code draws them from U[0, 1). That has the mean 1/2, so that every update whose coordinates
    have a mean of their own is similar to it.
    """
    update = normalised(in_context) - normalised(zero_shot)
    noise = torch.randn(update.shape, generator=generator, dtype=update.dtype).to(update.device)
    return cosine(update, noise)


def shuffled_sim_aou(
    zero_shot: Float[Tensor, "*B W"],
    in_context: Float[Tensor, "*B W"],
    fine_tuned: Float[Tensor, "*B W"],
    generator: torch.Generator,
) -> Float[Tensor, "*B"]:
    """SimAOU with the update of fine-tuning in another, random, order of its coordinates."""
    before = normalised(zero_shot)
    update = normalised(fine_tuned) - before
    order = torch.rand(update.shape, generator=generator).argsort(-1).to(update.device)
    return cosine(normalised(in_context) - before, update.gather(-1, order))


def sim_am(one: Float[Tensor, "*B H T"], other: Float[Tensor, "*B H T"]) -> Float[Tensor, "*B"]:
    """SimAM: the cosine between the scores that the last token gives the query's tokens, mean over heads.

    Args:
        one: Scores before the softmax, those of the demonstrations left out.
        other: The same in another setting.

    Returns:
        The mean cosine. Of a query that is one token it is the share of heads with equal signs less that with
        opposite ones, for a single number has no other direction.
    """
    return cosine(one, other).mean(-1)


def kendall(one: Float[Tensor, "*B N"], other: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """Kendall's rank correlation τ_b, as `scipy.stats.kendalltau`; 0 where all entries of one are equal.

    Args:
        one: Attention to the demonstrations (`attention_in_context`).
        other: Attention to the training examples (`attention_to_training`).
    """
    count = one.shape[-1]
    flat = [side.reshape(-1, count) for side in (one, other)]
    chunks = zip(*(side.split(max(1, _PAIRS // max(1, count * count))) for side in flat), strict=True)
    return torch.cat([_kendall(a, b) for a, b in chunks]).view(one.shape[:-1])


def attention_in_context(
    scores: Float[Tensor, "*B H C"], owner: Int[Tensor, "*#B C"], demonstrations: int
) -> Float[Tensor, "*B N"]:
    """Attention of the query's last token to each demonstration, in context.

    As the published code has it: scores are added over heads, a softmax runs over all tokens of demonstrations,
    and its shares are added over the tokens of each. So longer demonstrations get more, here as in
    `attention_to_training`: where lengths differ, Kendall is large for untrained networks too.

    Args:
        scores: Scores of the last token before the softmax, for all tokens of the prompt.
        owner: The demonstration that a token belongs to; negative for none.
        demonstrations: How many there are (N).
    """
    return _shares(scores.sum(-2), owner, demonstrations)


def attention_to_training(
    training: Float[Tensor, "*B N T I"],
    query: Float[Tensor, "*B I"],
    counted: Bool[Tensor, "*#B N T"] | None = None,
) -> Float[Tensor, "*B N"]:
    """Attention of a query's last token to each training example, of a network that was trained on them.

    A trained layer is attention over its training tokens (Irie et al. 2022), whose scores are inner products
    with the query. As the published code has it, these are of attention queries (q of all heads, each divided
    by √D): what training of keys and values alone leaves the matrix of. A softmax runs over all training
    tokens, and its shares are added over those of each example. The paper's text is not at hand; the code is
    followed.

    Args:
        training: Attention queries of the tokens of each example, when training came to it.
        query: Attention query of the last token, after the training.
        counted: Which tokens are the example's; all if None.
    """
    examples, tokens = training.shape[-3:-1]
    scores = (training.flatten(-3, -2) @ query[..., None])[..., 0]
    owner = torch.arange(examples, device=query.device)[:, None].expand(examples, tokens)
    if counted is not None:
        owner = torch.where(counted, owner, -1)
    return _shares(scores, owner.flatten(-2), examples)


def _shares(scores: Float[Tensor, "*B C"], owner: Int[Tensor, "*#B C"], count: int) -> Float[Tensor, "*B N"]:
    shares = F.softmax(scores.masked_fill(owner < 0, float("-inf")), -1)
    members = F.one_hot(owner.clamp_min(0), count).to(scores)
    return (shares[..., None, :] @ members)[..., 0, :]


def _kendall(a: Float[Tensor, "R N"], b: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
    first, second = ((x[:, :, None] - x[:, None]).sign().flatten(1) for x in (a, b))
    scale = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return (first * second).sum(-1) / scale.clamp_min(1.0)
