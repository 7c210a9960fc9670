"""Files and command lines altered at random: each is answered, or refused in one line, in time and memory.

A module here offers `run(count, seed)`, which carries out that many trials and returns its `Findings`.
`python -m tests.fuzz tables --count 5000` runs one of them.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from iclkit.errors import shown

# What one trial may take, beside what the process held before it.
SECONDS = 5.0
BYTES = 1 << 30


class Findings(list[str]):
    """Failures of many trials, one line each, with the slowest trial and the one that held the most memory.

    Args:
        seconds: What a trial may take.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__()
        self.trials = 0
        self.slowest = (0.0, "")  # seconds
        self.largest = (0, "")  # bytes
        self._seconds = seconds

    @contextlib.contextmanager
    def trial(self, name: str, expected: type[Exception]) -> Iterator[None]:
        """Carry out one trial; whatever is wrong with it is found, not raised.

        Args:
            name: What distinguishes it, so that it can be repeated.
            expected: The one kind of exception that may be raised.
        """
        self.trials += 1
        before = _reset_peak()
        start = time.perf_counter()
        try:
            with _stopped_after(4 * self._seconds):
                yield
        except expected as told:
            if not str(told) or shown(str(told)) != str(told):
                self.append(f"{name}: not one line: {told!r}")
        except Exception as error:
            self.append(f"{name}: {type(error).__name__}: {error}")
        self.took(name, time.perf_counter() - start, max(_peak() - before, 0))

    def took(self, name: str, seconds: float, held: int) -> None:
        """Record what a trial took; for trials in processes of their own.

        Args:
            name: The trial.
            seconds: Its time.
            held: Bytes that it held at most.
        """
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (held, name))
        if seconds > self._seconds:
            self.append(f"{name}: took {seconds:.1f} s")
        if held > BYTES:
            self.append(f"{name}: held {held / 2**20:.0f} MiB")


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """End what hangs, as far as Python can."""

    def stop(number: int, frame: object) -> None:
        raise RuntimeError(f"still running after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> int:
    """Let Linux count the peak of memory anew; bytes held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most bytes that were held since then; since the start of the process where that cannot be reset."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
