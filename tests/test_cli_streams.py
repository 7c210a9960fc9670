"""The process around a command: streams that are closed or full, and the environment of a cluster's job."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from iclkit import cli

SCORE = ("energy", "score", "none.csv")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def process(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "iclkit", *argv], text=True, timeout=60, **options)


def full() -> None:
    """In a child: files take 20 bytes and no more, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))


# Processes


@pytest.mark.parametrize("argv", [SCORE, ("train", "nothing"), ("--tarin",)])
@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}])
def test_mistakes_are_told_whatever_a_job_has_set(
    argv: tuple[str, ...],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "29501"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number from 1 on, given 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number from 1 on, given '0'"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE must be a whole number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"},
            "RANK must be at most 1, given 2",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "70000"},
            "MASTER_PORT must be at most 65535, given 70000",
        ),
    ],
)
def test_half_of_a_launcher_s_environment_is_told(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, told_in_one_line
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told_in_one_line(["train", "energy-tiny", "--steps", "1", "--out", "r"], message)
    assert not Path("r").exists()


def test_a_rank_without_others_trains_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "energy-tiny", "--steps", "1", "--out", "r", "--quiet"]) == 0
    assert "iclkit: the run is in r" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mps", "meta", "cuda:99", "cpu:1", "cpuu", ""])
def test_devices_that_are_not_there(device: str, told_in_one_line) -> None:
    told_in_one_line(["train", "energy-tiny", "--out", "r", f"--device={device}"], "device")


# Streams


@pytest.mark.parametrize("argv", [("--help",), ("--version",), ("energy", "--help"), ("energy", "score", "-h")])
def test_a_closed_output_is_told(argv: tuple[str, ...]) -> None:
    child = process(*argv, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert child.returncode == 2
    assert child.stderr.startswith("iclkit: error: standard output is closed")
    assert child.stderr.count("\n") == 1


def test_a_closed_output_is_told_before_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("d.csv").write_text("x,y\n1,2\n2,3\n4,4\n5,7\n")
    monkeypatch.setattr("iclkit.training.models.load", lambda *_: pytest.fail("the work has begun"))
    for argv in (["score"], ["sample", "--size", "3"]):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            assert cli.main(["energy", argv[0], "d.csv", *argv[1:]]) == 2
            assert sys.stdout is None
        assert "standard output is closed" in capsys.readouterr().err


def test_a_closed_error_stream_leaves_the_output_alone() -> None:
    child = process(*SCORE, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert (child.returncode, child.stdout) == (2, "")
    child = process("--version", stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert (child.returncode, child.stdout) == (0, "iclkit 0.1.0\n")


def test_files_do_not_take_the_place_of_closed_streams() -> None:
    script = "import os; from iclkit.cli import main; main(); print(os.open('f', os.O_CREAT | os.O_WRONLY))"
    child = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=lambda: (os.close(0), os.close(2)),
    )
    assert int(child.stdout) > 2


def test_a_full_disk_behind_the_output_is_told() -> None:
    with open("out", "w") as out:
        child = process("--help", stdout=out, stderr=subprocess.PIPE, preexec_fn=full)
    assert child.returncode == 2
    assert child.stderr == "iclkit: error: standard output: File too large\n"


def test_a_full_disk_behind_the_messages_changes_nothing() -> None:
    with open("err", "w") as err:
        child = process(*SCORE, stdout=subprocess.PIPE, stderr=err, preexec_fn=full)
    assert (child.returncode, child.stdout) == (2, "")
    with open("err", "w") as err:
        child = process("--version", stdout=subprocess.PIPE, stderr=err, preexec_fn=full)
    assert (child.returncode, child.stdout) == (0, "iclkit 0.1.0\n")


def test_messages_do_not_act_on_a_terminal(told_in_one_line) -> None:
    told_in_one_line(["energy", "score", "\x1b[2Jnone.csv"], "there is no file \\x1b[2Jnone.csv")
    told_in_one_line(["train", "\x1b]0;title\x07"], "\\x1b]0;title\\x07")


def test_a_fault_of_the_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(argv: list[str]) -> None:
        raise KeyError("a\nb")

    monkeypatch.setattr("iclkit.cli.recipes.run", fault)
    assert cli.main(["recipes"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("iclkit: error: unexpected KeyError: ")
    assert err.count("\n") == 1
    monkeypatch.setenv("ICLKIT_TRACEBACK", "1")
    assert cli.main(["recipes"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_message_at_exit_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("iclkit.cli.recipes.run", lambda argv: sys.exit("why it ended"))
    assert cli.main(["recipes"]) == 2
    assert capsys.readouterr().err == "iclkit: error: why it ended\n"
