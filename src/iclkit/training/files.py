"""Writing that survives a crash at any moment: a file or folder is there whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from iclkit.errors import UserError

# Prefix of everything unfinished; whatever has it may be deleted when nobody is writing.
PARTIAL = ".partial-"


def json_bytes(data: Any) -> bytes:
    """Data as the content of a JSON file; NaN and infinity, which JSON does not know, are refused."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors in safetensors format."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def digest(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder is. Not every system can open a folder (Windows cannot).
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Create or replace one file atomically."""
    partial = path.with_name(PARTIAL + path.name)
    _write(partial, content)
    os.replace(partial, path)
    _sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create one folder of files atomically; the folder must not exist yet."""
    partial = path.with_name(PARTIAL + path.name)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for name, content in files.items():
        _write(partial / name, content)
    _sync_folder(partial)
    os.rename(partial, path)
    _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a crash leaves nothing that looks whole under its name."""
    partial = path.with_name(PARTIAL + "removed-" + path.name)
    if partial.exists():
        shutil.rmtree(partial)
    os.rename(path, partial)
    shutil.rmtree(partial)


def sweep(folder: Path) -> None:
    """Delete what a crash left unfinished in a folder."""
    for path in folder.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: The file is missing or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        data = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON: truncated or altered") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object")
    return data


def read_tensors(path: Path, expected_digest: str | None) -> dict[str, Tensor]:
    """The tensors in a file, after its SHA-256 digest has been checked.

    Raises:
        UserError: The file is missing, truncated or altered.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    content = path.read_bytes()
    if digest(content) != expected_digest:
        raise UserError(f"{path} does not match its recorded SHA-256: truncated or altered; get a fresh copy")
    try:
        return load(content)
    except Exception as error:  # safetensors raises a class of its own and, for some headers, others
        raise UserError(f"{path} is not a safetensors file ({error})") from None
