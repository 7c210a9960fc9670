"""Signals that end a long command: the first lets it end in order, the second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopping:
    """Whether a signal has come. Calling it tells."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """Name of the signal, such as SIGINT."""
        return "" if self.number is None else signal.Signals(self.number).name

    @property
    def code(self) -> int:
        """The exit code that shells expect of a process which the signal ended."""
        return 0 if self.number is None else 128 + self.number


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """A block in which the first SIGINT or SIGTERM is only noted; a second does what it did before.

    The handlers of before are put back afterwards. Outside the main thread, where Python takes no signals, none
    is noted.
    """
    noted = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # One that was set from outside Python cannot be put back; one that is ignored (nohup) stays so.
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
