"""Induction heads in training: the watcher of a run, the jumps of its course, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import iclkit
from iclkit.analysis.inside.induction import (
    ambiguous,
    attention_patterns,
    copying_eigenvalues,
    in_context_learning_score,
    prefix_matching_score,
)
from iclkit.analysis.inside.induction_recorder import InductionRecorder
from iclkit.analysis.inside.induction_study import Course, InductionStudy, Jump
from iclkit.cli import main
from iclkit.errors import UserError
from iclkit.sequences import next_token_losses
from iclkit.tasks import RepeatedTokens
from iclkit.training import Recipe, TokenConfig, recipe_named, train
from iclkit.training.sequence_recipes import induction_sweep

TASK = RepeatedTokens(vocabulary=6, shortest=2, longest=3)
STEPS = tuple(range(10, 1010, 10))


def tiny() -> Recipe:
    """A run that takes a moment."""
    network = TokenConfig(vocabulary=6, width=8, layers=2, heads=2, max_length=12)
    return dataclasses.replace(
        recipe_named("induction"),
        name="tiny",
        task=TASK,
        network=network,
        episodes=4,
        points=12,
        steps=6,
        log_every=2,
        checkpoint_every=3,
    )


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# The watcher


def test_the_recorder_says_what_the_scores_say(untouched_generators: None) -> None:
    network = TokenConfig(vocabulary=6, width=8, heads=2, max_length=16).build(seed=3)
    recorder = InductionRecorder(TASK, length=16, episodes=32, seed=5)
    found = recorder(0, network)
    assert found == recorder(7, network) == InductionRecorder(TASK, 16, 32, 5)(0, network)
    assert found != InductionRecorder(TASK, 16, 32, 6)(0, network)
    drawn = TASK.draw(32, 16, torch.Generator().manual_seed(5))
    with torch.no_grad():
        losses = next_token_losses(network, drawn.tokens)
    assert found["loss_copies"] == pytest.approx(float(losses[drawn.copied[:, 1:]].mean()))
    unclear = drawn.copied[:, 1:] & ambiguous(drawn.tokens)[:, :-1]
    assert found["loss_ambiguous"] == pytest.approx(float(losses[unclear].mean()))
    distinct = RepeatedTokens(vocabulary=6, shortest=2, longest=3, distinct=True)
    assert InductionRecorder(distinct, 16, 4)(0, network)["loss_ambiguous"] is None
    assert found["loss_new"] == pytest.approx(float(losses[~drawn.copied[:, 1:]].mean()))
    # An eighth of 16 tokens: the last two, and the first two that have a loss.
    expected = in_context_learning_score(losses, range(14, 16), range(1, 3))
    assert found["in_context_learning"] == pytest.approx(float(expected))
    patterns = attention_patterns(network, drawn.tokens)
    assert found["prefix_matching"] == prefix_matching_score(patterns, drawn.tokens, drawn.copied).tolist()
    assert found["copying_eigenvalues"] == copying_eigenvalues(network).tolist()
    assert torch.tensor(found["copying"]).shape == (2, 2)
    other = dataclasses.replace(recorder, late=range(15, 16), early=range(5, 6))(0, network)
    expected = in_context_learning_score(losses, 15, 5)
    assert other["in_context_learning"] == pytest.approx(float(expected))


def test_a_watcher_sees_the_run_and_does_not_change_it(tmp_path: Path) -> None:
    recorder = InductionRecorder(TASK, 12, 16)
    plain = train(tiny(), tmp_path / "plain", progress=False)
    whole = train(tiny(), tmp_path / "whole", progress=False, watch=recorder)
    parts = tmp_path / "parts"
    train(tiny(), parts, progress=False, watch=recorder, stop_after=3)
    train(tiny(), parts, progress=False, watch=recorder, resume=True)

    def stored(run: Path) -> bytes:
        return (run / "checkpoints" / "step-00000006" / "weights.safetensors").read_bytes()

    def told(run: Path) -> list[dict[str, Any]]:
        return [{name: value for name, value in row.items() if "second" not in name} for row in lines(run)]

    assert stored(plain) == stored(whole) == stored(parts)
    assert told(whole) == told(parts)
    assert [{name: row[name] for name in told(plain)[0]} for row in told(whole)] == told(plain)
    # The last line is of the weights at the end.
    last, row = iclkit.load(whole).network, lines(whole)[-1]
    assert recorder(6, last) == {name: row[name] for name in recorder(6, last)}
    times = [row["cpu_seconds"] for row in lines(parts)]
    assert times == sorted(times)
    assert times[0] > 0


# Courses


def course(middle: float, width: float = 10.0, layers: int = 2, seed: int = 0, late: float = 0.0) -> Course:
    """Logistic jumps: prefix matching 0.1 to 0.9 at `middle`, in-context learning 0 to -3 `late` after it."""

    def step(at: float) -> list[float]:
        return [1 / (1 + math.exp(-(step - at) / width)) for step in STEPS]

    return Course(
        layers=layers,
        seed=seed,
        steps=STEPS,
        cpu_seconds=[step / 100 for step in STEPS],
        loss_copies=[3.4 - 3.3 * value for value in step(middle)],
        loss_new=[3.5] * len(STEPS),
        in_context_learning=[-3 * value for value in step(middle + late)],
        prefix_matching=[0.1 + 0.8 * value for value in step(middle)],
        copying=[0.5] * len(STEPS),
        copying_eigenvalues=[1.0] * len(STEPS),
    )


def test_a_jump_is_found_where_it_is() -> None:
    found = course(400.0).jump("prefix_matching")
    assert (found.start, found.end) == (350, 450)
    # tanh(50 / 2 / 10) of the change is within 50 of the middle; hardly any of it is outside of the records.
    assert found.share == pytest.approx(math.tanh(2.5), abs=1e-6)
    assert found.sudden
    narrow = course(400.0).jump("in_context_learning", width=20)
    assert (narrow.start, narrow.end) == (390, 410)
    # Wider than the course: all of it.
    wide = course(400.0).jump("prefix_matching", width=5000)
    assert (wide.start, wide.end) == (10, 1000)
    # Narrower than the records are apart: from one to the next.
    single = course(405.0).jump("prefix_matching", width=3)
    assert single == Jump(400, 410, single.share)
    assert single.share == pytest.approx(math.tanh(0.25))


def test_slow_changes_and_flat_ones_are_no_jumps() -> None:
    slow = course(500.0, width=200.0).jump("prefix_matching")
    assert not slow.sudden
    flat = dataclasses.replace(course(400.0), prefix_matching=[0.1] * len(STEPS))
    assert flat.jump("prefix_matching").share == 0.0
    assert not flat.together


@pytest.mark.parametrize(("late", "together"), [(0.0, True), (100.0, True), (110.0, False), (-300.0, False)])
def test_together_means_within_200_updates(late: float, together: bool) -> None:
    assert course(500.0, late=late).together is together


def test_learned_is_for_good() -> None:
    made = course(400.0)
    first = made.learned()
    assert first is not None
    assert made.loss_copies[first] < 0.2 <= made.loss_copies[first - 1]
    relapse = [*made.loss_copies[:-2], 0.3, 0.1]
    assert dataclasses.replace(made, loss_copies=relapse).learned() == len(STEPS) - 1
    assert dataclasses.replace(made, loss_copies=[*made.loss_copies[:-1], 0.2]).learned() is None
    assert dataclasses.replace(made, loss_copies=[0.1] * len(STEPS)).learned() == 0


def test_a_course_follows_the_best_head() -> None:
    row = {"step": 1, "cpu_seconds": 0.5, "loss_copies": 1.0, "loss_new": 2.0, "in_context_learning": -1.0}
    heads = {"prefix_matching": [[0.1, 0.2], [0.3, 0.9]], "copying": [[0, 1], [2, 3]]}
    other = {"prefix_matching": [[0.1, 0.8], [0.3, 0.2]], "copying": [[0, 1], [2, 3]]}
    values = {"copying_eigenvalues": [[4, 5], [6, 7]]}
    made = Course.of(2, 0, [row | heads | values, row | other | values | {"step": 2}])
    assert (made.prefix_matching, made.copying, made.copying_eigenvalues) == ([0.9, 0.8], [3, 1], [7, 5])
    assert made.steps == [1, 2]
    for rows in ([], [row]):
        with pytest.raises(UserError, match=r"the metrics lack .*; train with an InductionRecorder watching"):
            Course.of(2, 0, rows)


def test_the_study_says_what_happened() -> None:
    one = dataclasses.replace(course(500.0, width=200.0, layers=1), loss_copies=[2.5] * len(STEPS))
    study = InductionStudy((one, course(400.0), course(300.0, seed=1, late=400.0)))
    assert study.layers == [1, 2]
    assert study.of(1) == [one]
    assert "1 layer, 1 seed: loss on the repeats 2.50 at the end, never below 2.50" in study.verdict
    assert (
        "2 layers, 2 seeds: loss on the repeats 0.10 at the end, below 0.2 for good in 2 of 2" in study.verdict
    )
    assert "both scores jump within the same 200 updates in 1 of 2." in study.verdict
    ends, times = study.tables().values()
    assert [row[0] for row in ends.rows] == ["1 layer, seed 0", "2 layers, seed 0", "2 layers, seed 1"]
    assert ends.rows[1][1:] == ["0.100", "0.90", "0.50", "1.00", "-3.00"]
    assert [row[1] for row in times.rows] == ["never", "440", "340"]
    assert [row[-1] for row in times.rows] == ["no", "yes", "no"]
    written = json.loads(study.to_json())
    assert written["courses"][1]["prefix_matching_jump"]["start"] == 350
    assert [made["together"] for made in written["courses"]] == [False, True, False]


# The command


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A file with a recipe that takes a moment."""
    path = tmp_path / "tiny.json"
    path.write_text(tiny().to_json())
    return str(path)


def test_the_study_in_one_command(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "study"
    command = ["induction", "--recipe", recipe, "--out", str(out), "--quiet", "--seeds", "4", "2"]
    assert main([*command, "--layers", "2"]) == 0
    weights = out / "runs" / "tiny-layers-2-seed-4" / "checkpoints" / "step-00000006"
    first = weights.stat().st_mtime_ns
    assert main([*command]) == 2
    assert "already holds runs; go on by --resume" in capsys.readouterr().err
    # Resumed, what is done stays as it is and what is missing is trained.
    assert main([*command, "--resume"]) == 0
    assert weights.stat().st_mtime_ns == first
    assert "2 layers, 2 seeds: loss on the repeats" in capsys.readouterr().out
    courses = json.loads((out / "induction.json").read_text())["courses"]
    assert [(made["layers"], made["seed"]) for made in courses] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert courses[0]["steps"] == [2, 4, 6]
    assert "| 2 layers, seed 4 |" in (out / "induction.md").read_text()
    assert (out / "induction.png").read_bytes().startswith(b"\x89PNG")
    assert iclkit.load(out / "runs" / "tiny-layers-1-seed-2").network.layers == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder for the runs by --out"),
        (["--out", "x", "--layers", "0", "2"], "--layers must be at least 1, given 0"),
        (["--out", "x", "--steps", "0"], "--steps must be at least 1, given 0"),
        (["--out", "x", "--seed", "-1"], "seeds must lie in 0..2^63-1, given -1"),
        (["--out", "x", "--seed", "1", "--seeds", "2"], "give --seed or --seeds, not both"),
        (["--out", "x", "--recipe", "linear"], "linear is no recipe on sequences of tokens"),
        (["--out", "x", "--recipe", "inducton"], "'induction'"),
        (["--out", "x", "--layer", "2"], "did you mean '--layers'?"),
    ],
    ids=["nothing", "layers", "steps", "seed", "seeds", "recipe", "typo", "option"],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told_in_one_line: Callable[[list[str], str], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    told_in_one_line(["induction", *arguments], message)
    assert not (tmp_path / "x").exists()


# The phase change itself


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_layers_form_induction_heads_and_one_does_not(seed: int, tmp_path: Path) -> None:
    """Margins are wide: 0.07 at most against 0.2, 0.93 against 0.4, 2.4 against 2, 22 s against 60."""
    recorder = InductionRecorder()
    runs = induction_sweep(recipe_named("induction"), (1, 2), (seed,))
    done = [lines(train(run, tmp_path / run.name, progress=False, watch=recorder)) for run in runs]
    one, two = (Course.of(layers, seed, rows) for layers, rows in zip((1, 2), done, strict=True))
    assert two.loss_copies[-1] < 0.2
    assert two.prefix_matching[-1] > 0.4
    assert two.cpu_seconds[-1] < 60
    assert two.together
    assert min(one.loss_copies) > 2
    assert max(one.prefix_matching) < 0.2
    assert not one.together
