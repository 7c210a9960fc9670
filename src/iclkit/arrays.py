"""Where users' numbers come in: arrays, DataFrames, lists and tensors, made one kind of tensor.

What comes back from the package is a tensor, whatever was given: one rule for every call, and `np.asarray` of a
tensor costs nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iclkit.errors import UserError

Allowed = Literal["finite", "infinite", "anything"]
_AXES = {1: ("row",), 2: ("row", "column")}


def as_tensor(
    value: Any,
    name: str,
    *,
    allow: Allowed = "finite",
    dtype: torch.dtype | None = None,
    default: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """A user's numbers as a real floating-point tensor.

    A tensor keeps its dtype, device and graph. All else (NumPy arrays with any strides and byte order, pandas
    and polars tables, lists, whatever NumPy can read) is copied: float32 stays, float16 becomes float32, wider
    ones float64. What has no floating-point type of its own, integers, booleans and lists, gets `default`. No
    tensor that comes back is an inference tensor, so scores may be taken of it later.

    Args:
        value: The numbers.
        name: What they are called in messages ("context", "x").
        allow: Which values pass: "finite" ones, also "infinite" ones, or "anything". Under the transforms of
            torch.func, which show no values, anything does.
        dtype: Convert to this floating-point type.
        default: The type of what has none of its own.
        device: Move to this device.

    Returns:
        The tensor, of the shape given.

    Raises:
        UserError: Text, dates, complex numbers, missing cells, ragged lists, or values that are not allowed.
    """
    with torch.inference_mode(False):
        tensor = _checked(value, name) if isinstance(value, Tensor) else torch.from_numpy(_copied(value, name))
        if tensor.is_inference():
            tensor = tensor.clone()
    if not tensor.is_floating_point() or isinstance(value, list | tuple):
        tensor = tensor.to(default)
    if allow != "anything" and not transforming():
        _refuse(value, tensor, name, allow)
    return tensor.to(device=device, dtype=dtype)


def transforming() -> bool:
    """Whether a transform of torch.func is at work: values cannot be looked at, and not every kernel exists."""
    return torch._C._are_functorch_transforms_active()


def _checked(value: Tensor, name: str) -> Tensor:
    """A tensor of real numbers, as it is."""
    if value.is_complex():
        raise UserError(f"{name} must hold real numbers, given {value.dtype}")
    if value.layout != torch.strided or value.is_quantized:
        raise UserError(f"{name} must be a dense tensor, given {value.layout} of {value.dtype}; use to_dense()")
    if value.is_meta:
        raise UserError(
            f"{name} must hold numbers, given a tensor on the meta device, which holds shapes alone"
        )
    return value


def _copied(value: Any, name: str) -> NDArray[Any]:
    """Anything else as a fresh array of float32 or float64, in order."""
    kind = type(value).__name__
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise UserError(f"{name} has masked cells; drop or fill them first")
    if isinstance(value, str | bytes | dict | set | frozenset):
        raise UserError(f"{name} must be an array, a DataFrame, a list or a tensor of numbers, given a {kind}")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} must be numeric and rectangular, given {kind}: {reason}") from None
    if array.dtype.kind == "O" and array.ndim == 0:
        raise UserError(
            f"{name} must be an array, a DataFrame, a list or a tensor of numbers, given a {kind}; "
            "turn it into a NumPy array first"
        )
    if array.dtype.kind == "c":
        raise UserError(f"{name} must hold real numbers, given {array.dtype}")
    if array.dtype.kind in "OUST":
        return _from_objects(value, array, name)
    if array.dtype.kind not in "fiub":
        what = "dates or times" if array.dtype.kind in "mM" else f"values of type {array.dtype}"
        raise UserError(f"{name} must be numeric, given {what}; convert or leave out such columns")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite
            return np.array(array, dtype=np.float32 if array.dtype.itemsize <= 4 else np.float64, order="C")
    return np.array(array, dtype=np.int64 if array.dtype != np.uint64 else np.float64, order="C")


def _from_objects(value: Any, array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Python numbers one by one, for text that looks like a number would pass as one."""
    numbers = np.empty(array.size, dtype=np.float64)
    for place, cell in enumerate(array.flat):
        try:
            if isinstance(cell, str | bytes):
                raise TypeError
            numbers[place] = float(cell)
        except (TypeError, ValueError, OverflowError):
            where = _where(value, np.unravel_index(place, array.shape))
            cell = cell.item() if isinstance(cell, np.generic) else cell  # 'a', not np.str_('a')
            missing = cell is None or type(cell).__name__ in ("NAType", "NaTType")
            cell = cell.item() if isinstance(cell, np.generic) else cell
            what = "a missing cell" if missing else f"{_short(cell)} ({type(cell).__name__})"
            advice = "drop or fill missing cells first" if missing else "encode or leave out such columns"
            raise UserError(f"{name} must be numeric, given {what} at {where}; {advice}") from None
    return numbers.reshape(array.shape)


def _refuse(value: Any, tensor: Tensor, name: str, allow: Allowed) -> None:
    """Name the first value that is not allowed, and how many there are."""
    bad = ~tensor.isfinite() if allow == "finite" else tensor.isnan()
    if not bad.any():
        return
    place = bad.nonzero()[0].tolist()
    found = tensor[tuple(place)].item()
    shown = "NaN" if found != found else found
    where = _where(value, place)
    accepted, kinds = ("finite", "NaN or infinite") if allow == "finite" else ("numbers", "NaN")
    raise UserError(
        f"{name} must be {accepted}, given {shown} at {where} ({kinds} in all: {int(bad.sum())}); "
        "drop or fill them first"
    )


def _where(value: Any, place: Any) -> str:
    """A place in words; columns by their names where there are names."""
    places: list[Any] = [int(i) for i in place]
    columns = getattr(value, "columns", None)
    if columns is not None and len(places) == 2:
        places[1] = repr(str(columns[places[1]]))
    axes = _AXES.get(len(places))
    return (
        f"index {places}" if axes is None else ", ".join(f"{a} {i}" for a, i in zip(axes, places, strict=True))
    )


def _short(cell: Any) -> str:
    words = repr(cell)
    return words if len(words) <= 40 else f"{words[:37]}..."
