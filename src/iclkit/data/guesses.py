"""What is found out of a text table by looking: its delimiter, and whether its first row names the columns."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence

from iclkit.data.text import EXCEL_ERRORS
from iclkit.errors import UserError, unknown

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}
_TYPED = {"\\t": "\t"}
# Semicolons go before commas, for where they separate, commas may be decimal.
_TRIED = ("\t", ";", ",", " ")
_MISSING = {"", "na", "n/a", "n.a.", "nan", "null", "none", "?", "-", "--", ".", *EXCEL_ERRORS}


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.lower() in _MISSING


def parse(cell: str, decimal_comma: bool = False) -> float | None:
    """The number in a cell, if it is one.

    Args:
        cell: The cell. Python's underscores between digits do not count as a number.
        decimal_comma: Whether one comma between digits is the decimal mark.
    """
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        pass
    if decimal_comma and cell.count(",") == 1 and "." not in cell:
        return parse(cell.replace(",", "."))
    return None


def given_delimiter(delimiter: str) -> str | None:
    """The character that is meant; None if it is to be guessed.

    Raises:
        UserError: No name in `DELIMITERS`, and no character that can separate numbers.
    """
    if delimiter == "auto":
        return None
    character = {**DELIMITERS, **_TYPED}.get(delimiter, delimiter)
    if len(character) != 1:
        raise unknown("delimiter", delimiter, ["auto", *DELIMITERS])
    if (
        character.isalnum()
        or character in "\"'\r\n.+-#_"
        or (character != "\t" and not character.isprintable())
    ):
        raise UserError(
            f"{delimiter!r} cannot separate numbers; accepted are {', '.join(DELIMITERS)} and others like |"
        )
    return character


def guess_delimiter(lines: Sequence[str]) -> str:
    """What cuts all lines into equally many cells, most of them numbers; else what most lines contain."""
    best, chosen = (False, -1.0), None
    for delimiter in _TRIED:
        rows = split(lines, delimiter)
        if 2 * sum(len(row) > 1 for row in rows) < max(len(rows), 1):
            continue
        cells = [cell.strip() for row in rows for cell in row]
        numbers = sum(parse(cell, delimiter == ";") is not None for cell in cells)
        rank = (len({len(row) for row in rows}) == 1, numbers / len(cells))
        # Where none is consistent, the numbers say little: the first that most lines contain.
        if rank > best and (rank[0] or chosen is None):
            best, chosen = rank, delimiter
    return chosen or ","


def split(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Rows of cells, blank lines left out; none if quotes hide where they end."""
    text = [line.strip() for line in lines]
    if delimiter != " ":
        text = [line.strip("\r\n") for line in lines]
    try:
        return [row for row in csv.reader(text, delimiter=delimiter, skipinitialspace=True) if any(row)]
    except csv.Error:
        return []


def is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of two rows (or one) names the columns.

    It does if it has words and no numbers. And if it counts the columns from 0, as pandas names them by
    default, unless the row below it holds whole numbers too.
    """
    words = [cell for cell in rows[0] if not is_missing(cell)]
    if not any(parse(cell) is not None for cell in words):
        return bool(words)
    return counts_columns(rows)


def counts_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is 0, 1, 2, ... and the second is not of whole numbers."""
    cells = [cell for cell in rows[0] if not is_missing(cell)]
    below = rows[1] if len(rows) > 1 else ["0"]
    numbered = cells == [str(index) for index in range(len(cells))]
    return numbered and (len(cells) == len(rows[0]) - 1 or not all(map(_is_whole, below)))


def looks_like_names(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a first row that was taken for numbers might name the columns: 1, 2, 3; or a word among years."""
    if len(rows) < 2 or len(rows[0]) != len(rows[1]):
        return False
    numbers = [(cell, below) for cell, below in zip(*rows, strict=True) if parse(cell) is not None]
    if len(numbers) < 2 or not all(_is_whole(cell) for cell, _ in numbers):
        return False
    whole = [int(cell) for cell, _ in numbers]
    counted = all(b - a == 1 for a, b in itertools.pairwise(whole))
    other = not all(_is_whole(below) for _, below in numbers)
    return (counted or other) if len(numbers) < len(rows[0]) else (counted and other)


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) < 10


def names_in_comment(text: str, delimiter: str, width: int) -> list[str] | None:
    """The names of so many columns in a comment, as `numpy.savetxt` writes a header; None if there are none.

    Args:
        text: The comment without its #.
        delimiter: What separates cells.
        width: Columns of the data.
    """
    for start in (text, text.lstrip()):
        cells = [cell.strip() for row in split([start], delimiter) for cell in row]
        if (
            len(cells) == width
            and not all(map(is_missing, cells))
            and all(parse(cell) is None for cell in cells)
        ):
            # "#,x,y" numbers its rows.
            return [cells[0] or "#", *cells[1:]]
    return None
