"""Tables of numbers in and out: read with notes on standard error, written as text or as .npy."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclkit.cli import output
from iclkit.data import STANDARD_INPUT, Table, read_table
from iclkit.errors import UserError, short, shown

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}
# Files of these kinds are no text, and would not be what their names say.
_OTHERS = {".npz", ".parquet", ".feather", ".arrow", ".xlsx", ".xls", ".ods", ".json", ".h5", ".hdf5", ".mat"}
_OTHERS |= {".pkl", ".pickle", ".pt", ".safetensors", ".gz", ".zip", ".png", ".pdf", ".svg"}
# Rows that are turned into text at a time: their numbers as objects take ten times as much.
_CHUNK = 8192


def check(out: Path | None, force: bool, inputs: Sequence[Path | None]) -> None:
    """Refuse an output file for a table that cannot be written, or that is of no kind of table.

    Args:
        out: The file; None for standard output.
        force: Whether a file that is there may be replaced.
        inputs: Files that are read, which are never replaced.

    Raises:
        UserError: Such a file.
    """
    if list(inputs).count(STANDARD_INPUT) > 1:
        raise UserError("only one table can come in by the pipe; name a file for the other")
    if out is not None and out.suffix.lower() in _OTHERS:
        raise UserError(f"tables are written as .csv, .tsv or .npy, given {out}")
    output.check(out, force, [path for path in inputs if path != STANDARD_INPUT])


def read(path: Path, *arguments: Any, **options: Any) -> Table:
    """`read_table`, and its notes on standard error."""
    if path == STANDARD_INPUT and sys.stdin is not None and sys.stdin.isatty():
        output.note("reading the table from the terminal; Ctrl-D ends it")
    table = read_table(path, *arguments, **options)
    for told in table.notes:
        output.note(told)
    return table


def labels(table: Table) -> list[str]:
    """The names of the columns as a picture shows them: in one short line."""
    return [short(shown(name)) for name in table.names]


def write(out: Path | None, names: Sequence[str], values: NDArray[np.float64]) -> None:
    """Write numbers, every digit of them: as .npy if the file is named so, else as text with a header.

    Names are written as they are, but for control characters, which a terminal would obey; both they and names
    that a spreadsheet takes for formulas are told on standard error.

    Args:
        out: The file; None for standard output.
        names: Names of the columns.
        values: The numbers, [rows, columns].
    """
    if out is not None and out.suffix.lower() == ".npy":
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        output.write(out, content.getvalue())
        output.note(f"{out} holds no names; its columns are {', '.join(map(short, names))}")
        return
    written = [_harmless(name) for name in names]
    delimiter = _DELIMITERS.get(out.suffix.lower(), ",") if out is not None else ","
    if out is None:
        for part in _text(written, values, delimiter):
            sys.stdout.write(part)
    else:
        output.write(out, "".join(_text(written, values, delimiter)).encode())
    _tell_names(names, written)


def _text(names: Sequence[str], values: NDArray[np.float64], delimiter: str) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", delimiter=delimiter)
    writer.writerow(names)
    for start in range(0, max(len(values), 1), _CHUNK):
        writer.writerows([repr(value) for value in row] for row in values[start : start + _CHUNK].tolist())
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _harmless(name: str) -> str:
    """A name without control characters; ends of lines and tabs are harmless between quotes."""
    return "".join(letter if letter in "\n\t" else shown(letter) for letter in name)


def _tell_names(names: Sequence[str], written: Sequence[str]) -> None:
    escaped = [after for before, after in zip(names, written, strict=True) if before != after]
    if escaped:
        output.note(f"control characters in names of columns are written escaped: {_some(escaped)}")
    formulas = [
        name for name in names if name.lstrip().startswith(("=", "+", "-", "@")) and not _is_number(name)
    ]
    if formulas:
        output.note(
            f"a spreadsheet takes names that begin with =, +, - or @ for formulas: {_some(formulas)}; "
            "here they are as given, so let it import them as text"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(short(name)) for name in names[:3]) + ", ..." * (len(names) > 3)


def _is_number(name: str) -> bool:
    with contextlib.suppress(ValueError):
        float(name)
        return True
    return False
