"""Errors that a user can act on: one line that says what was given, what is accepted and what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_LISTED = 40
_COMPARED = 1000
_SHORT = 60
# Controls (a terminal obeys them), halves of letters (bytes of a file name that are no text), line breaks, and
# formats (they turn the direction of text or hide it) but for the two that join letters.
_UNSHOWN = {"Cc", "Cs", "Zl", "Zp", "Cf"}
_JOINERS = "\u200c\u200d"


def shown(text: str) -> str:
    """Text from a file, a name or an argument as it may be printed: control characters are escaped.

    Args:
        text: Any text.

    Returns:
        The same, in one line; what a terminal would obey or hide stands as `\\x1b`, `\\n`, `\\u202e`, ...
    """
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in _UNSHOWN and letter not in _JOINERS else letter
        for letter in text
    )


def short(text: str) -> str:
    """Text of any length as a message may hold it: its first letters, and dots if there are more."""
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its message alone and exits with code 2.

    Args:
        message: One line; names in it may come from anywhere, their control characters are escaped here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


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
    listed = ", ".join(map(short, names[:_LISTED]))
    listed += f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    # Names from files may be many and long; a comparison takes time with both.
    # Capitals are no difference, and names with less than half in common no guess.
    compared = {other.lower(): other for other in names[:_COMPARED] if len(other) <= _SHORT}
    near = difflib.get_close_matches(name.lower(), compared, n=1, cutoff=0.5) if len(name) <= _SHORT else []
    hint = f"; did you mean {compared[near[0]]!r}?" if near else ""
    return UserError(f"unknown {kind} {short(name)!r}{hint} (accepted: {listed})")
