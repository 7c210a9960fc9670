"""What a run shows while it goes: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from iclkit.errors import shown


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Progress:
    """Shows nothing; what all displays offer. A context manager that is told of every update."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, step: int, loss: float, speed: float) -> None:
        """Tell of the updates done so far, the loss lately and the updates per second."""


class Lines(Progress):
    """One plain line every few seconds, for logs and pipes.

    Args:
        name: What the lines begin with.
        steps: Updates in the whole run.
        every: Seconds between lines; the last update always has one.
    """

    def __init__(self, name: str, steps: int, every: float = 10.0) -> None:
        self._name, self._steps, self._every = name, steps, every
        self._next = time.monotonic() + every

    def show(self, step: int, loss: float, speed: float) -> None:
        if time.monotonic() < self._next and step < self._steps:
            return
        self._next = time.monotonic() + self._every
        left = duration((self._steps - step) / speed)
        line = (
            f"{shown(self._name)}: step {step}/{self._steps}  loss {loss:.4f}  {speed:.2f} steps/s  {left} left"
        )
        print(line, file=sys.stderr, flush=True)


class Bar(Progress):
    """A progress bar with loss, speed and time left; arguments as of `Lines`."""

    def __init__(self, name: str, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._steps = steps
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} steps/s  {task.fields[left]} left"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(shown(name), total=steps, loss="-", speed="-", left="-")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: int, loss: float, speed: float) -> None:
        left = duration((self._steps - step) / speed)
        self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", speed=f"{speed:.2f}", left=left)


def progress_display(name: str, steps: int, show: bool) -> Progress:
    """The right display for this process."""
    if not show:
        return Progress()
    return Bar(name, steps) if sys.stderr.isatty() else Lines(name, steps)
