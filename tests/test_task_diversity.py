"""Task diversity: the two Bayes predictors in the place of networks, and the command from end to end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iclkit.analysis.questions import answers, ask
from iclkit.analysis.task_diversity import Place, TaskDiversity, task_diversity
from iclkit.cli import main
from iclkit.errors import UserError
from iclkit.learners import PoolPosterior, RegressionLearner, Ridge
from iclkit.tasks import LinearPool, LinearRegression, RegressionTask
from iclkit.training import recipe_named

SIZES = (2, 8, 32, 128)
POOLS = tuple(LinearPool(size, dim=4) for size in SIZES)


def memoriser(pool: LinearPool) -> RegressionLearner:
    return PoolPosterior(pool, pool.noise_std)


@pytest.fixture(scope="module")
def changing() -> TaskDiversity:
    """Learners that know pools of up to 8 members, and the prior from 32 on."""
    learners = {pool: memoriser(pool) if pool.size <= 8 else Ridge(0.25).predict for pool in POOLS}
    return task_diversity(learners, points=12, episodes=128)


def test_each_is_nearest_to_what_it_is(changing: TaskDiversity) -> None:
    assert changing.sizes == SIZES
    for place in ("pool", "prior"):
        for size, found in zip(SIZES, changing.distances[place], strict=True):
            zero, other = (found.pool, found.ridge) if size <= 8 else (found.ridge, found.pool)
            assert zero.values.max() == 0.0
            # The other Bayes predictor is far: as far as the two are from each other.
            torch.testing.assert_close(other.values, found.between.values)
            assert float(other.overall().low) > 0
            assert found.nearer == (-1 if size <= 8 else 1)
    assert changing.threshold("pool") == changing.threshold("prior") == (8, 32)
    assert "nearer to dMMSE up to M = 8, and nearer to ridge from M = 32 on" in changing.verdict


def test_learners_of_one_kind_have_no_threshold() -> None:
    knows = task_diversity({pool: memoriser(pool) for pool in POOLS[:2]}, 6, 32)
    assert knows.threshold("prior") == (8, None)
    assert "and nearer to ridge for no M." in knows.verdict
    learns = task_diversity({pool: Ridge(0.25) for pool in POOLS[:2]}, 6, 32)
    assert learns.threshold("prior") == (None, 2)
    assert "nearer to dMMSE for no M" in learns.verdict


def test_halfway_is_nearer_to_neither() -> None:
    pool = POOLS[1]

    def between(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * (memoriser(pool).predict(x, y) + Ridge(0.25).predict(x, y))

    found = task_diversity({pool: between}, 12, 64)
    assert found.distances["prior"][0].nearer == 0
    assert found.threshold("prior") == (None, None)
    quarter = 0.25 * found.distances["prior"][0].between.values
    torch.testing.assert_close(found.distances["prior"][0].pool.values, quarter, rtol=1e-4, atol=1e-7)


def test_entries_are_mean_squared_differences_by_hand() -> None:
    pool = POOLS[2]
    found = task_diversity({pool: Ridge(2.0)}, points=5, episodes=16, seed=3)
    tasks: dict[Place, RegressionTask] = {"pool": pool, "prior": LinearRegression(4, noise_std=0.5)}
    for place, task in tasks.items():
        asked = ask(task, 5, 16, torch.Generator().manual_seed(3))
        said = answers(Ridge(2.0), asked)
        wanted = (said - answers(memoriser(pool), asked)).double().square().mean() / 4
        assert float(found.distances[place][0].pool.overall().mean) == pytest.approx(float(wanted), rel=1e-5)


def test_tables_and_json(changing: TaskDiversity) -> None:
    table = changing.table("prior")
    assert [row[0] for row in table.rows] == ["2^1", "2^3", "2^5", "2^7"]
    assert table.best == {(0, 1), (1, 1), (2, 2), (3, 2)}
    written = json.loads(changing.to_json())
    assert written["threshold"] == {"pool": [8, 32], "prior": [8, 32]}
    last = written["distances"]["prior"][-1]
    assert last["nearer"] == "ridge"
    assert last["pool"]["low"] < last["pool"]["mean"] < last["pool"]["high"]
    assert len(last["pool"]["by_context_size"]) == 12


@pytest.mark.parametrize(
    ("learners", "message"),
    [
        ({}, "pools that differ in size alone"),
        ({POOLS[0]: Ridge(1.0), LinearPool(4, dim=3): Ridge(1.0)}, "pools that differ in size alone"),
        ({LinearPool(4, noise_std=0.0): Ridge(1.0)}, "pools must be noisy"),
    ],
    ids=["none", "dimensions", "noiseless"],
)
def test_refusals(learners: dict[LinearPool, Ridge], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_diversity(learners)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file with a recipe that takes a moment."""
    recipe = recipe_named("pool")
    network = dataclasses.replace(recipe.network, dim=2, width=8, layers=1, heads=2, max_points=4)
    task = LinearPool(dim=2)
    recipe = dataclasses.replace(recipe, network=network, task=task, points=5, steps=3, episodes=4, name="tiny")
    path = tmp_path / "tiny.json"
    path.write_text(recipe.to_json())
    return path


def test_the_whole_sweep_in_one_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "sweep"
    command = ["pools", "--recipe", str(tiny), "--out", str(out), "--episodes", "8", "--quiet"]
    assert main([*command, "--exponents", "1"]) == 0
    weights = out / "runs" / "tiny-2^1" / "checkpoints" / "step-00000003"
    assert weights.is_dir()
    first = weights.stat().st_mtime_ns
    assert main([*command, "--exponents", "1", "3"]) == 2
    assert "already holds runs; go on by --resume" in capsys.readouterr().err
    # Resumed, what is done stays as it is and what is missing is trained.
    assert main([*command, "--exponents", "1", "3", "--resume"]) == 0
    assert weights.stat().st_mtime_ns == first
    assert "new functions of the prior" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((out / "pools.json").read_text())["sizes"] == [2, 8]
    assert (out / "pools.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2^3 |" in (out / "pools.md").read_text()
    # The runs alone are measured alike.
    runs = [str(out / "runs" / f"tiny-2^{k}") for k in (1, 3)]
    again = tmp_path / "again"
    assert main(["pools", *runs, "--episodes", "8", "--out", str(again)]) == 0
    assert (again / "pools.json").read_text() == (out / "pools.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder for the runs by --out"),
        (["somewhere", "--steps", "3"], "--steps is for training"),
        (["somewhere", "--resume"], "--resume is for training"),
        (["--out", "x", "--episodes", "1"], "--episodes at least 2"),
        (["--out", "x", "--recipe", "linear"], "linear is no recipe on a LinearPool"),
        (["--out", "x", "--exponents", "21"], "size must lie in 1..1048576"),
        (["--out", "x", "--exponents", "-1"], "exponents must be whole numbers of at least 0"),
        (["ridge(0.1)"], "was not trained on a LinearPool"),
    ],
    ids=["nothing", "steps", "resume", "episodes", "recipe", "large", "negative", "no model"],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told_in_one_line: Callable[[list[str], str], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    told_in_one_line(["pools", *arguments], message)
    assert not (tmp_path / "x").exists()
