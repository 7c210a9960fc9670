"""A user's table: read from a .csv or .npy file, checked, and never larger in memory than asked for.

Bad cells are named by line and column, both counted from 1. What is left out or matched by a guess is noted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iclkit.data.bounds import MOST_NUMBERS
from iclkit.data.columns import Columns, columns_like
from iclkit.data.delimited import Delimited
from iclkit.data.npy import MAGIC, Array
from iclkit.data.opened import Opened, opened
from iclkit.errors import UserError, short


@dataclass(frozen=True)
class Table:
    """Rows of finite numbers with a name for each column.

    Args:
        values: The numbers, one row for each point.
        names: Names of the columns; "column 1", "column 2", ... where the file has none.
        named: Whether the file itself named them.
        rows: Rows in the file, of which `values` may hold a subset.
        places: Where the file has these columns, counted from 0.
        width: How many columns the file has.
        notes: What was left out of the file or understood by a guess, one line each.
    """

    values: NDArray[np.float64]  # [n, d]
    names: tuple[str, ...]
    named: bool
    rows: int
    places: tuple[int, ...] = ()
    width: int = 0
    notes: tuple[str, ...] = ()


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str | int] | None = None,
    dim: int | None = None,
    max_rows: int | None = None,
    *,
    subsample: int | None = None,
    seed: int = 0,
    target: str | int | None = None,
    like: Table | None = None,
    delimiter: str = "auto",
    header: str = "auto",
    advice: str | Callable[[int], str] = "give a file with fewer rows",
) -> Table:
    """Read the rows of a .csv (.tsv, .txt, ...) or .npy file.

    Text may be separated by commas, semicolons, tabs or spaces, quoted, with or without a header, in UTF-8 or
    UTF-16; where semicolons separate, a comma may be the decimal mark. Only the chosen columns need to hold
    numbers, and with `subsample` only the rows drawn.

    Lines that begin with # are comments before the header, or before the first row where there is none. The
    last of them is the header if it has as many cells as the rows, none of them a number, and no other header
    follows, as `numpy.savetxt` writes one.

    Args:
        path: The file: a regular one, or a link to one. "-" is what comes in by a pipe.
        columns: Which columns, in which order: names, or numbers counted from 1 (a name wins over a number).
            All by default.
        dim: How many columns there must be.
        max_rows: Most rows to accept; a longer file is refused without being held in memory.
        subsample: Take this many rows at random, without replacement, in the file's order; all rows of a file
            that has no more.
        seed: Seed of that choice, which is the same for a .csv and a .npy of the same rows.
        target: A column that goes last, beside those chosen (or all others).
        like: A table whose columns are wanted: by their names where both files have names, so that another
            order cannot pass unnoticed; else by their places. `dim` and `target` then say nothing.
        delimiter: "auto", "comma", "semicolon", "tab", "space", or the character itself.
        header: "auto", "yes" or "no".
        advice: What to do about a file of too many rows, for the error message; or a function of how many there
            are at least.

    Returns:
        The table; at least one row.

    Raises:
        UserError: No such file, no finite numbers in it, too many rows or another number of columns.
    """
    if subsample is not None and subsample < 1:
        raise UserError(f"a subsample must have at least 1 row, given {subsample}")
    with opened(Path(path)) as file:
        return _read(file, columns, dim, max_rows, subsample, seed, target, like, delimiter, header, advice)


def _read(
    file: Opened,
    columns: Sequence[str | int] | None,
    dim: int | None,
    max_rows: int | None,
    subsample: int | None,
    seed: int,
    target: str | int | None,
    like: Table | None,
    delimiter: str,
    header: str,
    advice: str | Callable[[int], str],
) -> Table:
    is_array = file.start.startswith(MAGIC) or file.path.suffix.lower() == ".npy"
    source = Array(file) if is_array else Delimited(file, delimiter, header)
    found = Columns(file.label, source.names, source.named)
    if like is None:
        chosen = found.choose(columns, dim, target)
    else:
        wanted = Columns("DATA", like.names, like.named)
        chosen, told = columns_like(
            wanted, like.places or range(len(like.names)), like.width or len(like.names), columns, found
        )
        source.notes += [told] if told else []

    fits = MOST_NUMBERS // len(chosen)
    most = fits if max_rows is None else min(max_rows, fits)
    rows = 0 if subsample is None else source.count()
    if subsample is None or rows <= subsample:
        values, rows, all_counted = source.take_all(chosen, most)
        held = rows
    else:
        held, all_counted, values = subsample, True, np.empty((0, 0))
        if held <= most:
            values = source.take(np.sort(np.random.default_rng(seed).choice(rows, held, replace=False)), chosen)
    if rows == 0:
        raise UserError(f"{file.label} is empty: it has a header but no rows")
    if held > most:
        stated = f"{held:,}" if all_counted else f"over {held - 1:,}"
        if not isinstance(advice, str):
            advice = advice(held)
        if max_rows is None or held <= max_rows:
            advice = f"{MOST_NUMBERS:,} numbers are held at most; choose columns, or {advice}"
        raise UserError(f"{file.label} has {stated} rows, at most {most:,} are accepted; {advice}")
    names = tuple(source.names[place] for place in chosen)
    notes = tuple(f"{file.label}: {note}" for note in source.notes)
    return Table(values, names, source.named, rows, tuple(chosen), len(source.names), notes)


def refuse_constant_columns(values: NDArray[np.float64], names: Sequence[str]) -> None:
    """Check that every column varies, if there are rows to compare.

    Raises:
        UserError: One does not: its units are unknown, and no density describes it.
    """
    for name, column in zip(names, values.T, strict=True):
        if len(column) > 1 and (column == column[0]).all():
            raise UserError(
                f"column {short(name)!r} is constant (always {column[0]:g}); drop it or choose others"
            )
