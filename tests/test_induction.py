"""Scores of induction heads: a head made by hand, uniform attention, and courses of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iclkit.analysis.inside.induction import (
    ambiguous,
    attention_patterns,
    copying_eigenvalues,
    copying_score,
    followers,
    in_context_learning_score,
    prefix_matching_score,
)
from iclkit.errors import UserError
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.networks import Hooked, HookPoint
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer, next_token_losses
from iclkit.tasks import SEQUENCE_TASKS, RepeatedTokens

VOCABULARY, LENGTH = 11, 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def induction_network(sharpness: float = 80.0) -> TokenTransformer:
    """An induction head by hand.

    The stream has four parts: token, place, token before, prediction. Layer 0 attends to the place before and
    writes the token there into the third part. Layer 1 attends wherever that part is the token itself, and
    writes the token there into the fourth, which alone is read out. The first place, whose "token before" is
    its own token, is kept out of sight by a negative score.
    """
    v, t = VOCABULARY, LENGTH
    width = 3 * v + t
    token, place, before, said = (
        slice(a, b) for a, b in ((0, v), (v, v + t), (v + t, 2 * v + t), (2 * v + t, width))
    )
    network = TokenTransformer(v, width, layers=2, heads=1, max_length=t, norm=False).double()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    one = torch.eye(v, dtype=torch.float64)
    scale = sharpness * math.sqrt(width)
    with torch.no_grad():
        network.tokens.weight[:, token] = one
        network.places.weight[:, place] = torch.eye(t, dtype=torch.float64)
        network.unembedding.weight[:, said] = one
        first, second = network.attentions()
        q, k, value = first.qkv.weight.view(3, width, width)
        q[: t - 1, place][:, 1:] = scale * torch.eye(t - 1, dtype=torch.float64)
        k[:t, place] = torch.eye(t, dtype=torch.float64)
        value[:v, token] = one
        first.out.weight[before, :v] = one
        q, k, value = second.qkv.weight.view(3, width, width)
        q[:v, token] = scale * one
        k[:v, before] = one
        q[v, place] = scale
        k[v, place.start] = -2.0
        value[:v, token] = one
        second.out.weight[said, :v] = one
    return network


@pytest.mark.parametrize("name", SEQUENCE_TASKS)
def test_an_induction_head_made_by_hand_scores_one(name: str) -> None:
    make: Any = SEQUENCE_TASKS[name]
    task = make(vocabulary=VOCABULARY, shortest=3, longest=8)
    drawn = task.draw(64, LENGTH, generator())
    network = induction_network()
    patterns = attention_patterns(network, drawn.tokens)
    assert patterns.shape == (2, 1, 64, LENGTH, LENGTH)
    found = prefix_matching_score(patterns, drawn.tokens, drawn.copied)
    # Attention elsewhere is e^-80 a place.
    assert float(found[1, 0]) == pytest.approx(1.0, abs=1e-12)
    # Without a choice of queries: every token with an earlier copy, which are more.
    assert float(prefix_matching_score(patterns, drawn.tokens)[1, 0]) == pytest.approx(1.0, abs=1e-12)
    assert float(found[0, 0]) < 0.5
    # Layer 0 writes nothing that is read; the head in layer 1 raises what it sees and nothing else.
    assert copying_score(network, drawn.tokens).flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-12)


def test_the_hand_made_network_copies() -> None:
    """Distinct tokens: one match, so the most likely token is the right one at every copy."""
    task = RepeatedTokens(VOCABULARY, 3, 8, distinct=True)
    drawn = task.draw(64, LENGTH, generator())
    likeliest = induction_network()(drawn.tokens)[:, :-1].argmax(-1)
    assert torch.equal(likeliest[drawn.copied[:, 1:]], drawn.tokens[:, 1:][drawn.copied[:, 1:]])


def uniform_network(heads: int = 2, layers: int = 2) -> TokenTransformer:
    network = TokenTransformer(VOCABULARY, 12, layers, heads, max_length=LENGTH).double()
    for attention in network.attentions():
        nn.init.zeros_(attention.qkv.weight)
    return network


def test_uniform_attention_scores_the_share_of_matches() -> None:
    """Token i sees i + 1 tokens; if a period's all differ, floor(i / p) of them follow copies of it."""
    period = 5
    drawn = RepeatedTokens(VOCABULARY, period, period, distinct=True).draw(8, LENGTH, generator())
    expected = torch.tensor(
        [(i // period) / (i + 1) for i in range(period + 1, LENGTH)], dtype=torch.float64
    ).mean()
    found = prefix_matching_score(
        attention_patterns(uniform_network(), drawn.tokens), drawn.tokens, drawn.copied
    )
    torch.testing.assert_close(found, expected.expand(2, 2), rtol=0, atol=1e-12)


def test_uniform_attention_on_independent_tokens() -> None:
    """Each of the i - floor(i / p) other tokens before i matches too, with probability 1 / V."""
    period, episodes = 6, 4000
    drawn = RepeatedTokens(VOCABULARY, period, period).draw(episodes, LENGTH, generator())
    places = torch.arange(period + 1, LENGTH)
    sure = places // period
    expected = ((sure + (places - sure) / VOCABULARY) / (places + 1)).mean()
    patterns = attention_patterns(uniform_network(1, 1), drawn.tokens)
    each = (patterns[0, 0] * followers(drawn.tokens)).sum(-1)[:, period + 1 :].mean(-1)
    # Sequences are independent; five standard errors: false alarm < 1e-6.
    found = float(prefix_matching_score(patterns, drawn.tokens, drawn.copied))
    assert found == pytest.approx(float(each.mean()), abs=1e-12)
    assert abs(found - float(expected)) < 5 * float(each.std()) / math.sqrt(episodes)


def test_followers_written_out() -> None:
    # a b a a: token 2 has a copy at 0, followed by 1; token 3 copies at 0 and 2, followed by 1 and itself.
    found = followers(torch.tensor([[0, 1, 0, 0]]))[0].int().tolist()
    assert found == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]


def test_ambiguous_written_out() -> None:
    # a b a a b: after the first a came b and after the second a, so the third is ambiguous.
    assert ambiguous(torch.tensor([[0, 1, 0, 0, 1]])).tolist() == [[False, False, False, True, False]]
    distinct = RepeatedTokens(VOCABULARY, 4, 6, distinct=True).sample(8, LENGTH, generator())
    assert not ambiguous(distinct).any()
    tokens = RepeatedTokens(VOCABULARY, 4, 6).sample(8, LENGTH, generator()).tolist()
    expected = [
        [len({x[j] for j in range(1, i + 1) if x[j - 1] == x[i]}) > 1 for i in range(LENGTH)] for x in tokens
    ]
    assert ambiguous(torch.tensor(tokens)).tolist() == expected


def test_scores_by_loops() -> None:
    """Of a random network with LayerNorms: the definitions, one sequence and head at a time."""
    network = TokenTransformer(5, 12, heads=3, max_length=9).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)
    tokens = torch.randint(5, (3, 9), generator=generator())
    patterns, shares = attention_patterns(network, tokens), copying_score(network, tokens)
    matching = prefix_matching_score(patterns, tokens)
    _, cache = network.run_with_cache(tokens, names="blocks.*.attention.v")
    for layer, attention in enumerate(network.attentions()):
        for head in range(3):
            seen: list[Tensor] = []
            copied: list[Tensor] = []
            for b in range(3):
                x = tokens[b].tolist()
                value = cache[f"blocks.{layer}.attention.v"][b, head]
                written = value @ attention.out.weight[:, 4 * head : 4 * head + 4].T
                logits = network.direct_logits(written)
                for i in range(9):
                    weights = patterns[layer, head, b, i]
                    matches = [j for j in range(1, i + 1) if x[j - 1] == x[i]]
                    if matches:
                        seen.append(weights[matches].sum())
                    own = [weights[j] * logits[j, x[j]].clamp(min=0) for j in range(i + 1)]
                    mass = [weights[j] * logits[j].clamp(min=0).sum() for j in range(i + 1)]
                    copied.append(torch.stack(own).sum() / torch.stack(mass).sum())
            torch.testing.assert_close(matching[layer, head], torch.stack(seen).mean())
            torch.testing.assert_close(shares[layer, head], 2 * torch.stack(copied).mean() - 1)


def test_eigenvalues_are_those_of_the_whole_product() -> None:
    network = TokenTransformer(9, 12, heads=3).double()
    found = copying_eigenvalues(network)
    for layer, attention in enumerate(network.attentions()):
        for head, written in enumerate(attention.pv()):
            product = network.tokens.weight @ written.mT @ network.unembedding.weight.mT
            values = torch.linalg.eigvals(product.detach())
            torch.testing.assert_close(found[layer, head], values.real.sum() / values.abs().sum())
    # By hand: layer 1 maps each token to its own logit and layer 0 to none.
    by_hand = copying_eigenvalues(induction_network())
    assert by_hand.flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-12)


def test_scores_of_a_network_in_training_hold_no_graph() -> None:
    network = TokenTransformer(VOCABULARY, 16, 2, 2, max_length=LENGTH)
    tokens = RepeatedTokens(VOCABULARY, 3, 8).sample(4, LENGTH, generator())
    found = (attention_patterns(network, tokens), copying_score(network, tokens), copying_eigenvalues(network))
    assert not any(score.requires_grad for score in found)
    assert network.training
    assert not network.listening


def test_learners_are_taken_for_their_networks() -> None:
    network = induction_network()
    learner = TokenPredictor(network)
    tokens = RepeatedTokens(VOCABULARY, 3, 8).sample(4, LENGTH, generator())
    assert torch.equal(attention_patterns(learner, tokens), attention_patterns(network, tokens))
    assert torch.equal(copying_score(learner, tokens), copying_score(network, tokens))
    assert torch.equal(copying_eigenvalues(learner), copying_eigenvalues(network))


def test_in_context_learning_is_a_difference_of_losses() -> None:
    losses = torch.arange(10.0).expand(3, 10)
    assert float(in_context_learning_score(losses, 10, 1)) == 9.0
    assert float(in_context_learning_score(losses, range(9, 11), range(1, 4))) == 8.5 - 1.0
    # A network that copies knows late tokens better: those early ones that are new cost more.
    drawn = RepeatedTokens(VOCABULARY, 4, 6, distinct=True).draw(32, LENGTH, generator())
    losses = next_token_losses(induction_network(), drawn.tokens)
    assert float(in_context_learning_score(losses.detach(), range(12, LENGTH), range(1, 4))) < -0.5


class Uneven(Hooked):
    """Layers with one head and with two."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attention": nn.ModuleDict({"pattern": HookPoint()})}) for _ in range(2)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for heads, point in enumerate(self.hook_points().values(), 1):
            point(torch.ones(len(tokens), heads, tokens.shape[1], tokens.shape[1]))
        return tokens


def test_refusals() -> None:
    network = induction_network()
    tokens = RepeatedTokens(VOCABULARY, 3, 8).sample(4, LENGTH, generator())
    patterns = attention_patterns(network, tokens)
    with pytest.raises(UserError, match=r"no hook points, given Linear"):
        attention_patterns(nn.Linear(2, 2), tokens)
    regressor = InContextRegressor(dim=2, width=8, layers=1, heads=2)
    for score in (lambda: copying_score(regressor, tokens), lambda: copying_eigenvalues(regressor)):  # pyright: ignore
        with pytest.raises(UserError, match="known of a TokenTransformer alone, given InContextRegressor"):
            score()
    with pytest.raises(UserError, match=r"InContextRegressor takes points; give a network of tokens"):
        attention_patterns(regressor, tokens)
    with pytest.raises(UserError, match=r"the layers have 1, 2 heads; give a network with as many in each"):
        attention_patterns(Uneven(), tokens)
    with pytest.raises(UserError, match=r"patterns must have shape .* given \[2, 1, 4, 24, 24\]"):
        prefix_matching_score(patterns, tokens[:2])
    with pytest.raises(UserError, match=r"queries must be truth values of shape \[4, 24\], given torch.int64"):
        prefix_matching_score(patterns, tokens, tokens)
    with pytest.raises(UserError, match="no token has an earlier copy"):
        prefix_matching_score(patterns[..., :3, :3], torch.arange(3).expand(4, 3))
    with pytest.raises(UserError, match=r"late must be numbers of tokens in 1..5, given 6"):
        in_context_learning_score(torch.zeros(2, 5), 6, 1)
    with pytest.raises(UserError, match=r"early must be numbers of tokens in 1..5, given range\(0, 3\)"):
        in_context_learning_score(torch.zeros(2, 5), 5, range(3))
