"""Which files are tables: regular ones, links to them, and what comes in by a pipe as `-`."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iclkit.data.bounds import MOST_PIPED
from iclkit.errors import UserError

STANDARD_INPUT = Path("-")
_CHUNK = 1 << 20
_KINDS = "save the table as .csv or .npy"
# How files begin that are often taken for tables.
_OTHERS = {
    b"PK": f"is an archive (.npz, .xlsx, .zip, ...); {_KINDS}",
    b"\x1f\x8b": "is compressed; unpack it first",
    b"BZh": "is compressed; unpack it first",
    b"\xfd7zXZ": "is compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed; unpack it first",
    b"PAR1": f"is a Parquet file; {_KINDS}",
    b"\x89HDF": f"is an HDF5 file; {_KINDS}",
    b"ARROW1": f"is an Arrow file; {_KINDS}",
    b"\x80\x04\x95": f"is a pickle, which could run code; {_KINDS}",
}


@dataclass(frozen=True)
class Opened:
    """A regular file that can be read more than once.

    Args:
        path: Where it lies.
        label: What messages call it.
        start: Its first bytes.
    """

    path: Path
    label: str
    start: bytes


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A user's file, checked before anything is read of it; `-` is what comes in by a pipe.

    A device may be endless and a pipe may never be written to, so neither is opened, nor links to them.

    Raises:
        UserError: Nothing there, no regular file, an empty one, or one of a kind that is no table.
    """
    if path == STANDARD_INPUT:
        with _piped() as kept:
            yield _checked(kept, "the table on standard input")
        return
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None
    if stat.S_ISFIFO(status.st_mode):
        raise UserError(
            f"{path} is a pipe and not a regular file; write - for the file and redirect: ... - < PIPE"
        )
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file; name a .csv or .npy file")
    if status.st_size == 0:  # so are files that the system makes up, some of which never end
        raise UserError(f"{path} is empty")
    try:
        yield _checked(path, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None


def _checked(path: Path, label: str) -> Opened:
    with path.open("rb") as file:
        start = file.read(4096)
    if not start:
        raise UserError(f"{label} is empty")
    for magic, told in _OTHERS.items():
        if start.startswith(magic):
            raise UserError(f"{label} is no text file and no .npy file: it {told}")
    return Opened(path, label, start)


@contextlib.contextmanager
def _piped() -> Iterator[Path]:
    """All that comes in, as a file that is gone afterwards."""
    source = getattr(sys.stdin, "buffer", None)
    if source is None or source.closed:
        raise UserError(
            "- is the table on standard input, which is closed; name a file or redirect one: < FILE"
        )
    size = 0
    with tempfile.TemporaryDirectory(prefix="iclkit-") as folder:
        kept = Path(folder) / "piped"
        try:
            with kept.open("wb") as file:
                while chunk := source.read(_CHUNK):
                    size += len(chunk)
                    if size > MOST_PIPED:
                        raise UserError(
                            f"more than {MOST_PIPED >> 20} MiB come in by the pipe; save the table as a file"
                        )
                    file.write(chunk)
        except OSError as error:
            raise UserError(
                f"the table on standard input cannot be kept in {folder}: {_reason(error)}; "
                "name another place by TMPDIR"
            ) from None
        yield kept


def _reason(error: OSError | ValueError) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
