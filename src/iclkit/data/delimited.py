"""Delimited text with numbers in it: .csv, .tsv and their many relatives, read row by row.

What is found out by looking: the encoding (from a byte order mark), the delimiter, whether there is a header,
and whether a comma is the decimal mark. What is left out, and what else might have been meant, is noted. Lines
are counted from 1, as an editor shows them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from array import array
from collections.abc import Generator, Iterable, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from iclkit.data import guesses
from iclkit.data.bounds import COUNTED, COUNTED_TEXT, LARGEST
from iclkit.data.opened import Opened
from iclkit.data.rows import Empty, Row, Rows
from iclkit.data.text import Text
from iclkit.errors import UserError, short, unknown

# Lines that guesses look at, and characters of one and of all.
_SNIFFED, _SNIFFED_LINE, _SNIFFED_TEXT = 50, 1 << 16, 1 << 18


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
        self._rows = Rows(self._text, self._delimiter)
        beginning = list(itertools.islice(self._after_header(), 2))
        if not beginning:
            count = self._text.comments.count
            raise UserError(f"{self._label} is empty: it has {f'{count} comments and ' * bool(count)}no rows")
        self._row = beginning[0][0]  # the first row's line, or the header's
        names = self._named([cells for _, cells in beginning], header)
        self.named = names is not None
        names = names or [""] * len(beginning[0][1])
        # Files that were joined have more than one mark of byte order.
        names = [name.strip("\ufeff ") for name in names]
        self.names = tuple(name or f"column {index}" for index, name in enumerate(names, 1))
        self._width = len(self.names)

    def count(self) -> int:
        """Number of rows.

        Raises:
            UserError: A row of another length.
        """
        empty = Empty()
        with contextlib.closing(self._after_header(empty)) as rows:
            count = sum(1 for _ in rows)
        self._tell_empty(empty)
        return count

    def take(self, kept: NDArray[np.int64], columns: Sequence[int]) -> NDArray[np.float64]:
        """Numbers in the chosen columns of the rows kept (ascending, counted from 0).

        Raises:
            UserError: A cell that holds no finite number.
        """
        wanted = set(kept.tolist())
        with contextlib.closing(self._after_header()) as rows:
            found, count, _ = self._numbers((row for index, row in enumerate(rows) if index in wanted), columns)
        if count < len(kept):
            raise self._changed()
        return self._checked(found, columns, kept)

    def take_all(self, columns: Sequence[int], most: int) -> tuple[NDArray[np.float64], int, bool]:
        """Numbers in the chosen columns of all rows, in one pass.

        Args:
            columns: Places of the columns.
            most: Rows to hold; where there are more, they are counted some way beyond.

        Returns:
            Numbers of the first `most` rows, the number of rows, and whether these are all.

        Raises:
            UserError: A cell of those rows that holds no finite number, or a row of another length.
        """
        empty = Empty()
        with contextlib.closing(self._after_header(empty)) as rows:
            found, count, whole = self._numbers(rows, columns, most)
        if whole:
            self._tell_empty(empty)
        return self._checked(found, columns), count, whole

    def _numbers(
        self, rows: Iterable[Row], columns: Sequence[int], most: int | None = None
    ) -> tuple[NDArray[np.float64], int, bool]:
        """Numbers, NaN for what is none; how many rows there were, and whether these were all."""
        numbers, marks = array("d"), {}
        count, whole, plain = 0, True, self._delimiter != ";"
        before = self._rows.characters
        for line, cells in rows:
            count += 1
            if most is not None and count > most:
                if count > COUNTED or self._rows.characters - before > COUNTED_TEXT:
                    whole = False
                    break
                continue
            if plain:
                with contextlib.suppress(ValueError):
                    # Python's underscores between digits make no number.
                    numbers.extend([math.nan if "_" in cells[i] else float(cells[i]) for i in columns])
                    continue
            numbers.extend([self._number(cells[i], line, i, marks, count == 1) for i in columns])
        if "," in marks:
            value = guesses.parse(marks[","], decimal_comma=True)
            self.notes.append(f"commas are read as decimal marks: {short(marks[','])!r} as {value:.12g}")
        values = np.frombuffer(numbers) if numbers else np.empty(0)
        return values.reshape(-1, len(columns)), count, whole

    def _checked(
        self, values: NDArray[np.float64], columns: Sequence[int], kept: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Numbers that were read without looking at each; the first that is none is refused."""
        bad = ~(np.abs(values) < LARGEST).all(1)
        if bad.any():
            first = int(bad.argmax())
            self._refuse(first if kept is None else int(kept[first]), columns, first == 0)
        return values

    def _tell_empty(self, empty: Empty) -> None:
        what = "row without any value was" if empty.count == 1 else "rows without any value were"
        note = f"{empty.count:,} {what} left out (the first is line {empty.line})"
        if empty.count and note not in self.notes:
            self.notes.append(note)

    def _changed(self) -> UserError:
        return UserError(f"{self._label} was changed while it was read; read it again")

    def _refuse(self, row: int, columns: Sequence[int], first: bool) -> NoReturn:
        """Say what is wrong with a row, counted from 0."""
        with contextlib.closing(self._after_header()) as rows:
            line, cells = next(itertools.islice(rows, row, None), (0, []))
        if not line:
            raise self._changed()
        for index in columns:
            self._number(cells[index], line, index, {}, first)
        raise self._changed()

    def _number(self, cell: str, line: int, index: int, marks: dict[str, str], first: bool) -> float:
        value = guesses.parse(cell)
        if value is None and self._delimiter == ";":
            value = guesses.parse(cell, decimal_comma=True)
            if value is not None:
                marks.setdefault(",", cell)
        elif "." in cell:
            marks.setdefault(".", cell)
        if value is not None and abs(value) < LARGEST and len(marks) < 2:
            return value
        where = f"{self._label}, line {line}, column {short(self.names[index])!r}"
        if guesses.is_missing(cell):
            raise UserError(f"{where}: the value is missing ({cell!r}); fill it in or drop the row")
        if value is None:
            raise UserError(f"{where}: {cell[:40]!r} is not a number{self._hint(cell, line, first)}")
        if len(marks) > 1:
            raise UserError(f"{where}: {cell[:40]!r} mixes decimal commas and decimal points; use points alone")
        raise UserError(f"{where}: {cell[:40]!r} is infinite or too large; drop the row or rescale")

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
        for line in itertools.islice(self._text.lines(), self._text.comments.lines, None):
            if line.strip():
                lines.append(line[:_SNIFFED_LINE])
                size += len(line)
            if len(lines) >= _SNIFFED or size > _SNIFFED_TEXT:
                break
        return lines

    def _after_header(self, empty: Empty | None = None) -> Generator[Row]:
        return self._rows.after(self._first, self._width, empty)


def _left_out(comments: int, like_rows: int) -> str:
    lines = "1 line that begins" if comments == 1 else f"{comments:,} lines that begin"
    note = f"{lines} with # before the first row {'was' if comments == 1 else 'were'} left out as comments"
    if like_rows:
        note += f"; {like_rows:,} of them look like rows: quote their first cell if they are"
    return note
