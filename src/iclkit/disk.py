"""Regular files in and out: read without waiting for a pipe or a device, written whole or not at all.

Links are followed for reading (the caches of model hubs are links). What a program writes on its own account,
in a folder that may have come from elsewhere, never goes through a link: it could lead anywhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from iclkit.errors import UserError

# Prefix of everything unfinished; whatever has it may be deleted when nobody is writing.
PARTIAL = ".partial-"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}
# What Windows has none of.
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading, or a link to one.

    Raises:
        UserError: Nothing there, or something else: a folder, a pipe, a device.
    """
    try:
        _regular(os.stat(path).st_mode, path)
        # Looked at again once it is open: it may have been another's in between.
        with open(os.open(path, os.O_RDONLY | _AT_ONCE | _CLOSED), "rb") as file:
            _regular(os.fstat(file.fileno()).st_mode, path)
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(path)!r} is no name of a file ({error})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def read(path: Path, limit: int) -> bytes:
    """The content of a regular file, or of a link to one.

    Args:
        path: The file.
        limit: Most bytes that are accepted.

    Raises:
        UserError: As `opened`; or a longer file.
    """
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} is longer than {_size(limit)}, which no such file is")
    return content


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"


def _regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise UserError(f"{path} is {kind}; a regular file is needed")


def check_own(path: Path) -> None:
    """Refuse a file that is to be written on the program's own account, but is a link or no regular file.

    Raises:
        UserError: What is there instead.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise UserError(f"{path} is {kind} and no regular file, so nothing is written to it; remove it")


@contextlib.contextmanager
def own(path: Path) -> Iterator[BinaryIO]:
    """A file of the program's own for appending, made if missing; never through a link.

    Raises:
        UserError: A link, a pipe or another thing is there.
        OSError: It cannot be written to; names the file.
    """
    check_own(path)
    with naming(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK | _AT_ONCE | _CLOSED
        handle = os.open(path, flags, 0o666)
        with open(handle, "ab") as file:
            _regular(os.fstat(handle).st_mode, path)
            yield file


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block whose failures say which file they are about: a full disk names none, and the unfinished file is
    not the one that the user knows."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from None


def write_through(path: Path, content: bytes) -> None:
    """Create a file, and return when it is on the disk. What stands there is replaced, not followed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSED, 0o666)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    # A rename is durable once its folder is. Not every system can open a folder (Windows cannot).
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_target(path: Path) -> int | None:
    """Refuse to put a file in the place of a folder, a pipe or a device.

    Returns:
        The mode of what is there; None for nothing.

    Raises:
        UserError: What is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UserError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; name a regular file")
    return mode


def write_file(path: Path, content: bytes, *, follow: bool = False) -> None:
    """Create or replace a file atomically, with the permissions that it had; a failure leaves nothing behind.

    Args:
        path: The file.
        content: What it is to hold.
        follow: Write to where a link leads, for a file that a user named; a link is replaced otherwise.

    Raises:
        UserError: A folder, a pipe or a device is there.
        OSError: It cannot be written; names the file.
    """
    target = Path(os.path.realpath(path)) if follow else path
    mode = check_target(target)
    # A name of its own, for two programs may write the same file; the target's may be as long as names can be.
    partial = target.with_name(f"{PARTIAL}{secrets.token_hex(8)}")
    with naming(path):
        try:
            write_through(partial, content)
            if mode is not None and stat.S_ISREG(mode):
                os.chmod(partial, stat.S_IMODE(mode))
            os.replace(partial, target)
            sync_folder(target.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
