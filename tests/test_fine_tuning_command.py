"""`iclkit fine-tuning`: what it prints and writes, and what it answers to mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from iclkit import cli
from iclkit.cli.token_data import read_episodes
from iclkit.errors import UserError
from iclkit.tasks import RepeatedTokens
from iclkit.training import recipe_named
from iclkit.training.models import save_model
from small_models import save_small_model, save_small_regressor

EPISODE = {"demonstrations": [[3, 4], [5, 6]], "labels": [1, 2], "query": [4, 5], "label": 2}


def small(folder: Path, **changes: Any) -> Path:
    return save_small_regressor(folder, 3, readout=1.0, standardise=False, **changes)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["fine-tuning", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_model_of_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = small(tmp_path / "m"), tmp_path / "out"
    arguments = [str(model), "--episodes", "6", "--demonstrations", "4", "--rate", "0.1", "--out", str(out)]
    code, printed, told = run(capsys, *arguments)
    assert (code, told.count("\n")) == (0, 1)
    assert "6 episodes of 4 demonstrations, learning rate 0.1" in printed
    assert "SimAOU" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "fine-tuning.json",
        "fine-tuning.md",
        "fine-tuning.png",
    ]
    found = json.loads((out / "fine-tuning.json").read_text())
    assert found["episodes"] == found["untrained"]["episodes"] == 6
    assert list(found["by layer"]) == [
        "SimAOU", "random update", "SimAM before", "SimAM after", "Kendall", "random order"
    ]  # fmt: skip
    # The same seed gives the same numbers, and what was written may be replaced.
    before = (out / "fine-tuning.json").read_bytes()
    assert run(capsys, *arguments)[0] == 0
    assert (out / "fine-tuning.json").read_bytes() == before


def test_a_model_of_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_sequences(tmp_path / "s")
    code, printed, _ = run(capsys, str(model), "--episodes", "5", "--demonstrations", "3", "--rate", "0.1")
    assert code == 0
    assert "pairs of random tokens; 5 episodes of 3 demonstrations" in printed
    data = tmp_path / "d.jsonl"
    data.write_text(f"{json.dumps(EPISODE)}\n{json.dumps(EPISODE)}\n")
    code, printed, _ = run(capsys, str(model), "--data", str(data), "--rate", "0.1", "--no-control")
    assert code == 0
    assert "2 episodes of 2 demonstrations" in printed


def save_sequences(folder: Path) -> Path:
    import dataclasses

    recipe = recipe_named("induction")
    assert isinstance(recipe.task, RepeatedTokens)
    network = recipe.network.build(seed=0)
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    return save_model(folder, dataclasses.replace(recipe, name="s"), weights)


def test_a_compiled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "c")
    assert cli.main(["compile", "averaging", "--d", "2", "--points", "6", "--out", model]) == 0
    capsys.readouterr()
    code, printed, _ = run(capsys, model, "--episodes", "4", "--rate", "0.001")
    assert code == 0
    assert "4 episodes of 6 demonstrations" in printed
    assert "untrained" not in printed


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, densities = small(tmp_path / "m"), save_small_model(tmp_path / "e")
    scaled = save_small_regressor(tmp_path / "r", 3)
    sequences = save_sequences(tmp_path / "s")
    data, empty = tmp_path / "d.jsonl", tmp_path / "empty.jsonl"
    data.write_text(json.dumps(EPISODE) + "\n")
    empty.write_text("\n")
    (tmp_path / "hub").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").touch()
    hub = str(tmp_path / "hub")
    for arguments, expected in [
        ([], "give a MODEL, or"),
        ([str(model), "--hub", hub], "give a MODEL, or"),
        (["--hub", hub], "needs the episodes by --data"),
        (["--hub", hub, "--data", str(tmp_path / "no")], "there is no file"),
        (["--hub", hub, "--data", str(data)], "holds no config.json"),
        (["--hub", hub, "--data", str(data), "--dim", "3"], "--dim does not go with --data"),
        ([str(model), "--data", str(data)], "gets its episodes from --task"),
        ([str(densities)], "a model of densities"),
        ([str(scaled)], "rescales each context"),
        ([str(model), "--task", "sine"], "the task has dimension 1"),
        ([str(model), "--dim", "4"], "takes 3; give another --task or --dim"),
        ([str(model), "--demonstrations", "0"], "--demonstrations must be at least 1"),
        ([str(model), "--demonstrations", "400"], "takes up to"),
        ([str(model), "--episodes", "0"], "--episodes must be at least 1"),
        ([str(model), "--rate", "-1"], "rate must be positive"),
        ([str(model), "--tolerance", "0"], "tolerance must be positive"),
        ([str(model), "--seed", "-1"], "seed"),
        ([str(model), "--out", str(tmp_path / "taken")], "is not empty"),
        ([str(model), "--rats", "1"], "did you mean '--rate'"),
        ([str(sequences), "--task", "linear"], "--task is for models of regression"),
        ([str(sequences), "--demonstrations", "30"], "takes up to 16 demonstrations, given 30"),
        ([str(sequences), "--data", str(empty)], "holds no episodes"),
        (["nonsense"], "nonsense"),
    ]:
        code, _, told = run(capsys, *arguments)
        assert (code, told.count("\n")) == (2, 1), (arguments, told)
        assert expected in told, (arguments, told)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": None}, "line 1: a demonstration or query is text or a list"),
        ({"labels": 1}, "line 1: demonstrations and labels are lists"),
        ({"labels": [1]}, "line 1: an episode has a label for each"),
        ({"label": [1, 2]}, r"line 1: a label is one token, given \[1, 2\]"),
        ({"query": "text"}, "line 1: text needs a tokenizer"),
        ({"query": [1.5]}, "line 1: a demonstration or query is text or a list"),
        ({"query": [True]}, "line 1: a demonstration or query is text or a list"),
        ({"query": []}, "line 1: demonstrations and queries have at least one token"),
        ({"more": 1}, "line 1 needs the fields"),
    ],
)
def test_a_line_that_is_no_episode(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({**EPISODE, **change}))
    with pytest.raises(UserError, match=expected):
        read_episodes(path)


def test_a_file_of_text_is_encoded(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        json.dumps({"demonstrations": ["ab", "c"], "labels": ["x", 1], "query": "abc", "label": "x"})
    )
    (episode,) = read_episodes(path, lambda text: [ord(letter) for letter in text])
    assert episode.demonstrations == [[97, 98], [99]]
    assert (episode.labels, episode.query, episode.label) == ([120, 1], [97, 98, 99], 120)
    path.write_text("no JSON")
    with pytest.raises(UserError, match="line 1 is no JSON"):
        read_episodes(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text file"):
        read_episodes(path)


def test_nothing_is_drawn_from_the_global_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small(tmp_path / "m")
    state = torch.get_rng_state()
    assert run(capsys, str(model), "--episodes", "3", "--demonstrations", "2", "--rate", "0.1")[0] == 0
    assert torch.equal(torch.get_rng_state(), state)
