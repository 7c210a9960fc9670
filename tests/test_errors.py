"""Errors, and text from elsewhere as messages show it."""

from __future__ import annotations

import pytest

from iclkit.errors import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("height (m), 测量 ² é", "height (m), 测量 ² é"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),  # the one-byte form of ESC [
        ("two\r\nlines\u2028", "two\\r\\nlines\\u2028"),
        ("txt.\u202egnp", "txt.\\u202egnp"),  # writes what follows from right to left
        ("\udcff", "\\udcff"),  # a byte of a file name that is no UTF-8
        ("\x7f\x08\t", "\\x7f\\x08\\t"),
    ],
)
def test_what_acts_on_a_terminal_is_shown_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected
    assert shown(text).isprintable()
