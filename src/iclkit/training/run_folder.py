"""What can be read of a run's folder: its recipe, its starts, its metrics, and the weights it has come to."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from iclkit import disk
from iclkit.errors import UserError
from iclkit.training import checkpoint as checkpoints
from iclkit.training import description, files
from iclkit.training.recipe import Recipe

# A line of metrics takes half a kilobyte, with what a watcher adds some more.
_LONGEST_LINE = 1 << 20


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        UserError: There is none, or the file is altered.
    """
    path = run / "recipe.json"
    data = files.read_json(path, f"{run} holds no run (recipe.json is missing)")
    return Recipe.from_dict(data, str(path))


def recipe_digest(recipe: Recipe) -> str:
    """What decides the weights after a number of updates, as a checkpoint holds it.

    With a constant rate the number of updates in all is no part of that, so that a run may grow. A field that
    has its default does not count: later versions may have more of them.
    """
    plain = recipe if recipe.schedule.falls else dataclasses.replace(recipe, steps=1)
    return files.digest(json.dumps(_set(plain), sort_keys=True).encode())


def _set(value: Any) -> Any:
    """JSON data of what is not at its default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init]
        chosen = {field.name: getattr(value, field.name) for field in fields}
        kept = {f.name: _set(chosen[f.name]) for f in fields if not _is_default(f, chosen[f.name])}
        return {"type": type(value).__name__, **kept}
    return [_set(member) for member in value] if isinstance(value, (tuple, list)) else value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return type(field.default) is type(value) and field.default == value
    return field.default_factory is not dataclasses.MISSING and field.default_factory() == value


def last_checkpoint(run: Path, recipe: Recipe) -> checkpoints.Checkpoint | None:
    """The last checkpoint of a run; None if there is none yet.

    Raises:
        UserError: One that is altered, or of another recipe than the folder's.
    """
    found = checkpoints.found(run)
    if not found:
        return None
    last = checkpoints.load(found[-1])
    # Older checkpoints do not say of which recipe they are.
    if last.info.get("recipe", recipe_digest(recipe)) != recipe_digest(recipe):
        raise UserError(
            f"{found[-1]} is of another recipe than {run / 'recipe.json'}: altered; put back the recipe that "
            "the run was started with"
        )
    return last


def last_weights(run: Path) -> tuple[Recipe, dict[str, Tensor], checkpoints.Checkpoint]:
    """The recipe of a run, and the weights of its last checkpoint: the average where the recipe keeps one.

    Raises:
        UserError: No run there, no checkpoint yet, or one that is altered.
    """
    recipe = read_recipe(run)
    last = last_checkpoint(run, recipe)
    if last is None:
        raise UserError(f"{run} has no checkpoint yet; train on with --resume")
    kind = "average" if recipe.ema is not None else "weights"
    if kind not in last.tensors:
        raise UserError(
            f"{checkpoints.found(run)[-1]} has no {kind}.safetensors: altered; train on with --resume"
        )
    return recipe, last.tensors[kind], last


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, as JSON data that has been checked; none before the first.

    Raises:
        UserError: The file is altered.
    """
    path = run / "environment.json"
    if not path.exists():
        return []
    starts = files.read_json(path).get("starts", [])
    description.read_starts(starts, f"{path}: starts")
    return starts


def last_metrics(run: Path, step: int) -> dict[str, Any] | None:
    """The last whole line of a run's metrics up to a step; None if there is none.

    A crash or a full disk may leave part of a line at the end.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        return None
    with disk.opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_LINE))
        lines = file.read(_LONGEST_LINE).splitlines(keepends=True)
    for line in reversed(lines):
        found = metrics_line(line)
        if found is not None and found["step"] <= step:
            return {name: _finite(value) for name, value in found.items()}
    return None


def _finite(value: Any) -> Any:
    """A number that JSON can hold, or None."""
    if isinstance(value, list):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def metrics_line(line: bytes) -> dict[str, Any] | None:
    """A line of metrics; None if it is not whole. What a watcher saw may be NaN."""
    if not line.endswith(b"\n"):
        return None
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and type(data.get("step")) is int else None
