"""Checkpoints of a run: folders that appear whole or not at all; safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from iclkit.errors import UserError
from iclkit.training import files
from iclkit.training.json_files import brief

VERSION = 1
# Files that a checkpoint may have, whose digests its state holds; and that of the state itself, which is not
# there in older ones.
_TENSORS = ("weights", "optimizer", "objective", "average")
_SEAL = "digest"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` updates.

    Args:
        step: Updates done.
        info: JSON data: running sums, seconds trained, number of processes, digest of the recipe.
        tensors: Named tensors, by file ("weights", "optimizer", "objective", "average").
    """

    step: int
    info: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def found(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=_step)


def _step(path: Path) -> int:
    name = _NAME.fullmatch(path.name)
    return int(name[1]) if name else -1


def save(run: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint atomically, then delete all but the newest `keep`.

    Returns:
        Its folder.
    """
    path = run / "checkpoints" / f"step-{checkpoint.step:08d}"
    content = {f"{name}.safetensors": files.tensor_bytes(group) for name, group in checkpoint.tensors.items()}
    state = {
        "version": VERSION,
        "step": checkpoint.step,
        "sha256": {name: files.digest(data) for name, data in content.items()},
        **checkpoint.info,
    }
    state[_SEAL] = _digest(state)
    files.write_folder(path, {**content, "state.json": files.json_bytes(state)})
    for old in found(run)[:-keep]:
        files.remove_folder(old)
    return path


def _digest(state: Mapping[str, Any]) -> str:
    """The digest of a state, but for that digest itself."""
    return files.digest(files.json_bytes({name: state[name] for name in sorted(state) if name != _SEAL}))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: Of another version, truncated or altered.
    """
    state = files.read_json(path / "state.json")
    if state.get("version") != VERSION:
        raise UserError(
            f"{path} has checkpoint version {brief(state.get('version'))}, this iclkit reads version "
            f"{VERSION}; use the iclkit that wrote it"
        )
    digests, step = state.get("sha256"), state.get("step")
    if not isinstance(digests, dict) or type(step) is not int:
        raise UserError(
            f"{path / 'state.json'} is incomplete; delete the folder to go on from the one before it"
        )
    advice = f"altered; delete {path} to go on from the checkpoint before it"
    if step != _step(path):
        raise UserError(f"{path / 'state.json'} is of step {step}, not of its folder's: {advice}")
    if _SEAL in state and state[_SEAL] != _digest(state):
        raise UserError(f"{path / 'state.json'} does not match its recorded SHA-256: {advice}")
    tensors = {}
    for name, expected in digests.items():
        if name.removesuffix(".safetensors") not in _TENSORS:
            raise UserError(f"{path / 'state.json'} names the file {brief(name)}, which is none: {advice}")
        try:
            tensors[name.removesuffix(".safetensors")] = files.read_tensors(path / name, expected)
        except UserError as error:
            raise UserError(f"{error}; or delete {path} to go on from the checkpoint before it") from None
    for kind in ("weights", "average"):
        files.check_finite(tensors.get(kind, {}), path / f"{kind}.safetensors")
    return Checkpoint(step, state, tensors)
