"""The tensors and folders of models and runs. After a crash at any moment a folder is whole, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from iclkit import disk
from iclkit.disk import PARTIAL, write_file
from iclkit.disk import write_through as _write
from iclkit.errors import UserError
from iclkit.training import exchange
from iclkit.training.json_files import brief, json_bytes, parse_json, read_json

__all__ = [
    "PARTIAL",
    "TensorShape",
    "digest",
    "json_bytes",
    "read_json",
    "read_tensors",
    "remove_folder",
    "replace_folder",
    "sweep",
    "tensor_bytes",
    "write_file",
    "write_folder",
]

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_HEADER = 1 << 24


@dataclass(frozen=True)
class TensorShape:
    """What the header of a file says of a tensor: its shape, and its type if that is a floating-point one."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors in safetensors format."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def digest(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create one folder of files atomically; the folder must not exist yet.

    Raises:
        OSError: It cannot be written; names the folder's file. Nothing is left behind.
    """
    partial = _filled(path, files)
    with disk.naming(path), _removed_on_failure(partial):
        os.rename(partial, path)
    disk.sync_folder(path.parent)


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a new folder of files in the place of one that is there, which is deleted only afterwards.

    Raises:
        OSError: As `write_folder`; the old folder is as it was.
    """
    partial = _filled(path, files)
    with disk.naming(path), _removed_on_failure(partial):
        exchange.exchange(partial, path)
    disk.sync_folder(path.parent)
    _remove(partial)


def _filled(path: Path, files: Mapping[str, bytes]) -> Path:
    """An unfinished folder beside the place of one, with its files on the disk."""
    partial = path.with_name(PARTIAL + path.name)
    with _removed_on_failure(partial):
        with disk.naming(path):
            _remove(partial)
            partial.mkdir(parents=True)
        for name, content in files.items():
            with disk.naming(path / name):
                _write(partial / name, content)
        with disk.naming(path):
            disk.sync_folder(partial)
    return partial


@contextlib.contextmanager
def _removed_on_failure(partial: Path):
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(partial)
        raise


def _remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to) or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a crash leaves nothing that looks whole under its name."""
    partial = path.with_name(PARTIAL + "removed-" + path.name)
    _remove(partial)
    os.rename(path, partial)
    _remove(partial)


def sweep(folder: Path) -> None:
    """Delete what a crash left unfinished in a folder."""
    for path in folder.glob(f"{PARTIAL}*"):
        _remove(path)


def read_tensors(
    path: Path,
    expected_digest: str | None,
    check: Callable[[dict[str, TensorShape]], None] | None = None,
) -> dict[str, Tensor]:
    """The tensors in a file, after its SHA-256 digest has been checked.

    Args:
        path: The file, or a link to it.
        expected_digest: Its digest.
        check: Called with the shapes before any tensor is read; refuses what does not fit.

    Raises:
        UserError: The file is missing, truncated or altered.
    """
    with disk.opened(path) as file:
        if hashlib.file_digest(cast("Any", file), "sha256").hexdigest() != expected_digest:
            raise UserError(
                f"{path} does not match its recorded SHA-256: truncated or altered; get a fresh copy"
            )
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise UserError(f"{path} is not a safetensors file: it has no header")
        shapes = _shapes(parse_json(file.read(length), f"the header of {path}"), path)
        if check is not None:
            check(shapes)
        file.seek(0)
        content = file.read(size)
    try:
        return load(content)
    except Exception as error:  # safetensors raises a class of its own and, for some headers, others
        raise UserError(f"{path} is not a safetensors file ({brief(str(error))})") from None


def _shapes(header: dict[str, object], path: Path) -> dict[str, TensorShape]:
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)) or not isinstance(
            kind, str
        ):
            raise UserError(f"{path} is not a safetensors file: its header has no shape of {brief(name)}")
        found[name] = TensorShape(tuple(shape), _FLOATS.get(kind))
    return found


def check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights that hold NaN or infinity, with which every answer would.

    Raises:
        UserError: Names the first of them.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{where}: {brief(name)} holds NaN or infinite values; train anew or get a fresh copy"
            )
