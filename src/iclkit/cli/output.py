"""What a command writes: checked before any work is done, written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from iclkit import disk
from iclkit.cli.streams import check_output, tell
from iclkit.errors import UserError

# Seconds that a pipe's reader may come later than what it reads.
_PATIENCE = 2.0


def check(out: Path | None, force: bool, inputs: Sequence[Path | None]) -> None:
    """Refuse an output file that cannot be written, or that would take another's place.

    Args:
        out: The file; None for standard output. A link stands for what it points to. Pipes and devices such as
            /dev/stdout are written into.
        force: Whether a file that is there may be replaced.
        inputs: Files that are read, which are never replaced.
    """
    if out is None:
        check_output()
        return
    kind = _kind(out)
    if kind == "folder":
        raise UserError(f"{out} is a folder; name a file")
    if kind in ("disk", "socket"):
        raise UserError(f"{out} is a {kind}, which no result is written to; name a file")
    for path in inputs:
        if path is not None and kind is not None and path.exists() and out.samefile(path):
            raise UserError(f"{out} is the file that is read; name another")
    if kind == "stream":
        if _descriptor(out) == 1:
            check_output()
        return
    if kind == "file" and not force:
        raise UserError(f"{out} exists; name another file, or replace it by --force")
    folder = _target(out).parent
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written to")


def write(out: Path, content: bytes) -> None:
    """Create or replace a file atomically; nothing is left behind if that fails, and the old one stays.

    A link stays too: what it points to is replaced. A pipe or a device is written into.

    Raises:
        OSError: With the name of the file.
        UserError: A pipe that nobody reads from.
    """
    kind = _kind(out)
    if kind == "stream":
        with disk.naming(out):
            _write_stream(out, content)
        return
    disk.write_file(out, content, follow=True)


def _kind(path: Path) -> str | None:
    """What is behind a name, links followed: "file", "folder", "stream", "disk", "socket"; None for nothing."""
    if _descriptor(path) is not None:
        return "stream"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{path.parent} is no folder; name a file in a folder") from None
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return "stream"
    return "disk" if stat.S_ISBLK(mode) else "socket" if stat.S_ISSOCK(mode) else "file"


def _target(path: Path) -> Path:
    """The file that a name stands for, links followed; it may be missing."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _descriptor(path: Path) -> int | None:
    """The number of the open file that /dev/stdout and its like stand for, if it is open."""
    if str(path) in ("/dev/stdout", "/dev/stderr"):
        number = 1 if path.name == "stdout" else 2
    elif str(path.parent) in ("/dev/fd", "/proc/self/fd") and path.name.isdecimal():
        number = int(path.name)
    else:
        return None
    try:
        os.fstat(number)
    except OSError:
        return None
    return number


def _write_stream(out: Path, content: bytes) -> None:
    """Write into what is open already, a pipe or a device."""
    number = _descriptor(out)
    if number is None:
        handle = _open_stream(out)
        os.set_blocking(handle, True)
    else:  # not opened anew: what was written before stays
        sys.stdout.flush()
        handle = os.dup(number)
    try:
        with open(handle, "wb") as file:
            file.write(content)
    except BrokenPipeError:
        raise UserError(f"the reader of {out} left before all was written") from None


def _open_stream(out: Path) -> int:
    """Open a pipe, for whose reader it waits a moment, or a device."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            # Opened to wait, a pipe without a reader would keep this process for ever.
            return os.open(out, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if time.monotonic() > end:
            raise UserError(f"nobody reads from the pipe {out}; start its reader first")
        time.sleep(0.02)


def note(message: str) -> None:
    """A line that goes with the result, not into it."""
    tell(f"iclkit: {message}")


def check_folder(out: Path, force: bool, sign: str) -> None:
    """Refuse an output folder that holds something else than what is written there.

    Args:
        out: The folder; may be missing.
        force: Whether anything may be in it.
        sign: A file by which an earlier result is known, which may be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link to nothing; name a folder")
    if out.is_dir() and any(out.iterdir()) and not ((out / sign).is_file() or force):
        raise UserError(f"{out} is not empty and holds no {sign}; name another folder, or insist by --force")
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above} is a file, so {out} can be no folder; name another")
    if not os.access(above, os.W_OK):
        raise UserError(f"the folder {above} cannot be written to")
