"""Which columns an operation reads: the one before, all pairs, or the pair that fits best."""

from __future__ import annotations

from dataclasses import dataclass


class Where:
    """Which columns are read. None reads a query's but its own, and none a later pair's."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The registers that decide it."""
        return ()


@dataclass(frozen=True)
class Previous(Where):
    """The column before: that of the pair before, or the start column. The start column reads itself."""

    def __str__(self) -> str:
        return "previous"


PREVIOUS = Previous()


@dataclass(frozen=True)
class Pairs(Where):
    """The mean over all pairs so far: a pair counts itself, a query does not. Without any, the start column."""

    def __str__(self) -> str:
        return "pairs"


@dataclass(frozen=True)
class First(Where):
    """The first pair. Without any, the start column."""

    def __str__(self) -> str:
        return "first"


@dataclass(frozen=True)
class Largest(Where):
    """The pair so far with the largest (query here)ᵀ(key there) + (plus there); the mean of those that tie.

    Args:
        query: Register of the column that reads.
        key: Register of the columns that are read, of the same shape.
        plus: Register of a number, in the columns that are read.
        later: What each pair counts less than the one before it: enough to decide between pairs that tie, if it
            is more than rounding (some 1e-14 of the scores).
    """

    query: str
    key: str
    plus: str
    later: float = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        return self.query, self.key, self.plus

    def __str__(self) -> str:
        text = f"largest {self.query}·{self.key} + {self.plus}"
        return f"{text}, the first that ties" if self.later else text
