"""The lines of a text file, none of them longer than a row may be, and the comments before the first row."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from iclkit.data.bounds import LONGEST_ROW, MOST_COMMENTS, MOST_EMPTY
from iclkit.data.opened import Opened
from iclkit.errors import UserError

# What Excel writes where a value is missing looks like a comment in the first column.
EXCEL_ERRORS = {
    *("#n/a", "#na", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!", "#spill!", "#calc!"),
    *("#nv", "#n/d", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#nom?", "#nombre!", "#valor!", "#valore!"),
}
_CELL = re.compile(r"[^,;\t|]*")


@dataclass(frozen=True)
class Comments:
    """The lines that begin with # before the first row.

    Args:
        lines: Lines before the first row, blank ones included.
        count: Comments among them.
        last: Number and text of the last comment, without its #; None if there is none.
    """

    lines: int
    count: int
    last: tuple[int, str] | None


class Text:
    """A text file of known encoding.

    Args:
        file: The file.

    Raises:
        UserError: Bytes that are no text.
    """

    def __init__(self, file: Opened) -> None:
        self.label = file.label
        self._path = file.path
        self._encoding = _encoding(file)
        self.comments = self._comments()

    def commented(self) -> Generator[str]:
        """The comments, without their #."""
        with contextlib.closing(self.lines()) as lines:
            for line in itertools.islice(lines, self.comments.lines):
                if line.strip():
                    yield _uncommented(line)

    def lines(self) -> Generator[str]:
        """All lines, comments included, with their ends.

        Raises:
            UserError: A line that is too long, or bytes that are no text.
        """
        number = 0
        with self._path.open(encoding=self._encoding, newline="") as file:
            try:
                while line := file.readline(LONGEST_ROW + 1):
                    number += 1
                    if len(line) > LONGEST_ROW:
                        raise UserError(
                            f"{self.label}, line {number} is longer than the {LONGEST_ROW:,} characters "
                            "that are accepted; write one row a line"
                        )
                    yield line
            except UnicodeError:
                name = "UTF-8" if self._encoding == "utf-8-sig" else self._encoding.upper()
                raise UserError(f"{self.label} is not {name} text; save it as CSV in UTF-8") from None

    def _comments(self) -> Comments:
        with contextlib.closing(self.lines()) as lines:
            return self._commented_before(lines)

    def _commented_before(self, all_lines: Iterable[str]) -> Comments:
        lines = count = 0
        last = None
        for number, line in enumerate(all_lines, 1):
            if not line.strip():
                if number > MOST_EMPTY:
                    raise UserError(f"{self.label} begins with more than {MOST_EMPTY:,} blank lines; drop them")
                continue
            if not _is_comment(line):
                return Comments(number - 1, count, last)
            lines, count, last = number, count + 1, (number, _uncommented(line))
            if count > MOST_COMMENTS:
                raise UserError(
                    f"{self.label} begins with more than {MOST_COMMENTS:,} lines that begin with #, which are "
                    "comments there; put quotes around the first cell if they are rows"
                )
        return Comments(lines, count, last)


def _is_comment(line: str) -> bool:
    line = line.strip()
    first = _CELL.match(line)
    return line.startswith("#") and not (first and first[0].strip().lower() in EXCEL_ERRORS)


def _uncommented(line: str) -> str:
    return line.lstrip().lstrip("#").rstrip("\r\n")


def _encoding(file: Opened) -> str:
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32")):
        if file.start.startswith(mark):
            return encoding
    if file.start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in file.start:
        raise UserError(f"{file.label} is no text file; save the table as .csv or .npy")
    return "utf-8-sig"
