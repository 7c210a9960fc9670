"""What a command writes: checked before any work is done, written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iclkit.errors import UserError, shown


def check(out: Path | None, force: bool, inputs: Sequence[Path | None]) -> None:
    """Refuse an output file that cannot be written, or that would take another's place.

    Args:
        out: The file; None for standard output.
        force: Whether a file that is there may be replaced.
        inputs: Files that are read, which are never replaced.
    """
    if out is None:
        return
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file")
    for path in inputs:
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise UserError(f"{out} is the file that is read; name another")
    if out.exists() and not force:
        raise UserError(f"{out} exists; name another file, or replace it by --force")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"the folder {out.parent} cannot be written to")


def write(out: Path, content: bytes) -> None:
    """Create or replace a file atomically; nothing is left behind if that fails."""
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, out)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_table(out: Path | None, names: Sequence[str], values: NDArray[np.float64]) -> None:
    """Write numbers as CSV, every digit of them, to a file or to standard output."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([repr(value) for value in row] for row in values.tolist())
    if out is None:
        sys.stdout.write(text.getvalue())
    else:
        write(out, text.getvalue().encode())


def note(message: str) -> None:
    """A line that goes with the result, not into it; of the processes of one run, the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(f"iclkit: {shown(message)}", file=sys.stderr)


def check_folder(out: Path, force: bool, sign: str) -> None:
    """Refuse an output folder that holds something else than what is written there.

    Args:
        out: The folder; may be missing.
        force: Whether anything may be in it.
        sign: A file by which an earlier result is known, which may be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not ((out / sign).is_file() or force):
        raise UserError(f"{out} is not empty and holds no {sign}; name another folder, or insist by --force")
