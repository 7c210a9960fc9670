"""A user's table: read from a .csv or .npy file, checked, and never larger in memory than asked for.

Bad cells are named by line and column, both counted from 1. Nothing here needs torch, so that a mistake in a
file is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iclkit.delimited import LARGEST, Delimited
from iclkit.errors import UserError, unknown

# Rows of a file that is too long are counted no further than this.
_COUNTED = 100_000


@dataclass(frozen=True)
class Table:
    """Rows of finite numbers with a name for each column.

    Args:
        values: The numbers, one row for each point.
        names: Names of the columns; "column 1", "column 2", ... where the file has none.
        named: Whether the file itself named them.
        rows: Rows in the file, of which `values` may hold a subset.
    """

    values: NDArray[np.float64]  # [n, d]
    names: tuple[str, ...]
    named: bool
    rows: int


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
    advice: str = "give a file with fewer rows",
) -> Table:
    """Read the rows of a .csv (.tsv, .txt, ...) or .npy file.

    Text may be separated by commas, semicolons, tabs or spaces, quoted, with or without a header, in UTF-8 or
    UTF-16; where semicolons separate, a comma may be the decimal mark. Only the chosen columns need to hold
    numbers, and with `subsample` only the rows drawn.

    Args:
        path: The file.
        columns: Which columns, in which order: names, or numbers counted from 1 (a name wins over a number).
            All by default.
        dim: How many columns there must be.
        max_rows: Most rows to accept; a longer file is refused without being held in memory.
        subsample: Take this many rows at random, without replacement, in the file's order; all rows of a file
            that has no more.
        seed: Seed of that choice, which is the same for a .csv and a .npy of the same rows.
        target: A column that goes last, beside those chosen (or all others).
        like: A table whose columns are wanted: by their names where both files have names, so that another
            order cannot pass unnoticed.
        delimiter: "auto", "comma", "semicolon", "tab", "space", or the character itself.
        header: "auto", "yes" or "no".
        advice: What to do about a file of too many rows, for the error message.

    Returns:
        The table; at least one row.

    Raises:
        UserError: No such file, no finite numbers in it, too many rows or another number of columns.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file; name a .csv or .npy file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    if subsample is not None and subsample < 1:
        raise UserError(f"a subsample must have at least 1 row, given {subsample}")
    source = _Array(path) if _is_npy(path) else Delimited(path, delimiter, header)
    if like is not None:
        columns = _columns_like(like, path, source, columns)
    chosen = _choose(path, source.names, columns, dim, target)

    most = None if max_rows is None or subsample is not None else max(max_rows, _COUNTED)
    rows = source.count(most)
    if rows == 0:
        raise UserError(f"{path} is empty: it has a header but no rows")
    kept = None
    if subsample is not None and subsample < rows:
        kept = np.sort(np.random.default_rng(seed).choice(rows, subsample, replace=False))
    held = rows if kept is None else len(kept)
    if max_rows is not None and held > max_rows:
        stopped = most is not None and rows == most + 1
        stated = f"over {most:,}" if stopped else f"{held:,}"
        raise UserError(f"{path} has {stated} rows, at most {max_rows:,} are accepted; {advice}")
    return Table(source.take(kept, chosen), tuple(source.names[i] for i in chosen), source.named, rows)


def refuse_constant_columns(values: NDArray[np.float64], names: Sequence[str]) -> None:
    """Check that every column varies, if there are rows to compare.

    Raises:
        UserError: One does not: its units are unknown, and no density describes it.
    """
    for name, column in zip(names, values.T, strict=True):
        if len(column) > 1 and (column == column[0]).all():
            raise UserError(f"column {name!r} is constant (always {column[0]:g}); drop it or choose others")


class _Array:
    """A .npy file, mapped and not loaded; offers what `Delimited` does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Mapping reads the header alone, and cannot unpickle.
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            if "object" in str(error).lower():
                raise UserError(f"{path} holds Python objects; save an array of numbers instead") from None
            raise UserError(f"{path} is not a whole .npy file: truncated, altered or of another kind") from None
        if data.dtype.kind not in "fiu":
            raise UserError(f"{path} holds values of type {data.dtype}; floats and integers are accepted")
        if data.ndim not in (1, 2):
            raise UserError(f"{path} holds an array of shape {data.shape}; [rows, columns] is accepted")
        if not data.size:
            raise UserError(f"{path} is empty: it holds an array of shape {data.shape}")
        self._data = data if data.ndim == 2 else data[:, None]
        self.names = tuple(f"column {i + 1}" for i in range(self._data.shape[1]))
        self.named = False

    def count(self, enough: int | None = None) -> int:
        return len(self._data)

    def take(self, kept: NDArray[np.int64] | None, columns: Sequence[int]) -> NDArray[np.float64]:
        # A mapped file is read only where it is touched.
        data = self._data if kept is None else self._data[kept]
        with np.errstate(over="ignore"):
            values = np.array(data[:, list(columns)], dtype=np.float64)
        bad = ~(np.abs(values) < LARGEST)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            line = row if kept is None else int(kept[row])
            raise UserError(
                f"{self._path}, row {line + 1}, {self.names[columns[column]]}: "
                f"{values[row, column]} is missing, infinite or too large; drop the row"
            )
        return values


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY" or path.suffix.lower() == ".npy"


def _columns_like(
    table: Table, path: Path, source: _Array | Delimited, columns: Sequence[str | int] | None
) -> Sequence[str | int] | None:
    # Names that occur twice tell no more than places do.
    if not (table.named and source.named) or len(set(table.names)) < len(table.names):
        return None if len(source.names) == len(table.names) else columns
    for name in table.names:
        if name not in source.names:
            raise UserError(
                f"{path} has no column {name!r} (it has {_listed(source.names)}); name its columns alike"
            )
    return table.names


def _choose(
    path: Path,
    names: tuple[str, ...],
    columns: Sequence[str | int] | None,
    dim: int | None,
    target: str | int | None = None,
) -> list[int]:
    """Indices of the columns asked for."""
    last = None if target is None else _index(path, names, target)
    chosen = list(range(len(names))) if columns is None else [_index(path, names, c) for c in columns]
    if last is not None:
        if columns is None:
            chosen.remove(last)
        elif last in chosen:
            raise UserError(f"the target {names[last]!r} is among the columns chosen; leave it out")
        chosen.append(last)
    if len(set(chosen)) < len(chosen):
        raise UserError(f"a column was chosen twice: {_listed(columns or ())}")
    if dim is not None and len(chosen) != dim:
        plural = "column" if len(chosen) == 1 else "columns"
        if columns is not None:
            raise UserError(f"{len(chosen)} {plural} chosen ({_listed(columns)}), the model takes {dim}")
        choose = "; choose by --columns, e.g. --columns 1 2" if len(names) > dim else ""
        example = choose.replace("1 2", " ".join(str(i + 1) for i in range(dim)))
        raise UserError(f"{path} has {len(names)} {plural} ({_listed(names)}), the model takes {dim}{example}")
    return chosen


def _index(path: Path, names: tuple[str, ...], column: str | int) -> int:
    if isinstance(column, str) and names.count(column) == 1:
        return names.index(column)
    if isinstance(column, str) and names.count(column) > 1:
        raise UserError(f"{path} has {names.count(column)} columns {column!r}; choose by numbers from 1")
    if str(column).isdigit() and 1 <= int(column) <= len(names):
        return int(column) - 1
    if str(column).lstrip("-").isdigit():
        raise UserError(f"{path} has no column {column}: columns are numbered 1 to {len(names)}")
    raise unknown(f"column of {path}", str(column), names)


def _listed(names: Sequence[str | int]) -> str:
    shown = ", ".join(str(name) for name in names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown
