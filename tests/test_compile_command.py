"""`iclkit compile` and its picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import iclkit
from compiler_programs import CASES, episodes
from iclkit import cli
from iclkit.compiler.compilation import planned
from iclkit.learners import Ridge
from iclkit.report.program_figure import program_figure


@pytest.mark.parametrize("name", ["ridge", "nested"])
def test_pictures_show_every_register(name: str) -> None:
    for target in ("exact", "standard"):
        figure = program_figure(plan := planned(CASES[name].make(3, 4), target), target)
        (axes,) = figure.axes
        assert {label.get_text() for label in axes.get_yticklabels()} == set(plan.registers)
        texts = " ".join(text.get_text() for text in [*figure.texts, *axes.texts])
        assert all(f"{times} times" in texts for *_, times in plan.loops)
        assert all(operation in texts for block in plan.blocks for operation in block.operations)


# The command


def test_the_command_writes_model_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, picture = tmp_path / "model", tmp_path / "picture.png"
    arguments = ["compile", "ridge", "--d", "3", "--points", "6", "--target", "standard", "--penalty", "0.5"]
    assert cli.main([*arguments, "--out", str(model), "--draw", str(picture)]) == 0
    printed = capsys.readouterr().out
    for line in ("layers      35, of which 5 have weights of their own", "layers 1 to 5 are run 7 times"):
        assert line in printed
    assert re.search(r"^P +3×3 +5 to 13$", printed, re.MULTILINE)
    found = re.search(r"largest error against the interpreter: (\S+),", printed)
    assert found is not None
    assert float(found[1]) < 1e-4
    assert picture.read_bytes().startswith(b"\x89PNG")
    x, y = episodes(3, 6)
    torch.testing.assert_close(iclkit.load(model).predict(x, y), Ridge(0.5).predict(x, y), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rigde", "unknown program 'rigde'; did you mean 'ridge'"),
        ("ridge --penalty 0", "penalty must be positive"),
        ("ridge --rate 0.1", "ridge has no --rate; it takes --penalty, --longest"),
        ("averaging --steps 2", "averaging has no --steps; it takes no constants"),
        ("sgd --d 0", "dim must be at least 1"),
        ("ridge --d -1", "dim must be at least 1"),
        ("sgd --out new.png --draw new.png", "--out and --draw are both new.png"),
        ("sgd --target best", "unknown target 'best'"),
        ("sgd --scale 0.1", "--scale is of target 'standard'"),
        ("sgd --target standard --scale 0", "scale must lie in [1e-09, 1]"),
        ("nearest-neighbor --target standard", "target 'standard' lacks it"),
        ("sgd --target standard --scale 1e-300", "scale must lie in [1e-09, 1]"),
        ("sgd --seed -1", "--seed must lie in 0..2^63-1"),
        ("sgd --out taken", "already exists"),
        ("sgd --draw picture.txt", "unknown kind of picture '.txt'"),
        ("sgd --draw nowhere/file.png", "does not exist"),
        ("sgd --pionts 4", "unknown option '--pionts'; did you mean '--points'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told_in_one_line: Callable[[list[str], str], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    told_in_one_line(["compile", *arguments.split()], message)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]


def test_a_compiled_model_is_identified_on_functions_of_its_own_dimension(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    assert cli.main(["compile", "ridge", "--d", "3", "--points", "6", "--out", str(model)]) == 0
    assert cli.main(["identify", str(model), "--families", "ridge", "least squares", "--episodes", "32"]) == 0
    printed = capsys.readouterr().out
    assert "LinearRegression(dim=3)" in printed
    assert "is ridge" in printed.replace("\n", " ")


def test_a_run_may_start_at_a_compiled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's network is the model's, and so are its dimension and its longest context."""
    model, run = tmp_path / "model", tmp_path / "run"
    sizes = ["--d", "3", "--points", "6", "--target", "standard", "--scale", "0.03"]
    assert cli.main(["compile", "averaging", *sizes, "--out", str(model)]) == 0
    options = ["--start", str(model), "--steps", "2", "--quiet"]
    options += ["--optimizer.name", "adamw", "--optimizer.rate", "1e-7"]
    assert cli.main(["train", "linear", *options, "--out", str(run)]) == 0
    assert "inputs of dim 3, 7 points in each dataset" in capsys.readouterr().err
    x, y = (part.float() for part in episodes(3, 6))
    start, end = iclkit.load(model).predict(x.double(), y.double()), iclkit.load(run).predict(x, y)
    # Two updates of hardly any size, and float32.
    assert float((end - start).square().mean() / start.square().mean()) < 1e-2
    assert cli.main(["train", "linear", "--start", str(model), "--network.width", "64"]) == 2
