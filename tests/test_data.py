"""Users' tables: what is read from which bytes, and how each mistake in a file is told."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclkit.data import read_table, refuse_constant_columns
from iclkit.errors import UserError


def written(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "values", "names"),
    [
        ("x,y\n1,2\n3,4\n", [[1, 2], [3, 4]], ("x", "y")),
        ("1,2\n3,4", [[1, 2], [3, 4]], None),
        ("\ufeffx,y\r\n1,-2e-1\r\n", [[1, -0.2]], ("x", "y")),
        ('"x, in m";"y"\n1,5;2\n3;"4,25"\n', [[1.5, 2], [3, 4.25]], ("x, in m", "y")),
        ("a\tb\n1\t2\n", [[1, 2]], ("a", "b")),
        ("a b\n 1   2 \n3 4\n", [[1, 2], [3, 4]], ("a", "b")),
        ("x, y\n1, 2\n", [[1, 2]], ("x", "y")),
        ("# made by hand\n\nx,y\n\n1,2\n\n", [[1, 2]], ("x", "y")),
        ("x\n1\n2\n", [[1], [2]], ("x",)),
        ("x,y\n1,2\n".encode("utf-16"), [[1, 2]], ("x", "y")),
        ("länge,y\n1,2\n", [[1, 2]], ("länge", "y")),
        (",y\n1,2\n", [[1, 2]], ("column 1", "y")),
        # pandas counts columns that have no names; a row of whole numbers above others is data.
        ("0,1\n1.5,2.5\n", [[1.5, 2.5]], ("0", "1")),
        ("0,1\n1,0\n", [[0, 1], [1, 0]], None),
    ],
)
def test_text_is_understood(
    tmp_path: Path, content: str | bytes, values: list[list[float]], names: tuple[str, ...] | None
) -> None:
    table = read_table(written(tmp_path, content))
    assert table.values.tolist() == values
    assert table.names == (names or tuple(f"column {i + 1}" for i in range(len(values[0]))))
    assert table.named == (names is not None)
    assert table.rows == len(values)


def test_delimiter_and_header_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, "2020|2021\n1|2\n")
    assert read_table(path, delimiter="|", header="yes").names == ("2020", "2021")
    assert read_table(path, delimiter="|", header="no").values.tolist() == [[2020, 2021], [1, 2]]
    assert read_table(written(tmp_path, "1\t2\n"), delimiter="tab").values.tolist() == [[1, 2]]


def test_columns_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = written(tmp_path, "id,x,y\nfirst,1,2\nsecond,3,4\n")
    assert read_table(path, ["y", "x"]).values.tolist() == [[2, 1], [4, 3]]
    assert read_table(path, ["3", 2], dim=2).names == ("y", "x")
    # A name goes before a number.
    assert read_table(written(tmp_path, "2,1\n5.5,6.5\n"), ["1"], header="yes").values.tolist() == [[6.5]]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("x,y\n", {}, "has a header but no rows"),
        ("x,y\n1,2\n3,abc\n", {}, r"line 3, column 'y': 'abc' is not a number$"),
        ("x,y\n\n\n1,2\n3,abc\n", {}, r"line 5, column 'y'"),
        ("1,abc\n2,3\n", {}, r"line 1, column 'column 2': 'abc' is not a number; if .* --header yes"),
        ("x,y\n1,1_000\n", {}, "'1_000' is not a number"),
        ("x,y\n1,\n", {}, r"line 2, column 'y': the value is missing"),
        ("x,y\n1,NA\n", {}, r"missing \('NA'\)"),
        ("x,y\nnan,1\n", {}, r"line 2, column 'x': the value is missing \('nan'\)"),
        ("x,y\n1,-inf\n", {}, "infinite"),
        ("x,y\n1,1e999\n", {}, "infinite or too large"),
        ("x,y\n1,2\n3\n", {}, "line 3 has 1 columns, the lines before it 2"),
        ("a,b,c\n1,2,3\n", {"dim": 2}, r"has 3 columns \(a, b, c\), the model takes 2; .* --columns 1 2"),
        ("a\n1\n", {"dim": 2}, r"has 1 column \(a\), the model takes 2$"),
        ("a,b,c\n1,2,3\n", {"dim": 2, "columns": ["a"]}, r"1 column chosen \(a\), the model takes 2"),
        ("petal,b\n1,2\n", {"columns": ["pedal"]}, "did you mean 'petal'"),
        ("a,b\n1,2\n", {"columns": ["3"]}, "columns are numbered 1 to 2"),
        ("a,b\n1,2\n", {"columns": ["0"]}, "columns are numbered 1 to 2"),
        ("a,b\n1,2\n", {"columns": ["a", "1"]}, "chosen twice"),
        ("a,a\n1,2\n", {"columns": ["a"]}, "2 columns 'a'; choose by numbers"),
        ("1;2,5\n1.5;3\n", {}, "mixes decimal commas and decimal points"),
        ("1,2\n3,4\n5,6\n", {"max_rows": 2, "advice": "take fewer"}, "3 rows, at most 2 .*; take fewer"),
        ("1,2\n", {"subsample": 0}, "at least 1 row, given 0"),
        ("1,2\n", {"delimiter": "commma"}, "did you mean 'comma'"),
        ("1,2\n", {"header": "maybe"}, "unknown header 'maybe'"),
        (b"PK\x03\x04\x14\x00\x08\x00", {}, "is no text file"),
        (b"\x00\x01\x02\x03", {}, "is no text file"),
        ("länge\n1\n".encode("latin-1"), {}, "not UTF-8"),
        ('"' + "a" * 200_000 + '\n1"', {}, "cannot be read"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        read_table(written(tmp_path, content), **options)
    assert "\n" not in str(told.value)


def test_no_file_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="not a regular file"):
        read_table(tmp_path)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", ">f8"])
def test_arrays_of_numbers_are_read(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]], dtype=dtype))
    table = read_table(tmp_path / "a.npy", dim=2)
    assert table.values.dtype == np.float64
    assert table.values.tolist() == [[1, 2], [3, 4]]


def test_array_of_one_axis_is_one_column(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3.0))
    assert read_table(tmp_path / "a.npy").values.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1, None]], dtype=object), "Python objects"),
        (np.array([["a", "b"]]), "floats and integers are accepted"),
        (np.ones((2, 2), dtype=complex), "floats and integers are accepted"),
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array(1.0), r"shape \(\)"),
        (np.ones((0, 2)), "is empty"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 2, column 2: nan"),
        (np.array([[1.0, -np.inf]]), "row 1, column 2: -inf"),
        (np.ones((3, 5)), "has 5 columns"),
    ],
)
def test_arrays_of_anything_else_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "a.npy", dim=2)


def test_damaged_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((100, 2)))
    whole = (tmp_path / "a.npy").read_bytes()
    for size in (len(whole) - 1, 130, 60, 7):
        path = written(tmp_path, whole[:size], "cut.npy")
        with pytest.raises(UserError, match="truncated"):
            read_table(path)


def test_subsample_is_a_seeded_choice_of_whole_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 2))
    np.save(tmp_path / "a.npy", rows)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", fmt="%.17g")
    first = read_table(tmp_path / "a.csv", subsample=50, max_rows=50)
    assert first.rows == 200
    assert len(first.values) == 50
    # In the file's order, no row twice: the positions of the drawn rows ascend.
    places = [int(np.flatnonzero((rows == row).all(1))[0]) for row in first.values]
    assert places == sorted(set(places))
    again = read_table(tmp_path / "a.npy", subsample=50)
    np.testing.assert_array_equal(again.values, first.values)
    other = read_table(tmp_path / "a.npy", subsample=50, seed=1)
    assert not np.array_equal(other.values, first.values)
    np.testing.assert_array_equal(read_table(tmp_path / "a.npy", subsample=500).values, rows)


def test_second_table_is_matched_by_name(tmp_path: Path) -> None:
    context = read_table(written(tmp_path, "x,y\n1,2\n"))
    swapped = written(tmp_path, "y,x,z\n2,1,9\n", "swapped.csv")
    assert read_table(swapped, dim=2, like=context).values.tolist() == [[1, 2]]
    bare = written(tmp_path, "1,2\n", "bare.csv")
    assert read_table(bare, ["3", "4"], dim=2, like=context).values.tolist() == [[1, 2]]
    strange = written(tmp_path, "u,y\n1,2\n", "strange.csv")
    with pytest.raises(UserError, match=r"no column 'x' \(it has u, y\)"):
        read_table(strange, dim=2, like=context)
    twice = read_table(written(tmp_path, "x,x\n1,2\n", "twice.csv"))
    assert read_table(written(tmp_path, "x,x\n3,4\n"), dim=2, like=twice).values.tolist() == [[3, 4]]


def test_long_files_are_refused_without_being_held(tmp_path: Path) -> None:
    written(tmp_path, b"1.5,2.5\n" * 120_000, "long.csv")
    np.save(tmp_path / "long.npy", np.ones((1_000_000, 2)))
    tracemalloc.start()
    try:
        for name, rows in (("long.csv", "over 100,000"), ("long.npy", "1,000,000")):
            with pytest.raises(UserError, match=f"has {rows} rows, at most 64"):
                read_table(tmp_path / name, dim=2, max_rows=64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The text alone has 1 MB, its cells as strings 12 MB; the array has 16 MB.
    assert peak < 700_000


def test_constant_columns_are_refused() -> None:
    refuse_constant_columns(np.array([[1.0, 2.0]]), ["x", "y"])
    refuse_constant_columns(np.array([[1.0, 2.0], [1.0 + 1e-12, 3.0]]), ["x", "y"])
    with pytest.raises(UserError, match=r"column 'y' is constant \(always 2\)"):
        refuse_constant_columns(np.array([[1.0, 2.0], [3.0, 2.0]]), ["x", "y"])


def test_reading_needs_no_torch() -> None:
    script = "import sys, iclkit.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
