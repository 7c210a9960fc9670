"""What of a table is left out or matched by a guess: never rows, never in silence."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from iclkit.cli import actions, tables
from iclkit.data import bounds, opened, read_table
from iclkit.errors import UserError


def written(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "names", "values", "note"),
    [
        # Comments stand before the header only; what begins with # later is a row.
        ("rank,a\n#1,5\n2,6\n", ("a",), [[5], [6]], None),
        ("# one\n# two\nrank,a\n#1,5\n", ("a",), [[5]], "2 lines that begin with # before the first row"),
        ("# height,weight\n1,2\n", ("height", "weight"), [[1, 2]], None),
        ("# height weight\n1 2\n", ("height", "weight"), [[1, 2]], None),
        ("# by hand\n# height,weight\n1,2\n", ("height", "weight"), [[1, 2]], "1 line that begins with #"),
        ("#,a\n1,2\n", ("#", "a"), [[1, 2]], None),
        ("# x,y\na,b\n1,2\n", ("a", "b"), [[1, 2]], "1 line that begins with #"),
        ("# 7,8\n1,2\n", ("column 1", "column 2"), [[1, 2]], "1 of them look like rows"),
        ("# x\n1,2\n", ("column 1", "column 2"), [[1, 2]], "1 line that begins with #"),
        ('"#a",b\n1,2\n', ("#a", "b"), [[1, 2]], None),
        ("a,b\n1,2\n,\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]], "2 rows without any value"),
        ("a;b\n1,5;2\n", ("a", "b"), [[1.5, 2]], "'1,5' as 1.5"),
        ("0,1\n0.5,2\n", ("0", "1"), [[0.5, 2]], "is read as a header"),
        ("1,2\n0.5,2\n", ("column 1", "column 2"), [[1, 2], [0.5, 2]], "is read as a row"),
        ("label;x,y\n1;2,5\n", ("label", "x,y"), [[1, 2.5]], "decimal"),
        ("kind,x\n1,2\n", ("kind", "x"), [[1, 2]], None),
    ],
)
def test_what_is_left_out_or_guessed_is_noted(
    tmp_path: Path, content: str, names: tuple[str, ...], values: list[list[float]], note: str | None
) -> None:
    table = read_table(written(tmp_path, content), ["a"] if content.startswith(("rank", "# one")) else None)
    assert (table.names, table.values.tolist()) == (names, values)
    assert (note is None) == (not table.notes)
    assert note is None or any(note in told for told in table.notes)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("#N/A,2\n1,2\n", {}, r"missing \('#N/A'\)"),
        ("a,b\n1,2\n#N/A,2\n", {}, r"line 3, column 'a': the value is missing \('#N/A'\)"),
        ("a,b\n# units,kg\n1,2\n", {}, "comments only before the header"),
        ('id,note\n1,"x\n2,y\n3,"z\n', {"columns": ["id"]}, "a quote is not closed"),
        ('id,x\n1,2\n3,"4\n', {}, "a quote is not closed"),
        ("a,b\n1,2\nTotal\n", {"subsample": 1}, "line 3 has 1 columns"),
        ("kind,x\nsetosa,1\n", {}, "if the column holds words, leave it out by --columns"),
        ("x,y\n1,2\n", {"columns": ["²"]}, "unknown column"),
        ("x,y\n1,2\n", {"columns": ["9" * 5000]}, "columns are numbered 1 to 2"),
        ("x,y\n1,2\n", {"columns": ["x,y"]}, "separate columns by spaces: x y"),
        ("x,y\n1,2\n", {"columns": []}, "no column"),
        ("x,y\n1,2\n", {"delimiter": '"'}, "cannot separate numbers"),
        ("\x1b[2J,y\na,2\n", {}, r"\\x1b\[2J"),
        ("x,y\n1,\x1b[2J\n", {}, r"\\x1b\[2J"),
    ],
)
def test_nothing_is_dropped_by_a_guess(
    tmp_path: Path, content: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        read_table(written(tmp_path, content), **options)  # pyright: ignore[reportArgumentType]
    assert str(told.value).isprintable()


def test_a_header_of_savetxt_matches_points_in_another_order(tmp_path: Path) -> None:
    rows = np.arange(6.0).reshape(3, 2)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", header="height,weight")
    context = read_table(tmp_path / "a.csv")
    np.testing.assert_array_equal(context.values, rows)
    points = read_table(written(tmp_path, "weight,height,age\n70,170,3\n", "p.csv"), like=context)
    assert points.values.tolist() == [[170, 70]]
    assert any("1 column of" in told and "left out: age" in told for told in points.notes)


def test_points_without_names_are_matched_by_place_and_that_is_said(tmp_path: Path) -> None:
    data = written(tmp_path, "x,y\n1,2\n")
    context = read_table(data, ["2", "1"])
    bare = read_table(written(tmp_path, "3,4\n", "bare.csv"), ["2", "1"], like=context)
    assert bare.values.tolist() == [[4, 3]]
    assert any("by place" in told for told in bare.notes)
    with pytest.raises(UserError, match="cannot be matched by name"):
        read_table(written(tmp_path, "3,4,5\n", "wide.csv"), like=context)


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to("loop.csv")

    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in (("endless", "not a regular"), ("loop", "cannot be read"), ("pipe", "is a pipe")):
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / f"{name}.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1.5," * (bounds.LONGEST_ROW // 2), "line 1 is longer than"),
        (b"a,b\n" + b"0" * 4096 + b"\0" * (2 * bounds.LONGEST_ROW), "line 2 is longer than"),
        (b"\0" * 10_000, "no text file"),
        (b"1," * 150_000, "at most 100,000 are accepted"),
        (b"#\n" * (bounds.MOST_COMMENTS + 2), "more than 100,000 lines"),
    ],
)
def test_bounds_come_before_work(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(written(tmp_path, content))


def test_many_columns_are_read(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(20_000)]
    path = written(tmp_path, ",".join(names) + "\n" + ",".join(["1.5"] * 20_000) + "\n")
    assert read_table(path, names).values.shape == (1, 20_000)


def test_an_array_holds_just_what_its_header_states(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((10, 2)))
    whole = (tmp_path / "a.npy").read_bytes()
    np.savez(tmp_path / "b.npz", x=np.ones(3))
    for content, message in (
        (whole.replace(b"(10, 2)", b"(1, 2) "), "its header states|its header speaks"),
        (whole.replace(b"(10, 2)", b"(9999999999999999999999, 2)"), "not a whole .npy"),
        (whole.replace(b"'<f8'", b"[1,2]"), "not a whole|named fields"),
        ((tmp_path / "b.npz").read_bytes(), "it is an archive"),
    ):
        with pytest.raises(UserError, match=message):
            read_table(written(tmp_path, content, "c.npy"))


def test_a_table_comes_in_by_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(b"x,y\n1,2\n")
    assert read_table("-").values.tolist() == [[1, 2]]
    content = io.BytesIO()
    np.save(content, np.array([[1.0, 2.0]]))
    given(content.getvalue())
    assert read_table("-").values.tolist() == [[1, 2]]
    monkeypatch.setattr(opened, "MOST_PIPED", 1000)
    given(b"1,2\n" * 1000)
    with pytest.raises(UserError, match="come in by the pipe"):
        read_table("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="closed"):
        read_table("-")


def test_tables_are_written_as_their_names_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.array([[0.1, 1e-300], [-2.0, 3.0]])
    tables.write(tmp_path / "a.npy", ["x", "y"], values)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
    assert "its columns are x, y" in capsys.readouterr().err
    tables.write(tmp_path / "a.tsv", ["x", "y"], values)
    assert (tmp_path / "a.tsv").read_text().startswith("x\ty\n0.1\t1e-300\n")
    tables.write(tmp_path / "a.csv", ["\x1b[2J", "=HYPERLINK(0)"], values)
    assert (tmp_path / "a.csv").read_text().startswith("\\x1b[2J,=HYPERLINK(0)\n")
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "written escaped" in told
    assert "for formulas: '=HYPERLINK(0)'" in told
    with pytest.raises(UserError, match=r"written as \.csv, \.tsv or \.npy"):
        tables.check(tmp_path / "a.xlsx", False, [])


def test_options_may_stand_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y\n1,2\n")
    parser = actions.data_parser("energy score", "", "energy-2d")
    given = parser.parse(["--seed", "3", "--columns", "2", "1", str(path)])
    assert (given.data, given.columns, given.seed) == (path, ["2", "1"], 3)
    assert parser.parse(["--columns", "2", "--", str(path)]).data == path
    with pytest.raises(UserError, match="DATA is missing"):
        parser.parse(["--columns", "2", "1"])
