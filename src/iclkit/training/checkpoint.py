"""Checkpoints of a run: folders that appear whole or not at all; safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from iclkit.errors import UserError
from iclkit.training import files

VERSION = 1
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` updates.

    Args:
        step: Updates done.
        info: JSON data: running sums, seconds trained, number of processes.
        tensors: Named tensors, by file ("weights", "optimizer", "objective", "average").
    """

    step: int
    info: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def found(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: path.name)


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
    files.write_folder(path, {**content, "state.json": files.json_bytes(state)})
    for old in found(run)[:-keep]:
        files.remove_folder(old)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: Of another version, truncated or altered.
    """
    state = files.read_json(path / "state.json")
    if state.get("version") != VERSION:
        raise UserError(
            f"{path} has checkpoint version {state.get('version')!r}, this iclkit reads version {VERSION}; "
            "use the iclkit that wrote it"
        )
    digests = state.get("sha256")
    if not isinstance(digests, dict) or not isinstance(state.get("step"), int):
        raise UserError(
            f"{path / 'state.json'} is incomplete; delete the folder to go on from the one before it"
        )
    tensors = {}
    for name, expected in digests.items():
        try:
            tensors[name.removesuffix(".safetensors")] = files.read_tensors(path / name, expected)
        except UserError as error:
            raise UserError(f"{error}; or delete {path} to go on from the checkpoint before it") from None
    return Checkpoint(state["step"], state, tensors)
