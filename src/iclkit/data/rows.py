"""Rows of cells from lines of text: quotes may hold delimiters and ends of lines, but must not swallow rows."""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Generator
from dataclasses import dataclass

from iclkit.data.bounds import LONGEST_ROW, MOST_COLUMNS, MOST_EMPTY
from iclkit.data.text import Text
from iclkit.errors import UserError

# The number of a row's last line, and its cells without blanks around them.
Row = tuple[int, list[str]]


@dataclass
class Empty:
    """Rows that hold nothing.

    Args:
        count: How many.
        line: The line of the first.
    """

    count: int = 0
    line: int = 0

    def add(self, line: int, count: int = 1) -> None:
        """One row more, or several from a line on."""
        self.line = min(self.line, line) if self.count else line
        self.count += count


class Rows:
    """The rows of a text.

    Args:
        text: The text.
        delimiter: What separates cells.
    """

    def __init__(self, text: Text, delimiter: str) -> None:
        self.characters = 0  # that were read so far
        self._text = text
        self._delimiter = delimiter

    def after(self, first: int = 0, width: int = 0, empty: Empty | None = None) -> Generator[Row]:
        """Rows with a value, after a line.

        Args:
            first: That line; 0 for all rows.
            width: Cells that every row must have; 0 for any number.
            empty: Counts the rows without any value, which are left out. Blank lines are such rows where others
                stand on both sides of them.

        Raises:
            UserError: A row of another length, or what cannot be told apart into rows.
        """
        label, offset = self._text.label, self._text.comments.lines
        taken: list[str] = []  # lines of one row; more than one where quotes hold the ends of others
        lines = self._fed(taken)
        reader = csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True)
        empty = Empty() if empty is None else empty
        blank, last, found = Empty(), "", False
        try:
            for cells in reader:
                line, last = offset + reader.line_num, taken[0]
                if len(taken) > 1:
                    self._check_quotes(taken, line - len(taken) + 1)
                taken.clear()
                if line <= first:
                    continue
                count = len(cells)
                if count > MOST_COLUMNS:
                    raise UserError(
                        f"{label}, line {line} has {count:,} columns, at most {MOST_COLUMNS:,} are accepted"
                    )
                cells = [cell.strip() for cell in cells]
                if not any(cells):
                    (empty if count > 1 else blank).add(line)
                    if empty.count + blank.count > MOST_EMPTY:
                        raise UserError(
                            f"{label} has more than {MOST_EMPTY:,} rows without any value; drop them"
                        )
                    continue
                if width and count != width:
                    raise UserError(f"{label}, line {line} has {count} columns, the lines before it {width}")
                if blank.count:
                    if found:
                        empty.add(blank.line, blank.count)
                    blank = Empty()
                found = True
                yield line, cells
        except csv.Error as error:
            raise UserError(f"{label}, line {offset + reader.line_num}: cannot be read ({error})") from None
        finally:
            lines.close()
        # A quote that is never closed holds all that follows.
        self._check_quotes([last], offset + reader.line_num)

    def _fed(self, taken: list[str]) -> Generator[str]:
        """Lines for the parser of rows, noted in `taken` until it is cleared."""
        size, spaces = 0, self._delimiter == " "
        with contextlib.closing(self._text.lines()) as lines:
            for line in itertools.islice(lines, self._text.comments.lines, None):
                length = len(line)
                self.characters += length
                size = size + length if taken else length
                if size > LONGEST_ROW:
                    raise UserError(
                        f"{self._text.label}: quotes hold more than {LONGEST_ROW:,} characters together; "
                        "one of them is not closed"
                    )
                taken.append(line)
                # Spaces at the ends of lines separate nothing.
                yield line.strip() + "\n" if spaces else line

    def _check_quotes(self, lines: list[str], line: int) -> None:
        """Whether quotes close where they should: else they may have swallowed rows."""
        if all('"' not in text for text in lines):
            return
        text = [text.strip() + "\n" for text in lines] if self._delimiter == " " else lines
        try:
            list(csv.reader(text, delimiter=self._delimiter, skipinitialspace=True, strict=True))
        except csv.Error as error:
            label = self._text.label
            raise UserError(f"{label}, line {line}: a quote is not closed as it should be ({error})") from None
