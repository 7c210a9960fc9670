"""Errors that a user can act on: one line that says what was given, what is accepted and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 40


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its message alone and exits with code 2."""


def unknown(kind: str, name: str, accepted: Iterable[str]) -> UserError:
    """The error for a name that is not registered, with the nearest accepted name.

    Args:
        kind: What is named ("recipe", "model", "objective", ...).
        name: What was given.
        accepted: Every accepted name; where they are very many, not all are listed.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(accepted)
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} (accepted: {listed})")


def shown(text: str) -> str:
    """Text from a file or an argument as a terminal may show it.

    Escape sequences, line ends, characters that turn the direction of writing and bytes that are no text are
    written as Python writes them (`\\x1b`): a name from a file must not act on the terminal.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
