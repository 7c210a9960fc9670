"""Users' tables, altered: text and arrays with flipped bits, cut, of other kinds, read with odd options."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from iclkit.cli import tables
from iclkit.data import LARGEST, Table, read_table
from iclkit.errors import UserError, shown

from . import Findings

_HEADER = "height,weight,age\n"
_ROWS = [(170.5, 70.25, 30), (-1.5, 2e-3, 4), (0.0, 1e5, 12), (3.25, -7.0, 55)]
_TOKENS = [
    *(b"\0", b'"', b"'", b"#", b"# ", b"\r", b"\r\n", b"\n\n", b",", b",,,,", b";", b"\t", b" ", b"_", b"|"),
    *(b"\x1b[2J", b"\x1b]0;x\x07", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xb2\x80", b"\xc2\x85", b"\xe2\x80\xa8"),
    *("²".encode(), "١٢".encode(), "１".encode(), "−1".encode(), "½".encode(), "\u202e".encode()),
    *(
        b"nan",
        b"inf",
        b"-inf",
        b"1e999",
        b"1e-999",
        b"1_0",
        b"0x1p3",
        b"#N/A",
        b"NA",
        b"None",
        b"1,5",
        b"1.5.5",
    ),
    *(b"9" * 400, b"9" * 5000, b"0." + b"3" * 3000, b"1e" + b"9" * 30, b"=HYPERLINK(0)", b"@x", b"+x", b"-x"),
    *(b"setosa", b"Total", b"x" * 140_000, b'"' + b"y" * 140_000, b"{'a': 1}", b"[" * 3000, b"(" * 3000),
    *(b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b", b"\x80\x04\x95", b"__import__('os').mkdir('ran')", b"%s%n"),
]
_SHAPES = [
    "()",
    "(0, 3)",
    "(3, 0)",
    "(-1, 3)",
    "(4, 3, 1)",
    "(12,)",
    "(99999999999999999999, 3)",
    "(3, 1000000000)",
]
_SHAPES += [
    "(4, 3",
    "4, 3)",
    "(True, 3)",
    "(4L, 3L)",
    "(4.0, 3)",
    "(" * 2000,
    "(2, 3)",
    "(4611686018427387904, 4)",
]
_TYPES = [
    "'|O'",
    "'<f8'",
    "'<f2'",
    "'<f16'",
    "'<c16'",
    "'|b1'",
    "'|S8'",
    "'<U4'",
    "'<M8[ns]'",
    "'|V8'",
    "'<i3'",
]
_TYPES += ["[('a', '<f8')]", "'f8,f8'", "''", "'<f99999'", "__import__('os')", "'<e'", "'>u1'", "None", "8"]
_COLUMNS: list[Any] = [
    None,
    ["1"],
    ["²"],
    ["١"],
    ["height", "age"],
    ["3", "1"],
    ["0"],
    ["-1"],
    ["9" * 5000],
    [""],
]
_COLUMNS += [["\x1b[31m"], ["1,2"], [1, 2], ["height", "height"], [], "height", ["1.0"], [" "], ["x" * 100_000]]
_DELIMITERS = [
    "auto",
    "auto",
    "auto",
    "comma",
    "tab",
    "space",
    "semicolon",
    "|",
    ",",
    '"',
    "\n",
    "\\t",
    "1",
    "#",
    "",
    "é",
]


class _Code:
    """Unpickled, it would make a folder."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


def run(count: int, seed: int) -> Findings:
    """Read so many altered tables.

    Args:
        count: How many.
        seed: Seed of the alterations; trial k of a seed is always the same.
    """
    found = Findings()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            os.mkfifo("pipe")
            os.mkdir("folder")
            for trial in range(count):
                _trial(found, random.Random(f"{seed} {trial}"), f"table {trial} of seed {seed}")
            if Path("ran").exists():
                found.append("code from a file was executed")
        finally:
            os.chdir(before)
    return found


def _trial(found: Findings, draw: random.Random, name: str) -> None:
    content, suffix = draw.choice(_BASES)(draw)
    told = []
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3, 6])):
        change = draw.choice(_CHANGES)
        content = change(draw, content)
        told.append(change.__name__.strip("_"))
    if draw.random() < 0.1:
        suffix = draw.choice([".csv", ".npy", ".npz", ".tsv", ".txt", ""])
    path = _placed(draw, content, f"table{suffix}")
    options = _options(draw)
    with found.trial(f"{name} ({path}: {', '.join(told)}; {str(options)[:200]})", UserError):
        table = read_table(path, **options)
        _check(table)
        _check(_rewritten(draw, table))
    for left in (path, Path("folder") / path.name):
        if left.name.startswith("table"):
            left.unlink(missing_ok=True)


def _check(table: Table) -> None:
    rows, columns = table.values.shape
    assert rows >= 1
    assert columns == len(table.names) == len(table.places) <= table.width
    assert (np.abs(table.values) < LARGEST).all()
    assert all(table.names)


def _rewritten(draw: random.Random, table: Table) -> Table:
    """The table as the command line writes and reads it, its notes without what acts on a terminal."""
    out = Path(draw.choice(["out.csv", "out.npy", "out.tsv"]))
    with contextlib.redirect_stderr(io.StringIO()) as told:
        tables.write(out, table.names, table.values)
        again = read_table(out, header="yes")
    for line in told.getvalue().splitlines():
        assert shown(line) == line, line
    np.testing.assert_array_equal(again.values, table.values)
    if out.suffix != ".npy":
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out.read_text()), "control characters"
    return again


def _options(draw: random.Random) -> dict[str, Any]:
    like = Table(np.ones((1, 2)), ("height", "weight"), draw.random() < 0.5, 1, (0, 1), 3)
    options = {
        "columns": draw.choice(_COLUMNS),
        "dim": draw.choice([None, None, 1, 2, 3]),
        "max_rows": draw.choice([None, 1, 3, 64]),
        "subsample": draw.choice([None, None, 0, 1, 2, 10**12]),
        "target": draw.choice([None, None, "age", "3", "²", 1, "nothing"]),
        "like": draw.choice([None, None, like]),
        "delimiter": draw.choice(_DELIMITERS),
        "header": draw.choice(["auto", "auto", "yes", "no", "maybe"]),
    }
    # Most mistakes hide those behind them.
    return {name: options[name] for name in draw.sample(sorted(options), draw.choice([0, 0, 1, 1, 2]))}


def _placed(draw: random.Random, content: bytes, name: str) -> Path:
    """The file, or once in a while what is none."""
    path = Path(name)
    kind = draw.randrange(60)
    if kind == 0:
        path.symlink_to(draw.choice(["/dev/zero", "/dev/urandom", "/dev/full", "pipe", name, "nothing", "."]))
    elif kind == 1:
        return Path(draw.choice(["pipe", ".", "/dev/zero", "nothing", "x" * 300, "pipe/x", "\x1b[2J.csv"]))
    elif kind == 2:
        path.write_bytes(content)
        os.truncate(path, 10**12)  # a hole, which takes no room
    elif kind == 3:
        path.write_bytes(content + draw.choice([b"1,", b"1", b"\n", b"#\n", b",\n", b'"', b"\0"]) * 3_000_000)
    elif kind == 4:
        (Path("folder") / name).write_bytes(content)
        path.symlink_to(Path("folder") / name)
    else:
        path.write_bytes(content)
    return path


# Tables as people have them.


def _text(draw: random.Random) -> tuple[bytes, str]:
    delimiter, suffix = draw.choice([(",", ".csv"), (";", ".csv"), ("\t", ".tsv"), (" ", ".txt")])
    rows = [[repr(value) for value in row] for row in _ROWS]
    if delimiter == ";" and draw.random() < 0.5:
        rows = [[cell.replace(".", ",") for cell in row] for row in rows]
    if draw.random() < 0.2:
        rows = [[f'"{cell}"' for cell in row] for row in rows]
    if draw.random() < 0.2:
        rows = [[draw.choice(["a", "#1", '"b\nc"', "NA"]), *row[1:]] for row in rows]
    head = draw.choice(
        [_HEADER, _HEADER, "", "# " + _HEADER, "# by hand\n" + _HEADER, "\n\n" + _HEADER, "0,1,2\n"]
    )
    end = draw.choice(["\n", "\r\n", "\r"])
    text = head.replace(",", delimiter) + "".join(delimiter.join(row) + "\n" for row in rows)
    encoding = draw.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"])
    return text.replace("\n", end).encode(encoding), suffix


def _array(draw: random.Random) -> tuple[bytes, str]:
    dtype = draw.choice(
        ["<f8", "<f8", "<f4", "<f2", ">f8", "<i8", "|u1", "<f16", "|b1", "<c16", "<U5", "<M8[s]"]
    )
    with np.errstate(over="ignore"):
        array = np.array(_ROWS).astype("i8" if dtype[1] in "ubM" else "f8").astype(dtype)
    array = draw.choice([array, np.asfortranarray(array), array[:, 0], array[:, None], array[:0]])
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=draw.choice([None, (1, 0), (2, 0), (3, 0)]))
    return file.getvalue(), ".npy"


def _archive(draw: random.Random) -> tuple[bytes, str]:
    file = io.BytesIO()
    np.savez(file, x=np.array(_ROWS))
    return file.getvalue(), draw.choice([".npy", ".npz", ".csv"])


def _objects(draw: random.Random) -> tuple[bytes, str]:
    if draw.random() < 0.5:
        return pickle.dumps(_Code()), draw.choice([".npy", ".pkl", ".csv"])
    file = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = _Code()
    np.save(file, array, allow_pickle=True)
    return file.getvalue(), ".npy"


_BASES = [_text, _text, _text, _text, _array, _array, _array, _archive, _objects]


# Alterations.


def _flip(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        if changed:
            # The first bytes say what the others mean.
            place = draw.randrange(min(len(changed), draw.choice([12, 130, len(changed)])))
            changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _lose(draw: random.Random, content: bytes) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[min(end, start + 40) :]


def _double(draw: random.Random, content: bytes) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * draw.choice([1, 1, 2, 50]) + content[end:]


def _insert(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(_TOKENS) * draw.choice([1, 1, 1, 3]) + content[place:]


def _noise(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.choice([1, 4, 64])) + content[place:]


def _cell(draw: random.Random, content: bytes) -> bytes:
    cells = re.split(rb"([,;\t\n ])", content)
    cells[draw.randrange(len(cells))] = draw.choice(_TOKENS)
    return b"".join(cells)


def _lines(draw: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


def _shape(draw: random.Random, content: bytes) -> bytes:
    return re.sub(rb"\([0-9, ]*\)", draw.choice(_SHAPES).encode(), content, count=1)


def _type(draw: random.Random, content: bytes) -> bytes:
    return re.sub(rb"'[<>|][a-zA-Z][0-9]+'", draw.choice(_TYPES).encode(), content, count=1)


def _join(draw: random.Random, content: bytes) -> bytes:
    return content + draw.choice(_BASES)(draw)[0]


_CHANGES = [
    _flip,
    _flip,
    _cut,
    _lose,
    _double,
    _insert,
    _insert,
    _noise,
    _cell,
    _cell,
    _lines,
    _shape,
    _type,
    _join,
]
