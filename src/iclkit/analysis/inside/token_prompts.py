"""Demonstrations of tokens, as prompts of a language model.

A demonstration is some tokens and, as the one behind them, its label. Shape letters: B episodes, N
demonstrations, C tokens of a prompt, T tokens of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from iclkit.analysis.inside.prompted import NOTHING, QUERY, Prompts
from iclkit.errors import UserError

# In the place of a token, where a prompt is shorter than others.
FILL = -1


@dataclass(frozen=True)
class TokenEpisode:
    """Demonstrations with their labels, and a query with its own; all of them token ids.

    Args:
        demonstrations: Tokens of each demonstration, without the label.
        labels: Its label.
        query: Tokens of the query.
        label: What it should be answered with.
    """

    demonstrations: Sequence[Sequence[int]]
    labels: Sequence[int]
    query: Sequence[int]
    label: int

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.demonstrations) or not self.labels:
            raise UserError(
                f"an episode has a label for each of its demonstrations, and at least one, given "
                f"{len(self.demonstrations)} demonstrations and {len(self.labels)} labels"
            )
        if not all([*self.demonstrations, self.query]):
            raise UserError("demonstrations and queries have at least one token each")
        if min([*self.labels, self.label, *self.query, *(t for d in self.demonstrations for t in d)]) < 0:
            raise UserError("tokens are numbers from 0 on, given a negative one")


def token_prompts(episodes: Sequence[TokenEpisode]) -> tuple[Prompts, Int[Tensor, " O"]]:
    """Prompts of token ids, and the labels that occur, which are the choices.

    In context a demonstration's label stands behind it, the query comes last. Shorter prompts are filled up in
    front. Separators belong to the demonstrations and queries, if there are to be any.

    Args:
        episodes: All with the same number of demonstrations.

    Returns:
        The prompts, whose targets are places among the choices; and the choices, in ascending order.

    Raises:
        UserError: No episodes, or different numbers of demonstrations.
    """
    counts = {len(episode.labels) for episode in episodes}
    if len(counts) != 1:
        raise UserError(f"episodes need one number of demonstrations, given {sorted(counts) or 'no episodes'}")
    choices = sorted({label for episode in episodes for label in [*episode.labels, episode.label]})
    in_context, owner = [], []
    for episode in episodes:
        tokens, owners = [], []
        for place, (shown, label) in enumerate(zip(episode.demonstrations, episode.labels, strict=True)):
            tokens += [*shown, label]
            owners += [place] * (len(shown) + 1)
        in_context.append([*tokens, *episode.query])
        owner.append([*owners, *[QUERY] * len(episode.query)])
    queries = [episode.query for episode in episodes]
    shown = [tokens for episode in episodes for tokens in episode.demonstrations]
    longest = max(len(tokens) for tokens in [*queries, *shown])
    demonstrations = _filled(shown, longest, FILL).view(len(episodes), -1, longest)
    labels = torch.tensor([[*episode.labels, episode.label] for episode in episodes])
    targets = torch.searchsorted(torch.tensor(choices), labels)
    prompts = Prompts(
        _filled(in_context, max(map(len, in_context)), FILL),
        _filled(queries, longest, FILL),
        demonstrations,
        targets[:, :-1],
        targets[:, -1],
        _filled(owner, max(map(len, owner)), NOTHING),
        demonstrations != FILL,
        query_tokens=longest,
    )
    return prompts, torch.tensor(choices)


def _filled(rows: Sequence[Sequence[int]], length: int, value: int) -> Int[Tensor, "rows length"]:
    return torch.tensor([[value] * (length - len(row)) + list(row) for row in rows])


def recall_episodes(
    vocabulary: int, episodes: int, demonstrations: int, generator: torch.Generator
) -> list[TokenEpisode]:
    """Episodes of pairs of random tokens, the query being the first of one of them: a case for induction heads.

    All tokens of an episode's pairs differ, so that the query tells its answer.

    Args:
        vocabulary: Different tokens.
        episodes: How many.
        demonstrations: Pairs in each.
        generator: Source of randomness.

    Raises:
        UserError: Fewer than one episode or pair, or more pairs than half the vocabulary.
    """
    if episodes < 1 or not 1 <= demonstrations <= vocabulary // 2:
        raise UserError(
            f"give at least one episode, and 1 to {vocabulary // 2} demonstrations, half the vocabulary; given "
            f"{episodes} and {demonstrations}"
        )
    drawn = torch.rand(episodes, vocabulary, generator=generator).argsort(-1)[:, : 2 * demonstrations]
    asked = torch.randint(demonstrations, (episodes,), generator=generator).tolist()
    return [
        TokenEpisode([[token] for token in row[0::2]], row[1::2], [row[2 * place]], row[2 * place + 1])
        for row, place in zip(drawn.tolist(), asked, strict=True)
    ]
