"""Users' numbers: arrays, DataFrames, lists and tensors become the same tensor, and mistakes one line."""

from __future__ import annotations

import datetime
import decimal
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from iclkit.arrays import as_tensor
from iclkit.errors import UserError

ROWS = [[1.0, 2.5], [3.0, -4.0], [5.0, 6.25]]
X = np.array(ROWS)


def read_only() -> np.ndarray[Any, Any]:
    array = X.copy()
    array.flags.writeable = False
    return array


SAME: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
    "array": (lambda: X, torch.float64),
    "float32": (lambda: X.astype(np.float32), torch.float32),
    "float16": (lambda: X.astype(np.float16), torch.float32),
    "long double": (lambda: X.astype(np.longdouble), torch.float64),
    "big endian": (lambda: X.astype(">f8"), torch.float64),
    "Fortran order": (lambda: np.asfortranarray(X), torch.float64),
    "reversed rows": (lambda: X[::-1].copy()[::-1], torch.float64),
    "reversed columns": (lambda: X[:, ::-1].copy()[:, ::-1], torch.float64),
    "every other": (lambda: X.repeat(2, 0)[::2], torch.float64),
    "read-only": (read_only, torch.float64),
    "matrix": (lambda: np.ma.masked_array(X), torch.float64),
    "objects": (lambda: X.astype(object), torch.float64),
    "list": (lambda: ROWS, torch.float64),
    "list of arrays": (lambda: list(X), torch.float64),
    "list of tensors": (lambda: list(torch.tensor(ROWS)), torch.float64),
    "decimals": (lambda: [[decimal.Decimal(str(v)) for v in row] for row in ROWS], torch.float64),
    "tensor": (lambda: torch.tensor(ROWS), torch.float32),
    "transposed tensor": (lambda: torch.tensor(ROWS).T.contiguous().T, torch.float32),
    "half tensor": (lambda: torch.tensor(ROWS).half(), torch.float16),
    "pandas": (lambda: pd.DataFrame(X, columns=["a", "b"]), torch.float64),
    "pandas backwards": (lambda: pd.DataFrame(X[::-1], columns=["a", "b"]).iloc[::-1], torch.float64),
    "pandas, nullable": (lambda: pd.DataFrame(X).convert_dtypes(), torch.float64),
    "polars": (lambda: pl.DataFrame(X, schema=["a", "b"]), torch.float64),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_in_every_form(kind: str) -> None:
    make, dtype = SAME[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_tensor(make(), "x")
    assert found.dtype == dtype
    assert found.tolist() == ROWS


@pytest.mark.parametrize(
    "value",
    [
        [[True, False]],
        np.array([[True, False]]),
        np.array([[1, 0]], dtype=np.uint8),
        np.array([[1, 0]], dtype=np.uint64),
        torch.tensor([[1, 0]]),
        torch.tensor([[True, False]]),
        pd.DataFrame({"a": [True], "b": [0.0]}),
        pl.DataFrame({"a": [True], "b": [False]}),
    ],
)
def test_whole_numbers_and_booleans_are_numbers(value: Any) -> None:
    found = as_tensor(value, "x")
    assert found.dtype == torch.float64
    assert found.tolist() == [[1.0, 0.0]]
    single = as_tensor(value, "x", dtype=torch.float32)
    assert single.dtype == torch.float32


def test_lists_get_the_default_and_arrays_keep_their_own() -> None:
    assert as_tensor(ROWS, "x", default=torch.float32).dtype == torch.float32
    assert as_tensor(X, "x", default=torch.float32).dtype == torch.float64


def test_arrays_are_copied() -> None:
    array = X.copy()
    found = as_tensor(array, "x")
    array[:] = 0
    assert found.tolist() == ROWS


def test_tensors_keep_their_graph() -> None:
    leaf = torch.ones(2, requires_grad=True)
    as_tensor(leaf, "x").sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("value", [X, torch.tensor(X), ROWS])
def test_what_comes_in_under_inference_mode_can_be_differentiated_later(value: Any) -> None:
    with torch.inference_mode():
        inside = value.clone() if isinstance(value, torch.Tensor) else value
        found = as_tensor(inside, "x")
    weight = torch.ones(2, dtype=found.dtype, requires_grad=True)
    (found @ weight).sum().backward()
    assert weight.grad is not None


def test_the_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        assert as_tensor(X, "x").device.type == "cpu"
        assert as_tensor(ROWS, "x", default=torch.float32).device.type == "cpu"


REFUSED: dict[str, tuple[Any, str]] = {
    "text": ("abc", "must be an array, a DataFrame, a list or a tensor of numbers, given a str"),
    "none": (None, "given a NoneType"),
    "dictionary": ({"a": [1.0]}, "given a dict"),
    "generator": ((i for i in range(3)), "given a generator; turn it into a NumPy array first"),
    "ragged": ([[1.0], [2.0, 3.0]], "must be numeric and rectangular, given list"),
    "strings": (np.array([["1", "2"]]), r"must be numeric, given .*'1'.* at row 0, column 0; encode"),
    "a string among numbers": (np.array([[1.0, "2"]], dtype=object), "given '2' .str. at row 0, column 1"),
    "a column of text": (pd.DataFrame({"a": [1.0], "city": ["Bonn"]}), "'Bonn' .str. at row 0, column 'city'"),
    "polars text": (pl.DataFrame({"a": [1.0], "city": ["Bonn"]}), "'Bonn' .str. at row 0, column 'city'"),
    "missing": (pd.DataFrame({"a": [1, pd.NA]}, dtype=object), "a missing cell at row 1, column 'a'"),
    "none inside": ([[1.0, None]], "a missing cell at row 0, column 1; drop or fill"),
    "polars null": (pl.DataFrame({"a": [1.0, None]}), "must be finite, given NaN at row 1, column 'a'"),
    "masked": (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), "has masked cells"),
    "dates": (np.array([["2020-01-01"]], dtype="datetime64[D]"), "given dates or times"),
    "date": ([[datetime.date(2020, 1, 1)]], "datetime.date"),
    "complex": (X + 1j, "real numbers, given complex128"),
    "complex tensor": (torch.ones(2, 2) + 1j, "real numbers"),
    "sparse tensor": (torch.eye(2).to_sparse(), "dense tensor"),
    "meta tensor": (torch.ones(2, 2, device="meta"), "meta device"),
    "huge": ([[10**400]], r"at row 0, column 0"),
    "nan": (
        np.array([[0.0, 1.0], [2.0, math.nan]]),
        "must be finite, given NaN at row 1, column 1 .NaN or infinite in all: 1",
    ),
    "infinite": (torch.tensor([math.inf, 1.0]), "must be finite, given inf at row 0 "),
    "three axes": (np.full((1, 2, 3), math.nan), r"at index \[0, 0, 0\] .NaN or infinite in all: 6"),
    "long double": (np.array([np.longdouble("1e4000")]), "given inf"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_mistakes_are_one_line(kind: str) -> None:
    value, words = REFUSED[kind]
    with pytest.raises(UserError, match=words) as caught:
        as_tensor(value, "x")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x ")


def test_infinite_values_pass_where_they_are_allowed() -> None:
    assert as_tensor([math.inf], "x", allow="infinite").isinf().all()
    assert as_tensor([math.nan], "x", allow="anything").isnan().all()
    with pytest.raises(UserError, match="NaN"):
        as_tensor([math.nan], "x", allow="infinite")
