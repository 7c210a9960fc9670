"""Which recipe a run may go on with: its own, or its own with more updates where the rate does not fall."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from iclkit.errors import UserError
from iclkit.training import checkpoint as checkpoints
from iclkit.training.json_files import brief
from iclkit.training.recipe import Recipe, Schedule


def grown(theirs: Recipe, ours: Recipe, out: Path) -> bool:
    """Whether a run is to have more updates than before, and nothing else is to be different.

    Args:
        theirs: The recipe in the run's folder.
        ours: The recipe that is to be carried out.
        out: The run's folder.

    Raises:
        UserError: More updates would change the rates of those that are done.
    """
    if ours.steps <= theirs.steps or dataclasses.replace(ours, steps=theirs.steps) != theirs:
        return False
    found = checkpoints.found(out)
    done = int(found[-1].name.removeprefix("step-")) if found else 0
    if not _agree(theirs.schedule, done, theirs.steps, ours.steps):
        course = "falls towards the end" if theirs.schedule.falls else "has not risen fully yet"
        start = shlex.quote(str(out))
        raise UserError(
            f"{out} holds another run: its steps is {theirs.steps}, yours {ours.steps}, and its learning rate "
            f"{course}; start a new run from its weights: --start {start} --steps {ours.steps} --out NEW"
        )
    return True


def _agree(schedule: Schedule, done: int, before: int, after: int) -> bool:
    """Whether the rate neither falls at the end of the shorter run nor rises again in the longer one."""
    if done == 0:
        return True
    return not schedule.falls and schedule.factor(done - 1, after) == schedule.factor(done - 1, before) == 1


def check_same(theirs: Recipe, ours: Recipe, out: Path) -> None:
    """Refuse to go on with a run of another recipe; the first field that differs is named."""
    # Both as data: fields that came later have their defaults in older files.
    _compare(theirs.to_dict(), ours.to_dict(), out)


def _compare(theirs: Any, ours: Any, out: Path, where: str = "") -> None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in dict.fromkeys([*ours, *theirs]):
            _compare(theirs.get(name), ours.get(name), out, f"{where}.{name}" if where else name)
    elif theirs != ours:
        raise UserError(
            f"{out} holds another run: its {where} is {brief(theirs)}, yours {brief(ours)}; "
            "give the same recipe, or name a new folder"
        )
