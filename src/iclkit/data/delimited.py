"""Delimited text with numbers in it: .csv, .tsv and their many relatives, read row by row.

What is found out by looking: the encoding (from a byte order mark), the delimiter, whether there is a header,
and whether a comma is the decimal mark. What is left out, and what else might have been meant, is noted. Lines
are counted from 1, as an editor shows them.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from iclkit.data import guesses
from iclkit.data.bounds import COUNTED, COUNTED_TEXT, LARGEST, LONGEST_ROW, MOST_COLUMNS
from iclkit.data.opened import Opened
from iclkit.data.text import Text
from iclkit.errors import UserError, short, unknown

# Lines that guesses look at, and characters.
_SNIFFED, _SNIFFED_TEXT = 50, 1 << 18


class Delimited:
    """One text file; nothing of it is kept in memory but the names of its columns.

    Args:
        file: The file.
        delimiter: "auto", a name in `DELIMITERS`, or the character itself.
        header: "auto", "yes" or "no".

    Raises:
        UserError: Something other than text, or no rows.
    """

    def __init__(self, file: Opened, delimiter: str = "auto", header: str = "auto") -> None:
        if header not in ("auto", "yes", "no"):
            raise unknown("header", header, ["auto", "yes", "no"])
        given = guesses.given_delimiter(delimiter)
        self._label = file.label
        self._text = Text(file)
        self._delimiter = given or guesses.guess_delimiter(self._beginning())
        self.notes: list[str] = []
        self._width = 0  # columns, once they are known
        self._first = 0  # the header's line, if it is among the rows; lines are counted from 1
        self._seen = 0  # characters read so far
        beginning = list(itertools.islice(self._rows(), 2))
        if not beginning:
            count = self._text.comments.count
            raise UserError(f"{self._label} is empty: it has {f'{count} comments and ' * bool(count)}no rows")
        self._row = beginning[0][0]  # the first row's line, or the header's
        names = self._named([cells for _, cells in beginning], header)
        self.named = names is not None
        names = names or [""] * len(beginning[0][1])
        self.names = tuple(name or f"column {index}" for index, name in enumerate(names, 1))
        self._width = len(self.names)
        if self._width > MOST_COLUMNS:
            raise UserError(f"{self._label} has {self._width:,} columns, at most {MOST_COLUMNS:,} are accepted")

    def count(self, enough: int | None = None) -> tuple[int, bool]:
        """Number of rows, and whether these are all: counting stops some way above `enough`.

        Raises:
            UserError: A row of another length.
        """
        rows, self._seen = 0, 0
        empty: list[int] = []
        for _ in self._rows(empty):
            rows += 1
            if enough is not None and rows > enough and (rows > COUNTED or self._seen > COUNTED_TEXT):
                return rows, False
        if empty:
            what = "row without any value was" if len(empty) == 1 else "rows without any value were"
            self.notes.append(f"{len(empty):,} {what} left out (the first is line {empty[0]})")
        return rows, True

    def take(self, rows: int, kept: NDArray[np.int64] | None, columns: Sequence[int]) -> NDArray[np.float64]:
        """Numbers in the chosen columns of all rows, or of the rows kept (ascending, counted from 0).

        Raises:
            UserError: A cell that holds no finite number.
        """
        values = np.empty((rows if kept is None else len(kept), len(columns)))
        taken: Iterator[tuple[int, list[str]]] = self._rows()
        if kept is not None:
            wanted = set(kept.tolist())
            taken = (row for index, row in enumerate(taken) if index in wanted)
        place = 0
        marks: dict[str, str] = {}
        for line, cells in itertools.islice(taken, len(values)):
            values[place] = [self._number(cells[index], line, index, marks, place == 0) for index in columns]
            place += 1
        if place < len(values):
            raise UserError(f"{self._label} was changed while it was read; read it again")
        if "," in marks:
            cell = short(marks[","])
            value = guesses.parse(marks[","], decimal_comma=True)
            self.notes.append(f"commas are read as decimal marks: {cell!r} as {value:.12g}")
        return values

    def _number(self, cell: str, line: int, index: int, marks: dict[str, str], first: bool) -> float:
        value = guesses.parse(cell)
        if value is None and self._delimiter == ";":
            value = guesses.parse(cell, decimal_comma=True)
            if value is not None:
                marks.setdefault(",", cell)
        elif "." in cell:
            marks.setdefault(".", cell)
        where = f"{self._label}, line {line}, column {short(self.names[index])!r}"
        if guesses.is_missing(cell):
            raise UserError(f"{where}: the value is missing ({cell!r}); fill it in or drop the row")
        if value is None:
            raise UserError(f"{where}: {cell[:40]!r} is not a number{self._hint(cell, line, first)}")
        if not abs(value) < LARGEST:
            raise UserError(f"{where}: {cell[:40]!r} is infinite or too large; drop the row or rescale")
        if len(marks) > 1:
            raise UserError(f"{where}: {cell[:40]!r} mixes decimal commas and decimal points; use points alone")
        return value

    def _hint(self, cell: str, line: int, first: bool) -> str:
        if cell.startswith("#"):
            return "; lines that begin with # are comments only before the header, or before the first row"
        if not self.named and line == self._row:
            return "; if this line is a header, say --header yes"
        # Not one cell is wrong, but the column.
        return "; if the column holds words, leave it out by --columns or code it in numbers" if first else ""

    def _named(self, rows: Sequence[Sequence[str]], header: str) -> Sequence[str] | None:
        """The names of the columns: those of the first of these rows, or of the last comment before them."""
        comments, first = self._text.comments, rows[0]
        inside, chosen = None, None
        if header != "no" and comments.last is not None:
            inside = guesses.names_in_comment(comments.last[1], self._delimiter, len(first))
        shown = short(", ".join(first[:20]))
        if header != "no" and (guesses.is_header(rows) or (header == "yes" and inside is None)):
            chosen, self._first = first, self._row
            if header == "auto" and guesses.counts_columns(rows):
                self.notes.append(
                    f"line {self._row} ({shown}) is read as a header, for it counts the columns; "
                    "if it is a row, say --header no"
                )
        elif inside is not None and comments.last is not None:
            chosen = inside
            if header == "yes":
                self.notes.append(f"the comment in line {comments.last[0]} is read as the header")
        elif header == "auto" and guesses.looks_like_names(rows):
            self.notes.append(
                f"line {self._row} ({shown}) is read as a row; if it names the columns, say --header yes"
            )
        left = comments.count - (chosen is not None and chosen is inside)
        if left:
            self.notes.append(_left_out(left, self._commented_rows(len(first))))
        return chosen

    def _commented_rows(self, width: int) -> int:
        """How many comments look like rows."""
        found = 0
        for text in self._text.commented():
            cells = [cell for row in guesses.split([text], self._delimiter) for cell in row]
            found += len(cells) == width and any(guesses.parse(cell.strip()) is not None for cell in cells)
        return found

    def _beginning(self) -> list[str]:
        """Lines to guess from."""
        lines, size = [], 0
        for line in self._text.lines():
            if line.strip():
                lines.append(line)
                size += len(line)
            if len(lines) >= _SNIFFED or size > _SNIFFED_TEXT:
                break
        return lines

    def _rows(self, empty: list[int] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Line number and stripped cells of every row after the header.

        Args:
            empty: Receives the lines of rows without any value, which are left out. Blank lines count where
                rows stand on both sides of them.
        """
        offset = self._text.comments.lines
        taken: list[str] = []  # lines of one row; more than one where quotes hold the ends of others
        reader = csv.reader(self._fed(taken), delimiter=self._delimiter, skipinitialspace=True)
        last, blank, found = "", [], False
        try:
            for cells in reader:
                line, last = offset + reader.line_num, taken[0]
                if len(taken) > 1:
                    self._check_quotes(taken, line - len(taken) + 1)
                taken.clear()
                if line <= self._first:
                    continue
                cells = [cell.strip() for cell in cells]
                if not any(cells):
                    (blank if len(cells) < 2 else empty if empty is not None else []).append(line)
                    continue
                if self._width and len(cells) != self._width:
                    raise UserError(
                        f"{self._label}, line {line} has {len(cells)} columns, "
                        f"the lines before it {self._width}"
                    )
                if empty is not None and found:
                    empty.extend(blank)
                blank.clear()
                found = True
                yield line, cells
        except csv.Error as error:
            raise UserError(
                f"{self._label}, line {offset + reader.line_num}: cannot be read ({error})"
            ) from None
        # A quote that is never closed holds all that follows.
        self._check_quotes([last], offset + reader.line_num)

    def _fed(self, taken: list[str]) -> Iterator[str]:
        """Lines for the parser of rows, noted in `taken` until it is cleared."""
        size = 0
        for line in self._text.lines():
            size = size + len(line) if taken else len(line)
            self._seen += len(line)
            if size > LONGEST_ROW:
                raise UserError(
                    f"{self._label}: quotes hold more than {LONGEST_ROW:,} characters together as one row; "
                    "one of them is not closed"
                )
            taken.append(line)
            yield line.strip() + "\n" if self._delimiter == " " else line

    def _check_quotes(self, lines: list[str], line: int) -> None:
        """Whether quotes close where they should: else they may have swallowed rows."""
        if all('"' not in text for text in lines):
            return
        text = [part.strip() + "\n" for part in lines] if self._delimiter == " " else lines
        try:
            list(csv.reader(text, delimiter=self._delimiter, skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise UserError(
                f"{self._label}, line {line}: a quote is not closed as it should be ({error})"
            ) from None


def _left_out(comments: int, like_rows: int) -> str:
    lines = "1 line that begins" if comments == 1 else f"{comments:,} lines that begin"
    note = f"{lines} with # before the first row {'was' if comments == 1 else 'were'} left out as comments"
    if like_rows:
        note += f"; {like_rows:,} of them look like rows: quote their first cell if they are"
    return note
