"""The command line: results against closed forms, and every mistake in one line with nothing written."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from iclkit import cli
from iclkit.training import RECIPES, models
from small_models import LIMIT, base_log_density, save_small_model

# By quadrature a log density is known to 1e-3; in single precision to 1e-5.
TOLERANCE = 2e-3


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as the package ships them, small and untrained."""
    folder = tmp_path_factory.mktemp("models")
    save_small_model(folder / "energy-2d", name="energy-2d")
    save_small_model(folder / "energy-mixtures", name="energy-mixtures", readout=1.0, standardise=False)
    (folder / "energy-2d" / "card.md").write_text("# energy-2d\n\nA card.\n")
    return folder


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which the models above are the shipped ones."""
    monkeypatch.setattr(models, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


@dataclass(frozen=True)
class Told:
    """What one command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Told]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> Told:
        code = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Told(code, captured.out, captured.err)

    return call


def rows(seed: int = 0, count: int = 12) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 2)) @ np.array([[3.0, 1.0], [0.0, 0.2]]) + [2000.0, -5.0]


def write_csv(path: Path, values: NDArray[np.float64], header: str = "year,height (m)") -> Path:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


def read_csv(text: str) -> tuple[list[str], NDArray[np.float64]]:
    header, *body = csv.reader(text.splitlines())
    return header, np.array(body, dtype=float)


# Scores


def test_score_is_the_density_in_the_data_s_units(run: Run, workplace: Path) -> None:
    context, points = rows(), rows(seed=1, count=30)
    data, new = write_csv(workplace / "a.csv", context), write_csv(workplace / "b.csv", points)
    told = run("energy", "score", data, "--points", new, "--out", "scores.csv")
    assert (told.code, told.out) == (0, "")
    assert "normalised by adaptive quadrature" in told.err
    header, scored = read_csv((workplace / "scores.csv").read_text())
    assert header == ["year", "height (m)", "log_density"]
    np.testing.assert_array_equal(scored[:, :2], points)
    np.testing.assert_allclose(scored[:, 2], base_log_density(context, points), atol=TOLERANCE, rtol=0)
    assert sorted(os.listdir(workplace)) == ["a.csv", "b.csv", "scores.csv"]


def test_context_scores_itself_on_standard_output(run: Run, workplace: Path) -> None:
    context = rows()
    np.save(workplace / "a.npy", context)
    told = run("energy", "score", "a.npy")
    header, scored = read_csv(told.out)
    assert header == ["column 1", "column 2", "log_density"]
    np.testing.assert_allclose(scored[:, 2], base_log_density(context, context), atol=TOLERANCE, rtol=0)
    assert "these points are the context itself" in told.err


def test_columns_and_subsample_choose_the_context(run: Run, workplace: Path) -> None:
    values = rows(count=100)
    names = [f"row {i}" for i in range(100)]
    text = "\n".join(f"{name};{x:.17g};{y:.17g}" for name, (x, y) in zip(names, values, strict=True))
    (workplace / "a.csv").write_text("name;x;y\n" + text + "\n")
    header, scored = read_csv(run("energy", "score", "a.csv", "--columns", "y", "2", "--subsample", 16).out)
    assert header == ["y", "x", "log_density"]
    assert len(scored) == 16
    expected = base_log_density(scored[:, :2], scored[:, :2])
    np.testing.assert_allclose(scored[:, 2], expected, atol=TOLERANCE, rtol=0)
    assert {tuple(row) for row in scored[:, 1::-1]} <= {tuple(row) for row in values}


def test_points_are_matched_by_their_names(run: Run, workplace: Path) -> None:
    context, points = rows(), rows(seed=1)
    write_csv(workplace / "a.csv", context, "x,y")
    write_csv(workplace / "b.csv", points[:, ::-1], "y,x")
    header, scored = read_csv(run("energy", "score", "a.csv", "--points", "b.csv").out)
    assert header == ["x", "y", "log_density"]
    np.testing.assert_array_equal(scored[:, :2], points)


def test_longer_contexts_are_taken_with_a_warning(run: Run, workplace: Path) -> None:
    write_csv(workplace / "a.csv", rows(count=LIMIT + 4))
    told = run("energy", "score", "a.csv", "--allow-longer")
    assert told.code == 0
    assert told.err.count("iclkit: warning:") == 1
    assert (
        f"iclkit: warning: the context has {LIMIT + 4} rows, energy-2d was trained on up to {LIMIT}" in told.err
    )


# Samples


def test_samples_have_the_density_s_moments(run: Run, workplace: Path) -> None:
    context = rows()
    write_csv(workplace / "a.csv", context)
    told = run("energy", "sample", "a.csv", "--size", 4000, "--seed", 3, "--out", "s.csv")
    assert (told.code, told.err) == (0, "")
    header, draws = read_csv((workplace / "s.csv").read_text())
    assert header == ["year", "height (m)"]
    # -E log p is the entropy: the mean of 4000 log densities (standard deviation 1) lies within 4.5 standard
    # errors of it but for 7e-6 of seeds; likewise each mean.
    log_density = base_log_density(context, draws)
    peak = base_log_density(context, context.mean(0)[None])[0]
    assert abs(log_density.mean() - (peak - 1)) < 4.5 / np.sqrt(4000) + TOLERANCE
    error = (draws.mean(0) - context.mean(0)) / draws.std(0)
    assert (np.abs(error) < 4.5 / np.sqrt(4000)).all()


def test_samples_are_a_function_of_the_seed(run: Run, workplace: Path) -> None:
    write_csv(workplace / "a.csv", rows())
    first, again, other = (run("energy", "sample", "a.csv", "--size", 5, "--seed", s).out for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_chains_state_their_diagnostics(run: Run, workplace: Path) -> None:
    write_csv(workplace / "a.csv", rows())
    told = run("energy", "sample", "a.csv", "--size", 50, "--sampler", "MALA")
    assert len(told.out.splitlines()) == 51
    assert "acceptance 0." in told.err
    assert "R-hat" in told.err


def test_published_chains_are_equation_5_draw_for_draw(run: Run, workplace: Path) -> None:
    context = np.random.default_rng(0).normal(5.0, 4.0, (12, 2))
    write_csv(workplace / "a.csv", context)
    told = run("energy", "sample", "a.csv", "--size", 30, "--seed", 3, "--sampler", "langevin-published")
    assert told.code == 0
    assert "no draws of the density" in told.err
    landscape = models.load("energy-2d", "energy").condition(torch.tensor(context))
    generator = torch.Generator().manual_seed(3)
    x = torch.empty(30, 2, dtype=torch.float64).uniform_(-15, 15, generator=generator)
    for _ in range(15):
        noise = torch.randn(30, 2, dtype=torch.float64, generator=generator)
        x = x + 3.16 * landscape.score(x) + 0.01 * noise
    # Contractions forget rounding; the network is in single precision.
    np.testing.assert_allclose(read_csv(told.out)[1], x.numpy(), rtol=1e-4, atol=1e-4)


# Pictures


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_a_picture(run: Run, workplace: Path, kind: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    write_csv(workplace / "a.csv", rows(), "$x_1,测量")
    told = run("energy", "plot", "a.csv", "--out", f"p.{kind}", "--samples", 20)
    assert (told.code, told.err) == (0, "")
    assert (workplace / f"p.{kind}").read_bytes().startswith(magic)


def test_plot_of_one_column(run: Run, workplace: Path) -> None:
    pytest.importorskip("matplotlib")
    save_small_model(workplace / "line", dim=1)
    np.save(workplace / "a.npy", rows()[:, 0])
    assert run("energy", "plot", "a.npy", "--model", "line", "--out", "p.png").code == 0
    save_small_model(workplace / "cube", dim=3)
    np.save(workplace / "b.npy", np.random.default_rng(0).normal(size=(9, 3)))
    told = run("energy", "plot", "b.npy", "--model", "cube", "--out", "q.png")
    assert "a picture shows 1 or 2 columns, given 3" in told.err
    assert not (workplace / "q.png").exists()


# Mistakes


def mistakes() -> dict[str, tuple[str, str]]:
    """By name: a command, split at spaces, and what its one line must say."""
    return {
        "unknown command": ("enrgy", "unknown command 'enrgy'; did you mean 'energy'"),
        "unknown option": ("--vresion", "did you mean '--version'"),
        "unknown action": ("energy scoer good.csv", "did you mean 'score'"),
        "unknown option of an action": ("energy score good.csv --modle x", "did you mean '--model'"),
        "no data": ("energy score", "required: DATA"),
        "no size": ("energy sample good.csv", "required: --size"),
        "learning rate": ("train energy-tiny --lr 3", "did you mean '--optimizer.rate'?"),
        "batch": ("train energy-tiny --batch-size 3", "did you mean '--episodes'?"),
        "end of a field's name": ("train energy-tiny --width 3", "did you mean '--network.width'?"),
        "rate of a program": ("compile sgd --lr 3", "did you mean '--rate'?"),
        "overwrite": ("energy score good.csv --overwrite", "did you mean '--force'?"),
        "hyphens before a command": ("--tarin", "a command has no hyphens: iclkit train"),
        "end of options as a value": ("energy score good.csv --model=--", "--model needs a value"),
        "small letters": ("energy sample good.csv --size 9 --sampler hmc", "did you mean 'HMC'?"),
        "no number": ("energy sample good.csv --size ten", "--size: invalid int value: 'ten'"),
        "no samples": ("energy sample good.csv --size 0", "--size must lie in 1..1000000, given 0"),
        "unknown sampler": ("energy sample good.csv --size 9 --sampler NUTS", "unknown sampler 'NUTS'"),
        "missing file": ("energy score none.csv", "there is no file none.csv"),
        "folder": ("energy score .", "not a regular file"),
        "empty file": ("energy score empty.csv", "empty.csv is empty"),
        "header alone": ("energy score header.csv", "header but no rows"),
        "word": ("energy score word.csv", "word.csv, line 3, column 'y': 'abc' is not a number"),
        "missing value": ("energy score nan.csv", "nan.csv, line 2, column 'x': the value is missing"),
        "infinite value": ("energy score inf.csv", "inf.csv, line 2, column 'y': 'inf' is infinite"),
        "infinite array": ("energy score inf.npy", "inf.npy, row 2, column 1: inf"),
        "wide file": ("energy score wide.csv", "wide.csv has 3 columns (x, y, z), the model takes 2; choose"),
        "narrow file": ("energy score narrow.csv", "narrow.csv has 1 column (x), the model takes 2"),
        "unknown column": ("energy score wide.csv --columns x yy", "did you mean 'y'"),
        "one column": ("energy score wide.csv --columns x", "1 column chosen (x), the model takes 2"),
        "ragged file": ("energy score ragged.csv", "ragged.csv, line 3 has 3 columns"),
        "one row": ("energy score row.csv", "energy-2d needs at least 2 rows"),
        "constant column": ("energy score constant.csv", "column 'y' is constant (always 7)"),
        "long context": (
            "energy score long.csv",
            "has 17 rows, at most 16 are accepted; energy-2d was trained",
        ),
        "advice for long contexts": ("energy score long.csv", "--subsample 16, or"),
        "far too long context": ("energy score far.npy --allow-longer", "at most 2,048 are accepted"),
        "million rows": ("energy score million.npy", "has 1,000,000 rows, at most 16"),
        "too many points": ("energy score good.csv --points millions.npy", "score them in parts"),
        "points of another shape": ("energy score good.csv --points narrow.csv", "has no column 'y'"),
        "word in points": ("energy score good.csv --points word.csv", "line 3, column 'y': 'abc'"),
        "missing points": ("energy score good.csv --points none.csv", "there is no file none.csv"),
        "seed": ("energy score good.csv --seed -1", "--seed must lie in"),
        "unknown model": ("energy score good.csv --model energy-3d", "unknown model 'energy-3d'; did you mean"),
        "missing model folder": ("energy score good.csv --model some/none", "there is no folder some/none"),
        "truncated model": ("energy score good.csv --model truncated", "truncated or altered"),
        "tampered model": ("energy score good.csv --model tampered", "truncated or altered"),
        "model of another version": ("energy score good.csv --model newer", "has model format 99"),
        "broken description": ("energy score good.csv --model broken", "not valid JSON"),
        "output there": ("energy score good.csv --out there.csv", "there.csv exists; .* --force"),
        "output is the input": ("energy score good.csv --out good.csv --force", "is the file that is read"),
        "no output folder": ("energy score good.csv --out none/s.csv", "the folder none does not exist"),
        "output is a folder": ("energy score good.csv --out newer --force", "newer is a folder"),
        "picture of unknown kind": ("energy plot good.csv --out p.jpeg", "unknown kind of picture '.jpeg'"),
        "animation": ("energy plot good.csv --out p.gif", "'.gif': p.gif must end in .png, .pdf or .svg"),
        "picture without an ending": ("energy plot good.csv --out p", "p must end in .png, .pdf or .svg"),
        "averaging rates": (
            "train energy-tiny --optimizer.betas 1.5 0.9",
            "error: optimizer.betas must lie in [0, 1)",
        ),
        "constant": (
            "train energy-tiny --optimizer.eps -1",
            "error: optimizer.eps must be positive and finite",
        ),
        "no rate": (
            "train energy-tiny --optimizer.rate nan",
            "optimizer.rate must be positive and finite, given nan",
        ),
        "decay": (
            "train energy-tiny --optimizer.weight-decay -1",
            "weight_decay must be finite and not negative",
        ),
        "wide base": (
            "train energy-tiny --network.base-std 1e300",
            "base_std must lie in 1e-9..1e9 or be None",
        ),
        "narrow base": ("train energy-tiny --network.base-std 1e-300", "base_std must lie in 1e-9..1e9"),
        "width": ("train energy-tiny --network.width 1000000000", "error: the network would have .* weights"),
        "layers": ("train energy-tiny --network.layers 1000000000", "network.layers must be at most 1000"),
        "episodes": ("train energy-tiny --episodes 1000000000", "a micro-batch of 1000000000 episodes"),
        "infinite field": ("train energy-tiny --task.mean-std inf", "task.mean_std must be finite, given inf"),
        "whole numbers without end": (
            "train energy-tiny --objective.negatives 99999999",
            "must be at most 16777216",
        ),
        "dimensions of a program": (
            "compile ridge --d 1000000000",
            "dim must be at most 1024, given 1000000000",
        ),
        "weights of a program": (
            "compile ridge --d 200",
            "a register of 40000 numbers, which takes more than 1e+09 weights",
        ),
        "episodes to compare": ("compare ridge(1) Averaging --episodes 1000000000", "episodes · points · dim²"),
        "no splits": ("evaluate --splits 0", "--splits must lie in 1..10000, given 0"),
        "picture without a name": ("energy plot good.csv", "required: --out"),
        "no recipe": ("train", "name a recipe"),
        "unknown recipe": ("train energy-tinny", "did you mean 'energy-tiny'"),
        "unknown field": ("train energy-tiny --network.widht 8", "did you mean '--network.width'"),
        "value of another type": ("train energy-tiny --network.width wide", "--network.width: invalid literal"),
        "value out of range": ("train energy-tiny --points 100", "network.max_points is 8"),
        "network that cannot be": ("train energy-tiny --network.heads 3 --out r", "heads must divide width"),
        "no steps": ("train energy-tiny --steps 0", "steps must be at least 1, given 0"),
        "unknown device": ("train energy-tiny --device cpuu", "unknown device 'cpuu'"),
        "word too many": ("train energy-tiny 100", "unexpected argument '100'"),
        "folder of something else": ("train energy-tiny --out newer", "is not empty and holds no run"),
        "folder of another run": ("train energy-tiny --out run", "already holds a run"),
        "resumed with another recipe": (
            "train energy-tiny --out run --steps 1 --resume --seed 7",
            "its seed is 0, yours 7",
        ),
        "recipe file": ("train none.json", "there is no file none.json"),
        "damaged recipe file": ("train newer/broken.json", "not valid JSON"),
        "recipe to print": ("recipes energy-tinny", "did you mean 'energy-tiny'"),
        "model to print": ("models energy-2", "did you mean 'energy-2d'"),
        "export of nothing": ("export newer out", "holds no run"),
        "export onto something": ("export run newer", "already exists"),
        "demo into something": ("demo --out newer", "newer is not empty and holds no report.html"),
    }


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory, shipped: Path) -> Path:
    """The files that the mistakes above are made with."""
    folder = tmp_path_factory.mktemp("bad")
    texts = {
        "good": "x,y\n1,2\n3,5\n4,1\n",
        "there": "precious\n",
        "empty": "",
        "header": "x,y\n",
        "word": "x,y\n1,2\n3,abc\n",
        "nan": "x,y\nNaN,2\n3,4\n",
        "inf": "x,y\n1,inf\n3,4\n",
        "wide": "x,y,z\n1,2,3\n4,5,7\n",
        "narrow": "x\n1\n2\n",
        "ragged": "x,y\n1,2\n1,2,3\n",
        "row": "x,y\n1,2\n",
        "constant": "x,y\n1,7\n2,7\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    write_csv(folder / "long.csv", rows(count=LIMIT + 1))
    np.save(folder / "inf.npy", np.array([[1.0, 2.0], [np.inf, 3.0]]))
    np.save(folder / "far.npy", rows(count=2049))
    # Their headers say millions of rows; holes of the file system hold them.
    for name, count in (("million", 1_000_000), ("millions", 1_000_001)):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, 2))
    for name in ("truncated", "tampered", "newer", "broken"):
        shutil.copytree(shipped / "energy-2d", folder / name)
    weights = (folder / "truncated" / "model.safetensors").read_bytes()
    (folder / "truncated" / "model.safetensors").write_bytes(weights[:-10])
    (folder / "tampered" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    description = json.loads((folder / "newer" / "model.json").read_text())
    (folder / "newer" / "model.json").write_text(json.dumps({**description, "format": 99}))
    (folder / "newer" / "broken.json").write_text('{"name": ')
    (folder / "broken" / "model.json").write_text('{"format": 1')
    assert cli.main(["train", "energy-tiny", "--steps", "1", "--out", str(folder / "run"), "--quiet"]) == 0
    return folder


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and when it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns if path.is_file() else 0)
    return found


@pytest.mark.parametrize("mistake", mistakes())
def test_mistakes_are_told_in_one_line(
    run: Run, bad_files: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    command, message = mistakes()[mistake]
    monkeypatch.chdir(bad_files)
    before = contents(bad_files)
    start = time.perf_counter()
    told = run(*command.split())
    spent = time.perf_counter() - start
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith("iclkit: error: ")
    assert told.err.count("\n") == 1
    for part in message.split(" .* "):
        assert part in told.err
    assert contents(bad_files) == before
    assert spent < 10


def test_force_replaces_the_output(run: Run, workplace: Path) -> None:
    write_csv(workplace / "a.csv", rows())
    (workplace / "s.csv").write_text("old")
    assert run("energy", "score", "a.csv", "--out", "s.csv", "--force").code == 0
    assert (workplace / "s.csv").read_text().startswith("year,")


def test_failed_write_leaves_nothing(run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(workplace / "a.csv", rows())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = run("energy", "score", "a.csv", "--out", "s.csv")
    assert told.code == 2
    assert told.err.splitlines()[-1].startswith("iclkit: error: ")
    assert "No space left" in told.err
    assert os.listdir(workplace) == ["a.csv"]


def test_energy_that_does_not_decay_is_no_density(run: Run, workplace: Path) -> None:
    """The published network is confined by nothing; it must not be presented as a density."""
    run("train", "energy-published", "--steps", 1, "--episodes", 1, "--points", 4, "--out", "r", "--quiet")
    write_csv(workplace / "a.csv", np.random.default_rng(0).normal(size=(4, 2)))
    told = run("energy", "score", "a.csv", "--model", "r")
    assert told.code == 2
    assert "the energy does not decay" in told.err


# Recipes, runs and models


def test_train_overrides_fields_and_resumes(run: Run, workplace: Path) -> None:
    command = ("train", "energy-tiny", "--out", "r", "--steps", 4, "--network.width", 8, "--ema", "None")
    told = run(*command, "--log_every=2", "--stop-after", 2)
    assert told.code == 0
    assert (workplace / "r" / "checkpoints" / "step-00000002").is_dir()
    recipe = json.loads((workplace / "r" / "recipe.json").read_text())
    assert (recipe["network"]["width"], recipe["ema"], recipe["steps"], recipe["log_every"]) == (8, None, 4, 2)
    assert run(*command, "--log_every=2", "--resume", "--quiet").code == 0
    lines = (workplace / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_a_printed_recipe_can_be_trained(run: Run, workplace: Path) -> None:
    (workplace / "mine.json").write_text(run("recipes", "energy-tiny").out)
    assert run("train", "mine.json", "--steps", 1, "--out", "r", "--quiet").code == 0
    assert run("export", "r", "m", "--name", "mine").code == 0
    np.save(workplace / "a.npy", rows()[:, :1])
    np.save(workplace / "b.npy", rows()[:8, :1] / 1000)
    assert "trained on contexts of up to 8" in run("energy", "score", "a.npy", "--model", "m").err
    assert run("energy", "score", "b.npy", "--model", "m").code == 0
    assert run("energy", "score", "b.npy", "--model", "r").code == 0
    assert run("export", "r", "m", "--force").code == 0


def test_lists(run: Run) -> None:
    recipes = run("recipes").out.splitlines()
    assert [line.split()[0] for line in recipes] == list(RECIPES)
    listed = run("models").out.splitlines()
    assert [line.split()[0] for line in listed] == ["energy-2d", "energy-mixtures"]
    assert f"contexts of up to {LIMIT} points" in listed[0]
    assert run("models", "energy-2d").out == "# energy-2d\n\nA card.\n"
    assert "has no card" in run("models", "energy-mixtures").err


@pytest.mark.parametrize("command", ["", *cli.COMMANDS, "energy score", "energy sample", "energy plot"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    told = run(*command.split(), "--help")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"usage: iclkit {command}".rstrip())


def test_help_of_a_recipe_lists_its_fields(run: Run) -> None:
    told = run("train", "energy-tiny", "--help")
    assert "--network.width" in told.out
    assert "--objective.negatives" in told.out


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("demo --out d --quick", "iclkit.report.demo.write_demo"),
        ("card energy-2d --out c.md --datasets 20", "iclkit.report.card.write_card"),
        ("evaluate --model energy-2d --splits 2 --sizes 8 16", "iclkit.analysis.real_data.main"),
    ],
)
def test_reports_are_made_by_their_functions(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, function: str
) -> None:
    """That the call fits the function; what it does is tested with it."""
    module, name = function.rsplit(".", 1)
    signature = inspect.signature(getattr(pytest.importorskip(module), name))
    calls = []
    monkeypatch.setattr(function, lambda *args, **named: calls.append(signature.bind(*args, **named)))
    assert run(*command.split()).code == 0
    assert len(calls) == 1


def test_lack_of_memory_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte")

    monkeypatch.setattr("iclkit.training.train", exhaust)
    told = run("train", "energy-tiny")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "out of memory" in told.err


def test_version_and_bare_command(run: Run) -> None:
    assert run("--version").out == "iclkit 0.1.0\n"
    told = run()
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("usage: iclkit COMMAND")


# The process itself


def process(*argv: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "iclkit", *argv], stderr=subprocess.PIPE, text=True, **options
    )


def test_help_is_quick_and_needs_no_torch() -> None:
    script = (
        "import sys, time; start = time.perf_counter(); from iclkit.cli import main; main(['--help']); "
        "print(time.perf_counter() - start); assert 'torch' not in sys.modules"
    )
    # The best of three: other processes can only make it slower.
    spent = []
    for _ in range(3):
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        spent.append(float(child.stdout.splitlines()[-1]))
        if spent[-1] < 0.5:
            break
    assert min(spent) < 0.5


def test_mistakes_reach_the_shell() -> None:
    child = process("energy", "score", "none.csv")
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (2, "iclkit: error: there is no file none.csv\n")


@pytest.mark.parametrize(
    "box",
    ["╭─ Value error ──╮\n│ {} │\n│ ──── │\n│ help │\n╰────╯", " Value error \n ----- \n  {}\n  ---\n  help"],
)
def test_boxes_of_the_parser_are_one_line_in_every_alphabet(box: str) -> None:
    from iclkit.cli.train import _in_one_line

    assert _in_one_line(box.format("Error parsing rate: must be positive")) == "rate: must be positive"


def test_what_a_terminal_has_no_letter_for_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", said)
    assert cli.main(["compile", "averaging", "--d", "2", "--points", "2"]) == 0
    assert said.errors == "strict"
    said.flush()
    assert b"mul xy ? x, y [i,->i]" in said.buffer.getvalue()  # pyright: ignore


def test_interrupt_ends_in_one_line(workplace: Path) -> None:
    # A shell that starts the tests in the background makes them, and their children, deaf to interrupts.
    child = process(
        *("train", "energy-tiny", "--steps", "1000000", "--out", "r", "--network.width", "8"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (workplace / "r" / "metrics.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.splitlines()[-1] == "iclkit: error: interrupted"
    assert "go on by: iclkit train" in err.splitlines()[-2]
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_mistake() -> None:
    read, write = os.pipe()
    os.close(read)
    child = process("recipes", "energy-tiny", stdout=write)
    os.close(write)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")


@pytest.mark.slow
def test_processes_share_a_run(workplace: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "iclkit", "train", "energy-tiny", "--steps", "3", "--out", "r", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0
    assert child.stderr.count("the run is in r") == 1
