"""Delimited text with numbers in it: .csv, .tsv and their many relatives, read row by row.

What is found out by looking: the encoding (from a byte order mark), the delimiter, whether there is a header,
and whether a comma is the decimal mark. Lines are counted from 1, as an editor shows them.
"""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iclkit.errors import UserError, unknown

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}
_MISSING = {"", "na", "n/a", "nan", "null", "none"}
# Squares of larger numbers, which moments need, are not finite in double precision.
LARGEST = 1e150


class Delimited:
    """One text file; nothing of it is kept in memory but the names of its columns.

    Args:
        path: The file.
        delimiter: "auto", a name in `DELIMITERS`, or the character itself.
        header: "auto", "yes" or "no".

    Raises:
        UserError: Something other than text, or no rows.
    """

    def __init__(self, path: Path, delimiter: str = "auto", header: str = "auto") -> None:
        self._path = path
        self._encoding = _encoding(path)
        if delimiter != "auto" and delimiter not in DELIMITERS and len(delimiter) != 1:
            raise unknown("delimiter", delimiter, ["auto", *DELIMITERS])
        if header not in ("auto", "yes", "no"):
            raise unknown("header", header, ["auto", "yes", "no"])
        self._delimiter = DELIMITERS.get(delimiter, delimiter)
        if delimiter == "auto":
            self._delimiter = _sniff(list(itertools.islice(self._lines(), 50)))
        self._first = 0  # the header's line, if there is one; lines are counted from 1
        beginning = list(itertools.islice(self._rows(), 2))
        if not beginning:
            raise UserError(f"{path} is empty: it has no rows")
        line, cells = beginning[0]
        self._header = header
        self.named = header == "yes" or (header == "auto" and _is_header([row for _, row in beginning]))
        if self.named:
            self._first = line
        self.names = tuple(
            cell if self.named and cell else f"column {index}" for index, cell in enumerate(cells, 1)
        )

    def count(self, enough: int | None = None) -> int:
        """Number of rows, or the first number above `enough`, where counting stops."""
        rows = itertools.islice(self._rows(), None if enough is None else enough + 1)
        return sum(1 for _ in rows)

    def take(self, kept: NDArray[np.int64] | None, columns: Sequence[int]) -> NDArray[np.float64]:
        """Numbers in the chosen columns of all rows, or of the rows kept (ascending, counted from 0).

        Raises:
            UserError: A cell that holds no finite number, or a row of another length.
        """
        numbers = array("d")
        rows: Iterator[tuple[int, list[str]]] = self._rows()
        if kept is not None:
            wanted = set(kept.tolist())
            rows = (row for index, row in enumerate(rows) if index in wanted)
        marks = set()
        for line, cells in rows:
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self._path}, line {line} has {len(cells)} columns, the lines before it {len(self.names)}"
                )
            for index in columns:
                numbers.append(self._number(cells[index], line, index, marks))
        return np.frombuffer(numbers, dtype=np.float64).reshape(-1, len(columns)).copy()

    def _number(self, cell: str, line: int, index: int, marks: set[str]) -> float:
        value = _parse(cell)
        if value is None and self._delimiter == ";" and "." not in cell:
            value = _parse(cell.replace(",", ".", 1))
            marks.add(",")
        elif "." in cell:
            marks.add(".")
        where = f"{self._path}, line {line}, column {self.names[index]!r}"
        if cell.lower() in _MISSING:
            raise UserError(f"{where}: the value is missing ({cell!r}); fill it in or drop the row")
        if value is None:
            hint = "; if this line is a header, say --header yes" if self._heads(line) else ""
            raise UserError(f"{where}: {cell[:40]!r} is not a number{hint}")
        if not abs(value) < LARGEST:
            raise UserError(f"{where}: {cell[:40]!r} is infinite or too large; drop the row or rescale")
        if len(marks) > 1:
            raise UserError(f"{where}: {cell!r} mixes decimal commas and decimal points; use points alone")
        return value

    def _heads(self, line: int) -> bool:
        """Whether a line that was taken for data might be a header."""
        return not self.named and line == next(self._rows())[0]

    def _lines(self) -> Iterator[str]:
        """The text, line by line."""
        with self._path.open(encoding=self._encoding, newline="") as file:
            try:
                yield from file
            except UnicodeDecodeError:
                raise UserError(f"{self._path} is not UTF-8 text; save it as CSV in UTF-8") from None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and stripped cells of every row after the header; blank lines and # comments left out."""
        lines = self._lines()
        if self._delimiter == " ":
            lines = (line.strip() + "\n" for line in lines)
        reader = csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                if reader.line_num > self._first and cells:
                    cells = [cell.strip() for cell in cells]
                    if any(cells) and not cells[0].startswith("#"):
                        yield reader.line_num, cells
        except csv.Error as error:
            raise UserError(f"{self._path}, line {reader.line_num}: cannot be read ({error})") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in start or start[:2] == b"PK":
        raise UserError(f"{path} is no text file; save the table as .csv or .npy")
    return "utf-8-sig"


def _sniff(lines: list[str]) -> str:
    """The delimiter that most lines contain, outside quotes; semicolons go first, for commas may be decimal."""
    lines = [line.strip("\r\n") for line in lines if line.strip() and not line.startswith("#")]
    for delimiter in ("\t", ";", ",", " "):
        text = [line.strip() for line in lines] if delimiter == " " else lines
        rows = csv.reader(text, delimiter=delimiter, skipinitialspace=True)
        try:
            if 2 * sum(len(row) > 1 for row in rows) >= max(len(lines), 1):
                return delimiter
        except csv.Error:
            continue
    return ","


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first of two rows (or one) names the columns.

    It does if it has words and no numbers. And if it counts the columns from 0, as pandas names them by
    default, unless the row below it holds whole numbers too.
    """
    cells = [cell for cell in rows[0] if cell.lower() not in _MISSING]
    if not any(_parse(cell) is not None for cell in cells):
        return bool(cells)
    numbered = cells == [str(index) for index in range(len(cells))]
    below = rows[1] if len(rows) > 1 else ["0"]
    return numbered and (len(cells) == len(rows[0]) - 1 or not all(cell.isdigit() for cell in below))


def _parse(cell: str) -> float | None:
    """The number in a cell, if it is one; Python's underscores between digits do not count as one."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
