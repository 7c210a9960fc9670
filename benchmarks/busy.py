"""Small calls beside a busy process: torch's two threads against one.

python -m benchmarks.busy

Each call is timed with one thread and with two, in turn, alone and beside as many busy processes as there are
processors less one. Two threads once as the package runs it, where `iclkit.threads` keeps small calls to one,
and once throughout.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table

import iclkit
from iclkit.threads import _here

_BUSY = "while True: pass"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """A block beside so many processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def tasks() -> dict[str, Callable[[], object]]:
    """The calls, by name."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 24, 2, generator=generator)
    y = x.sum(-1)
    density = iclkit.load("energy-2d", "energy")
    regression = iclkit.load("general", "regression")
    return {
        "energy-2d: log Z, one context of 24": lambda: density.condition(x[0]).log_partition(),
        "energy-2d: densities after 8 prefixes": lambda: density.log_prob(x[:, :8]),
        "energy-2d: 100 scores": lambda: density.condition(x[0]).score(torch.zeros(100, 2)),
        "general: predictions after 24 prefixes": lambda: regression.predict(x, y),
    }


def seconds(call: Callable[[], object], threads: int, guarded: bool = True) -> float:
    """Time of one call with so many threads; without the guard, as within a block that has its one thread."""
    torch.set_num_threads(threads)
    _here.depth = int(not guarded)
    start = time.perf_counter()
    call()
    _here.depth = 0
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    cores = os.cpu_count() or 2
    table = Table(title=f"medians of {repeats}, {cores} processors")
    for column in ("call", "beside", "1 thread", "2 threads", "ratio", "2 throughout", "its ratio"):
        table.add_column(column, justify="left" if column == "call" else "right")
    calls = tasks()
    for call in calls.values():
        call()  # warm
    for others in (0, max(1, cores - 1)):
        with busy(others):
            for name, call in calls.items():
                times = [
                    (seconds(call, 1), seconds(call, 2), seconds(call, 2, guarded=False))
                    for _ in range(repeats)
                ]
                one, *more = (statistics.median(column) for column in zip(*times, strict=True))
                cells = [cell for two in more for cell in (f"{two:.3f} s", f"{two / one:.2f}x")]
                table.add_row(name, f"{others} busy", f"{one:.3f} s", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
