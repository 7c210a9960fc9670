"""What users read of mistakes: one line, whatever the names in it hold."""

from __future__ import annotations

import pytest

from iclkit.errors import UserError, shown, unknown


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("height", "height"),
        ("Länge in m², 身高, \U0001f469\u200d\U0001f52c", "Länge in m², 身高, \U0001f469\u200d\U0001f52c"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\r\tand a tab", r"two\nlines\r\tand a tab"),
        ("bell\x07, delete\x7f, C1\x9b2J", r"bell\x07, delete\x7f, C1\x9b2J"),
        ("turned \u202e round", r"turned \u202e round"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("no text: \udcff", r"no text: \udcff"),
        ("txt.\u202egnp", "txt.\\u202egnp"),  # writes what follows from right to left
        ("C:\\data", "C:\\data"),
        ("a\xa0b", "a\xa0b"),
    ],
)
def test_control_characters_are_shown_escaped(text: str, printed: str) -> None:
    assert shown(text) == printed
    assert shown(printed) == printed
    assert str(UserError(f"there is no file {text}")) == f"there is no file {printed}"


def test_an_unknown_name_is_one_line() -> None:
    told = str(unknown("column", "\x1b]0;title\x07", ["a\x1b[2J", "b\nc"]))
    assert "\x1b" not in told
    assert "\n" not in told
