"""Arrays saved by NumPy: mapped and not loaded, their header read by the letter.

`numpy.load` evaluates the header as Python text, raises whatever its bytes lead to, and leaves out what a
file holds beyond the shape that it states. Here a header has one form, and a file the bytes that it states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iclkit.data.bounds import LARGEST, MOST_COLUMNS
from iclkit.data.opened import Opened
from iclkit.errors import UserError, shown

MAGIC = b"\x93NUMPY"
# Bytes of the header's length, by the version of the format.
_LENGTHS = {1: 2, 2: 4, 3: 4}
_LONGEST_HEADER = 1 << 16
_ENTRY = (
    r"""\s*['"](?:descr['"]\s*:\s*['"][^'"]{1,40}['"]"""
    r"""|fortran_order['"]\s*:\s*(?:True|False)"""
    r"""|shape['"]\s*:\s*\([0-9, ]{0,200}\))\s*"""
)
_HEADER = re.compile(rf"\{{{_ENTRY},{_ENTRY},{_ENTRY},?\s*\}}\s*")
_WHOLE = "is not a whole .npy file: truncated, altered or of another kind"


class Array:
    """A .npy file of numbers; offers what `Delimited` does.

    Args:
        file: The file.

    Raises:
        UserError: No array of floats or integers with one or two axes, or not all of it.
    """

    named = False

    def __init__(self, file: Opened) -> None:
        self._label = file.label
        dtype, shape, order, offset = _header(file)
        size = file.path.stat().st_size - offset
        expected = math.prod(shape) * dtype.itemsize
        if size < expected:
            raise UserError(f"{file.label} {_WHOLE}")
        if size > expected:
            raise UserError(
                f"{file.label} holds {size:,} bytes of numbers, its header speaks of {expected:,} "
                f"(shape {shape}); save the array anew"
            )
        data = np.memmap(file.path, dtype, "r", offset, shape, order)
        self._data = data if data.ndim == 2 else data[:, None]
        if self._data.shape[1] > MOST_COLUMNS:
            raise UserError(
                f"{file.label} has {self._data.shape[1]:,} columns, at most {MOST_COLUMNS:,} are accepted"
            )
        self.names = tuple(f"column {i + 1}" for i in range(self._data.shape[1]))
        self.notes: list[str] = []

    def count(self) -> int:
        """Number of rows."""
        return len(self._data)

    def take_all(self, columns: Sequence[int], most: int) -> tuple[NDArray[np.float64], int, bool]:
        """Numbers of the first `most` rows, the number of rows, and that these are all.

        Raises:
            UserError: A value that is not finite, or too large.
        """
        rows = len(self._data)
        return self.take(np.arange(rows), columns) if rows <= most else np.empty((0, 0)), rows, True

    def take(self, kept: NDArray[np.int64], columns: Sequence[int]) -> NDArray[np.float64]:
        """Numbers in the chosen columns of the rows kept (ascending, counted from 0).

        Raises:
            UserError: A value that is not finite, or too large.
        """
        # A mapped file is read only where it is touched.
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(self._data[np.ix_(kept, np.array(columns))], dtype=np.float64)
            bad = ~(np.abs(values) < LARGEST)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"{self._label}, row {int(kept[row]) + 1}, {self.names[columns[column]]}: "
                f"{values[row, column]} is missing, infinite or too large; drop the row"
            )
        return values


def _header(file: Opened) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"], int]:
    """Type, shape, order and place of the numbers."""
    broken = UserError(f"{file.label} {_WHOLE}")
    with file.path.open("rb") as opened:
        start = opened.read(8)
        length = _LENGTHS.get(start[6] if len(start) == 8 else 0)
        if start[:6] != MAGIC or length is None:
            raise broken
        counted = opened.read(length)
        size = int.from_bytes(counted, "little")
        if len(counted) < length or size > _LONGEST_HEADER:
            raise broken
        text = opened.read(size).decode("latin-1")
        offset = opened.tell()
    if len(text) < size:
        raise broken
    if re.match(r"\{\s*'descr'\s*:\s*\[", text):
        raise UserError(
            f"{file.label} holds rows with named fields (a structured array); save an array of numbers instead "
            "by numpy.lib.recfunctions.structured_to_unstructured"
        )
    if not _HEADER.fullmatch(text):
        raise broken
    found = dict(
        re.findall(r"""['"](descr|fortran_order|shape)['"]\s*:\s*(\([^)]*\)|True|False|['"][^'"]*['"])""", text)
    )
    if len(found) < 3:
        raise broken
    shape = tuple(int(part) for part in found["shape"].strip("()").replace(" ", "").split(",") if part)
    dtype = _dtype(file.label, found["descr"][1:-1])
    if len(shape) not in (1, 2):
        raise UserError(f"{file.label} holds an array of shape {shape}; [rows, columns] is accepted")
    if 0 in shape:
        raise UserError(f"{file.label} is empty: it holds an array of shape {shape}")
    return dtype, shape, "F" if found["fortran_order"] == "True" else "C", offset


def _dtype(label: str, name: str) -> np.dtype:
    kind = re.fullmatch(r"[<>|=]?([a-zA-Z?])([0-9]{0,4})", name)
    if kind is None:
        raise UserError(f"{label} {_WHOLE}")
    if kind[1] == "O":
        raise UserError(f"{label} holds Python objects; save an array of numbers instead")
    try:
        dtype = np.dtype(name) if kind[1] in "fiu" else None
    except TypeError:
        dtype = None
    if dtype is None:
        raise UserError(f"{label} holds values of type {shown(name)}; floats and integers are accepted")
    return dtype
