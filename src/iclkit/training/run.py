"""A training run on disk: started, stopped at any moment, resumed, never half written.

recipe.json       the resolved recipe
environment.json  versions, processor and threads of every start of the run
metrics.jsonl     one line every `log_every` updates: means since the line before, and what a watcher saw
checkpoints/step-XXXXXXXX/   weights, optimizer, average, objective (.safetensors) and state.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from iclkit import ambient, disk
from iclkit.errors import UserError
from iclkit.training import checkpoint as checkpoints
from iclkit.training import environment, files, run_folder
from iclkit.training.checkpoint import Checkpoint
from iclkit.training.codec import decode_known
from iclkit.training.distributed import World, join_world
from iclkit.training.growth import check_same, grown
from iclkit.training.progress import progress_display
from iclkit.training.recipe import Recipe
from iclkit.training.recipes import recipe_named
from iclkit.training.trainer import Trainer, TrainingError
from iclkit.training.watching import Watch, check_watch, watched

_LOCK = ".lock"


def train(
    recipe: Recipe | str,
    out: str | Path,
    *,
    resume: bool = False,
    steps: int | None = None,
    progress: bool = True,
    stop_after: int | None = None,
    device: torch.device | str | None = None,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Carry out a recipe. Under torchrun, call it in every process.

    Stopped at any moment, even by SIGKILL, and called again with `resume`, it ends with the weights of a run
    that was never stopped, bit for bit (on a CPU, with the same numbers of threads and processes).

    Args:
        recipe: The recipe, or the name of a registered one.
        out: The run's folder; must be new or empty, or hold this very run if `resume`.
        resume: Go on from the last checkpoint; from the start where there is none.
        steps: Replaces the recipe's number of updates; its schedule rescales. With `resume` it may be more than
            the run had, where the rates of its schedule do not fall.
        progress: Show progress on the error stream.
        stop_after: Write a checkpoint and return after this many updates in all.
        device: Where to compute; the process's GPU where there is one, else the CPU.
        watch: Called with the number of updates done and the network, whenever a line of metrics is written;
            what it returns (numbers, or lists of them, by name) is written with it. It must leave the weights
            and the global generators alone.
        stop: Called after every update; once it is true, a checkpoint is written and the call returns. Of many
            processes, all stop together when one of them is told to.

    Returns:
        The run's folder.

    Raises:
        UserError: Another run in the folder, or a checkpoint that cannot be read.
        TrainingError: The loss or its gradient is not finite.
    """
    check_watch(watch)
    if isinstance(recipe, str):
        recipe = recipe_named(recipe)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    out = Path(out)
    # What is set around the call must not reach the weights: a resumed run may have other surroundings.
    with ambient.neutral(grad=True), join_world(device) as world:
        # Built before anything is written: a recipe that cannot run leaves no folder behind.
        run = _Run(recipe, out, world, watch)
        with _hold(out, world, recipe, resume):
            if resume:
                run.resume()
            world.lead(run.announce)
            end = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
            run.go(end, progress and world.leads, stop)
    return out


@dataclasses.dataclass(frozen=True)
class _Counts:
    """What a checkpoint holds beside tensors."""

    processes: int
    sums: dict[str, float]
    count: int
    seconds: float
    cpu_seconds: float = 0.0  # which older checkpoints lack


class _Run:
    """A trainer, its folder, and the means since the last line of metrics."""

    def __init__(self, recipe: Recipe, out: Path, world: World, watch: Watch | None = None) -> None:
        self.recipe, self.out, self.world, self.watch = recipe, out, world, watch
        self.trainer = Trainer(recipe, world)
        self.sums: dict[str, float] = {}
        self.count = 0
        self.seconds = self.cpu_seconds = 0.0

    def resume(self) -> None:
        last = run_folder.last_checkpoint(self.out, self.recipe)
        if last is None:
            return
        path = checkpoints.found(self.out)[-1]
        missing = {"processes", "sums", "count", "seconds"} - last.info.keys()
        if missing:
            raise UserError(
                f"{path / 'state.json'} lacks {', '.join(sorted(missing))}: altered; "
                f"delete {path} to go on from the checkpoint before it"
            )
        counts: _Counts = decode_known(_Counts, last.info, str(path / "state.json"))
        if counts.processes != self.world.size:
            raise UserError(
                f"{self.out} was trained by {counts.processes} processes, this is a run of "
                f"{self.world.size}; resume it with as many"
            )
        try:
            self.trainer.load(last.step, last.tensors)
        except UserError as error:
            raise UserError(f"{path} does not fit the recipe of its run: {error}") from None
        self.sums, self.count = counts.sums, counts.count
        self.seconds, self.cpu_seconds = counts.seconds, counts.cpu_seconds

    def announce(self) -> None:
        """Note this start of the run, and forget metrics of updates that will be done again."""
        starts = run_folder.read_starts(self.out)
        starts.append({"step": self.trainer.step, **environment.describe(self.world)})
        files.write_file(self.out / "environment.json", files.json_bytes({"starts": starts}))
        metrics = self.out / "metrics.jsonl"
        if metrics.exists():
            with disk.opened(metrics) as file:
                kept = _lines_until(file.read(), self.trainer.step)
            files.write_file(metrics, kept)

    def go(self, end: int, show: bool, stop: Callable[[], bool] | None = None) -> None:
        recipe, trainer = self.recipe, self.trainer
        first, start, before = trainer.step, time.monotonic(), self.seconds
        cpu_start, cpu_before = time.process_time(), self.cpu_seconds
        with progress_display(recipe.name, recipe.steps, show) as display:
            while trainer.step < end:
                try:
                    values = trainer.update()
                except TrainingError as error:
                    raise TrainingError(f"{error}; {self._last_good()}") from None
                self.seconds = before + time.monotonic() - start
                self.cpu_seconds = cpu_before + time.process_time() - cpu_start
                self.count += 1
                for name, value in values.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                speed = (trainer.step - first) / max(time.monotonic() - start, 1e-9)
                display.show(trainer.step, self.sums["loss"] / self.count, speed)
                if trainer.step % recipe.log_every == 0 or trainer.step == recipe.steps:
                    self._log(speed)
                stopped = stop is not None and self.world.any(stop())
                if trainer.step % recipe.checkpoint_every == 0 or trainer.step == end or stopped:
                    self._save()
                if stopped:
                    break

    def _log(self, speed: float) -> None:
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        speeds = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "steps_per_second": speed}
        if self.world.leads:
            line = {"step": self.trainer.step, **means, **speeds}
            line = {"step": self.trainer.step, **means, **self._watched(line), **speeds}
            with disk.own(self.out / "metrics.jsonl") as file:
                file.write(json.dumps(line).encode() + b"\n")

    def _watched(self, line: Mapping[str, Any]) -> dict[str, Any]:
        if self.watch is None:
            return {}
        with torch.no_grad():
            return watched(self.watch(self.trainer.step, self.trainer.network), line)

    def _save(self) -> None:
        tensors = self.trainer.tensors()
        info = {
            "recipe": run_folder.recipe_digest(self.recipe),
            "processes": self.world.size,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "sums": self.sums,
            "count": self.count,
        }
        saved = Checkpoint(self.trainer.step, info, tensors)
        self.world.lead(lambda: checkpoints.save(self.out, saved))

    def _last_good(self) -> str:
        found = checkpoints.found(self.out)
        return f"last good checkpoint: {found[-1]}" if found else "no checkpoint had been written"


def _lines_until(content: bytes, step: int) -> bytes:
    """The complete lines of a metrics file up to a step."""
    kept = []
    for line in content.splitlines(keepends=True):
        found = run_folder.metrics_line(line)
        if found is None or found["step"] > step:
            break
        kept.append(line)
    return b"".join(kept)


@contextlib.contextmanager
def _hold(out: Path, world: World, recipe: Recipe, resume: bool) -> Iterator[None]:
    """Claim the folder for this run, or refuse it; nobody else can train in it meanwhile."""
    with contextlib.ExitStack() as stack:
        world.lead(lambda: _claim(out, recipe, resume, stack))
        yield


def _claim(out: Path, recipe: Recipe, resume: bool, stack: contextlib.ExitStack) -> None:
    resolved = recipe.to_json()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the run")
    written = out / "recipe.json"
    strangers = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
    if not written.exists() and strangers:
        raise UserError(f"{out} is not empty and holds no run; name a new folder")
    for name in (_LOCK, "recipe.json", "environment.json", "metrics.jsonl"):
        disk.check_own(out / name)
    if (out / "checkpoints").is_symlink():
        raise UserError(
            f"{out / 'checkpoints'} is a link, and a run writes into its own folder alone; remove it"
        )
    changed = not written.exists()
    if written.exists():
        if not resume:
            raise UserError(f"{out} already holds a run; go on with it by --resume, or name a new folder")
        theirs = run_folder.read_recipe(out)
        changed = grown(theirs, recipe, out)
        if not changed:
            check_same(theirs, recipe, out)
    out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(_locked(out / _LOCK))
    # Only now is it certain that nobody is writing.
    for folder in (out, out / "checkpoints"):
        files.sweep(folder)
    if changed:
        files.write_file(written, resolved.encode())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with disk.own(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {path.parent}; wait for it or name a new folder"
            ) from None
        yield
