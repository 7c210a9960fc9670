"""Sequences of tokens parts of which repeat earlier ones; what an induction head is looked for with.

A token is a whole number below the size of the vocabulary. Shape letters: B sequences, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.base import Task
from iclkit.tasks.regression import check_whole


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences, and which of their tokens are copies.

    Args:
        tokens: The tokens.
        source: The place that a token is a copy of, such that one who knows the rule can predict it from the
            tokens before; -1 for a token that is new.
    """

    tokens: Int[Tensor, "B T"]
    source: Int[Tensor, "B T"]

    @property
    def copied(self) -> Bool[Tensor, "B T"]:
        """Whether a token is a copy that can be predicted."""
        return self.source >= 0


class SequenceTask(Task):
    """A distribution over sequences, of as many tokens as episodes of other tasks have points."""

    vocabulary: int

    @abstractmethod
    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Sequences:
        """Draw a batch of sequences and what is copied in them.

        Args:
            episodes: How many (B).
            points: Tokens in each (T).
            generator: Source of randomness; the same state gives the same sequences.

        Raises:
            UserError: Numbers that are not whole, or negative.
        """

    def sample(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, "B T"]:
        """Draw a batch of sequences; arguments as in `draw`."""
        return self.draw(episodes, points, generator).tokens


@dataclass(frozen=True)
class RepeatedTokens(SequenceTask):
    """Random tokens, repeated over and over: x_t = x_(t - p), with a period p of each sequence.

    The first token of the second round cannot be told from a new one, and is no copy here. With one period for
    all sequences position alone says what comes next, and no induction is needed.

    Args:
        vocabulary: Different tokens.
        shortest: Least period; periods are drawn uniformly.
        longest: Greatest period.
        distinct: Whether the tokens of a period all differ, so that the token before says what comes next;
            else they are independent, and it may have been followed by several.

    Raises:
        UserError: Sizes that no sequence has.

    Source: Olsson et al. (2022), "In-context learning and induction heads", "repeated random sequences": one
    period there.
    """

    vocabulary: int = 32
    shortest: int = 8
    longest: int = 24
    distinct: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self.vocabulary, self.vocabulary, self.shortest, self.longest, self.distinct)

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Sequences:
        check_whole(0, episodes=episodes, points=points)
        period = _lengths(self.shortest, self.longest, episodes, generator)
        tokens = _random_tokens(episodes, self.longest, self.vocabulary, self.distinct, generator)
        place = torch.arange(points)
        source = torch.where(place > period, place - period, -1)
        return Sequences(tokens.gather(1, place % period), source)


@dataclass(frozen=True)
class Copying(SequenceTask):
    """Random tokens, a separator, the same tokens again, and separators to the end.

    The separator is the last token of the vocabulary, and never one of those that are copied.

    Args:
        vocabulary: Different tokens, the separator among them.
        shortest: Least number of tokens to copy; numbers are drawn uniformly.
        longest: Greatest number.
        distinct: Whether the tokens to copy all differ.

    Raises:
        UserError: Sizes that no sequence has.
    """

    vocabulary: int = 32
    shortest: int = 8
    longest: int = 20
    distinct: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self.vocabulary, self.vocabulary - 1, self.shortest, self.longest, self.distinct)

    @property
    def separator(self) -> int:
        """The token between the two parts."""
        return self.vocabulary - 1

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Sequences:
        check_whole(0, episodes=episodes, points=points)
        count = _lengths(self.shortest, self.longest, episodes, generator)
        tokens = _random_tokens(episodes, self.longest, self.separator, self.distinct, generator)
        place = torch.arange(points)
        copied = (place > count) & (place <= 2 * count)
        source = torch.where(copied, place - count - 1, -1)
        origin = torch.where(copied, source, place).clamp(max=self.longest - 1)
        silent = (place == count) | (place > 2 * count)
        return Sequences(tokens.gather(1, origin).masked_fill(silent, self.separator), source)


def _lengths(
    shortest: int, longest: int, episodes: int, generator: torch.Generator | None
) -> Int[Tensor, "B 1"]:
    return torch.randint(shortest, longest + 1, (episodes, 1), generator=generator)


def _random_tokens(
    episodes: int, count: int, choices: int, distinct: bool, generator: torch.Generator | None
) -> Int[Tensor, "B count"]:
    if distinct:
        return torch.rand(episodes, choices, generator=generator).argsort(-1)[:, :count]
    return torch.randint(choices, (episodes, count), generator=generator)


def _check_sizes(vocabulary: int, choices: int, shortest: int, longest: int, distinct: bool) -> None:
    check_whole(2, vocabulary=vocabulary)
    check_whole(1, shortest=shortest)
    check_whole(shortest, longest=longest)
    if distinct and longest > choices:
        raise UserError(
            f"distinct tokens need longest to be at most {choices}, given {longest}; or a larger vocabulary"
        )
