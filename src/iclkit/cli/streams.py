"""The process's own streams: closed, full, or without letters for what is written, they end in no traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from iclkit.errors import UserError, shown

OUTPUT = "standard output"


def tell(line: str) -> None:
    """Write one line to the error stream, with nothing in it that acts on a terminal.

    A stream that is closed or full is no reason to give up a result, so that is passed over.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(shown(line), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print lines of a result on standard output, with nothing in them that acts on a terminal."""
    print("\n".join(map(shown, text.split("\n"))))


def check_output() -> None:
    """Refuse to compute what would go to a standard output that is closed.

    Raises:
        UserError: It is.
    """
    if isinstance(sys.stdout, _Closed):
        raise UserError(_CLOSED)


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Standard streams that can be written to, whatever the process was given; as before afterwards.

    Python has None for a stream that was closed at the start. `print` says nothing then, or says on standard
    output what is meant for the error stream. Letters that a terminal or file does not have become `?`.
    """
    out, err = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if err is None:
            sys.stderr = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        if out is None:
            sys.stdout = _Closed()
        elif isinstance(out, io.TextIOWrapper):
            stack.callback(_reconfigure, out, out.errors)
            out.reconfigure(errors="replace")
            sys.stdout = cast("TextIO", _Named(out))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


def occupy_descriptors() -> None:
    """Open the null device for standard streams that were closed before the process started.

    Else the next file that is opened gets the number of one of them, and what a library says there goes to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one


def flush_output() -> OSError | None:
    """Write what the standard streams still hold.

    Returns:
        Why that is impossible for standard output, if it is. What is left is then thrown away: at exit it would
        fail once more.
    """
    failed = _flush(sys.stdout)
    _flush(sys.stderr)
    return failed


def _flush(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            stream.flush()
        return error
    except ValueError:  # closed by the command's own doing
        return None
    return None


def _reconfigure(stream: io.TextIOWrapper, errors: str | None) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed, or nobody reads it any more
        stream.reconfigure(errors=errors)


_CLOSED = "standard output is closed; open it, or name a file by --out where the command has it"


class _Named:
    """Standard output whose errors say that they are its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            error.filename = OUTPUT
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            error.filename = OUTPUT
            raise


class _Closed(io.TextIOBase):
    """Standard output that was closed before the start (`>&-`)."""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        raise UserError(_CLOSED)
