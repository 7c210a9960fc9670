"""What --out may name: files, links to files, pipes and devices; what was there is safe until the new is."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iclkit import cli
from iclkit.cli import output
from iclkit.errors import UserError
from small_models import save_small_model

SCORE = ("energy", "score", "d.csv", "--model", "./model")
WRITERS: dict[str, tuple[str, ...]] = {
    "energy score": SCORE,
    "energy sample": ("energy", "sample", "d.csv", "--model", "./model", "--size", "3"),
    "energy plot": ("energy", "plot", "d.csv", "--model", "./model", "--samples", "0"),
    "compile": ("compile", "averaging", "--d", "2", "--points", "2"),
}
ENDING = {"energy plot": ".png", "compile": ".svg"}
FLAG = {"compile": "--draw"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_small_model(folder / "model")
    return folder / "model"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    os.symlink(prepared, "model")
    Path("d.csv").write_text("x,y\n1,2\n2,3\n4,4\n5,7\n")
    return tmp_path


def reader(pipe: str) -> tuple[threading.Thread, list[bytes]]:
    """Reads a pipe to its end, aside."""
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(Path(pipe).read_bytes()), daemon=True)
    thread.start()
    return thread, found


# All commands that write one file


@pytest.mark.parametrize("command", WRITERS)
def test_a_link_stays_and_its_file_is_replaced(command: str) -> None:
    ending = ENDING.get(command, ".csv")
    Path("real").write_text("old")
    os.chmod("real", 0o600)
    os.symlink("real", f"link{ending}")
    assert cli.main([*WRITERS[command], FLAG.get(command, "--out"), f"link{ending}", "--force"]) == 0
    assert os.readlink(f"link{ending}") == "real"
    assert Path("real").read_bytes() not in (b"old", b"")
    assert os.stat("real").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("force", [True, False])
def test_a_pipe_is_written_into(command: str, force: bool) -> None:
    name = f"pipe{ENDING.get(command, '.csv')}"
    os.mkfifo(name)
    thread, found = reader(name)
    assert cli.main([*WRITERS[command], FLAG.get(command, "--out"), name, *(["--force"] if force else [])]) == 0
    thread.join(10)
    assert len(found[0]) > 10
    assert Path(name).is_fifo()


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_leaves_the_old_and_names_it(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"old{ENDING.get(command, '.csv')}"
    Path(name).write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir())
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            assert cli.main([*WRITERS[command], FLAG.get(command, "--out"), name, "--force"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"iclkit: error: {name}: No space left on device"
        assert Path(name).read_text() == "old"
        assert sorted(os.listdir()) == before


def test_commands_write_nowhere_else() -> None:
    """What a command writes goes through `output`, by which all of this holds."""
    writes = re.compile(r"\.write_text\(|\.write_bytes\(|\.savefig\(|\bopen\(")
    commands = [
        path for path in Path(cli.__file__).parent.glob("*.py") if path.stem not in ("output", "streams")
    ]
    assert len(commands) > 20
    assert not [path.name for path in commands if writes.search(path.read_text())]


# The file itself


def test_a_pipe_without_a_reader_is_told(monkeypatch: pytest.MonkeyPatch, told_in_one_line) -> None:
    monkeypatch.setattr(output, "_PATIENCE", 0.05)
    os.mkfifo("pipe")
    told_in_one_line([*SCORE, "--out", "pipe", "--force"], "nobody reads from the pipe pipe; start its reader")
    assert Path("pipe").is_fifo()


def test_a_reader_that_leaves_is_told() -> None:
    os.mkfifo("pipe")
    handle = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    threading.Timer(0.2, os.close, [handle]).start()
    with pytest.raises(UserError, match="the reader of pipe left before all was written"):
        output.write(Path("pipe"), bytes(10**7))


def test_a_device_is_written_into() -> None:
    """A terminal of our own; never a device of the machine."""
    ours, theirs = os.openpty()
    try:
        name = Path(os.ttyname(theirs))
        output.check(name, False, [])
        output.write(name, b"numbers")
        assert os.read(ours, 100) == b"numbers"
        assert name.is_char_device()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("kind", "word"), [("socket", "socket"), ("disk", "disk")])
def test_what_no_result_goes_to(kind: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("thing")
    else:  # making one takes rights and leaves a way to a real disk
        Path("thing").touch()
        monkeypatch.setattr("stat.S_ISBLK", lambda mode: True)
    with pytest.raises(UserError, match=f"thing is a {word}, which no result is written to"):
        output.check(Path("thing"), True, [])


def test_links_are_followed_to_where_they_lead(told_in_one_line: Callable[..., None]) -> None:
    os.symlink("new", "to-nothing")
    output.check(Path("to-nothing"), False, [])
    output.write(Path("to-nothing"), b"1")
    assert Path("new").read_bytes() == b"1"
    with pytest.raises(UserError, match="to-nothing exists"):
        output.check(Path("to-nothing"), False, [])
    os.mkdir("folder")
    os.symlink("../d.csv", "folder/input")
    with pytest.raises(UserError, match="is the file that is read"):
        output.check(Path("folder/input"), True, [Path("d.csv")])
    os.symlink("none/file", "astray")
    with pytest.raises(UserError, match=r"the folder .*none does not exist"):
        output.check(Path("astray"), True, [])
    os.symlink("loop", "loop")
    told_in_one_line([*SCORE, "--out", "loop", "--force"], "loop: Too many levels of symbolic links")


def test_long_names_and_names_below_files() -> None:
    name = Path("n" * 255)
    output.check(name, False, [])
    output.write(name, b"1")
    assert name.read_bytes() == b"1"
    with pytest.raises(UserError, match=r"d\.csv is no folder"):
        output.check(Path("d.csv/scores.csv"), True, [])


def test_standard_output_by_name_is_what_is_open(tmp_path: Path) -> None:
    """`>> file` with `--out /dev/stdout` appends; nothing is opened anew or renamed over."""
    Path("log").write_text("before\n")
    with open("log", "a") as log:
        for name in (f"/dev/fd/{log.fileno()}", f"/proc/self/fd/{log.fileno()}"):
            output.check(Path(name), False, [])
            output.write(Path(name), b"after\n")
    assert Path("log").read_text() == "before\nafter\nafter\n"


def test_folders_for_results(monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("none", "link")
    for name, message in (("link", "is a link to nothing"), ("d.csv", "is a file"), ("d.csv/a/b", "is a file")):
        with pytest.raises(UserError, match=message):
            output.check_folder(Path(name), True, "x.json")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to"):
        output.check_folder(Path("a/b"), True, "x.json")


def test_a_link_to_a_folder_takes_results() -> None:
    os.mkdir("real")
    os.symlink("real", "link")
    np.save("d.npy", np.zeros(1))
    argv = ["compare", "ridge(0.5)", "Averaging", "--episodes", "4", "--points", "3", "--out", "link"]
    assert cli.main(argv) == 0
    assert sorted(os.listdir("real")) == ["compare.csv", "compare.md", "compare.png"]
    assert Path("link").is_symlink()
