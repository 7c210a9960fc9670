"""One thread for small calls: torch's threads wait for one another at the end of every operation.

Operations of some ten microseconds gain little from a second thread. Where another process has taken its
processor, the first one spins at each barrier until the second is scheduled again, and a call of thousands of
such operations takes several times longer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# Rows up to which a second thread gains less on a processor of its own than it costs beside another process.
SMALL = 4096


class _Threads:
    """How many threads torch had before the first of the calls that run now, and how many of these there are.

    torch keeps one number for threads that have yet to use it and one in each thread that has. A thread that
    uses torch for the first time within another's call starts with one; it is given the common number after.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.common = 1


_threads = _Threads()
_here = threading.local()


def small(rows: int, device: torch.device) -> bool:
    """Whether a call of so many rows (points, tokens) is one whose operations are too small to be shared."""
    return device.type == "cpu" and rows <= SMALL


@contextlib.contextmanager
def one_thread(*, where: bool = True) -> Iterator[None]:
    """A block that torch computes with one thread; afterwards it has as many as before.

    Blocks may be nested, and entered by several threads at once.

    Args:
        where: Whether to do so; False leaves everything as it is.
    """
    if not where or getattr(_here, "depth", 0):
        # Within another such block there is one thread already.
        yield
        return
    with _threads.lock:
        before = torch.get_num_threads()
        if not _threads.inside:
            _threads.common = before
        elif before == 1:
            before = _threads.common
        if before == 1:
            lowered = False
        else:
            lowered = True
            _threads.inside += 1
            torch.set_num_threads(1)
    _here.depth = 1
    try:
        yield
    finally:
        _here.depth = 0
        if lowered:
            with _threads.lock:
                _threads.inside -= 1
                torch.set_num_threads(before)
