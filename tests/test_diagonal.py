"""Akyürek's diagonal: ridge regressions in the place of trained models lie on it, and others are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iclkit.analysis.diagonal import RATIOS, Diagonal, ridge_diagonal
from iclkit.analysis.questions import answers, ask
from iclkit.cli import main
from iclkit.errors import UserError
from iclkit.learners import LeastSquares, Ridge
from iclkit.tasks import DecisionTrees, LinearRegression


@pytest.fixture(scope="module")
def ridges() -> Diagonal:
    """Five ridge regressions, each with the penalty that is right for its noise."""
    return ridge_diagonal({ratio: Ridge(ratio).predict for ratio in RATIOS}, points=20, episodes=64)


def test_every_ridge_is_on_the_diagonal(ridges: Diagonal) -> None:
    assert all(ridges.on_diagonal)
    assert all(ridges.fits)
    assert "5 of 5 columns" in ridges.verdict
    for column, (ratio, fitted) in enumerate(zip(ridges.ratios, ridges.fitted, strict=True)):
        # They say the same but for rounding in float32, of which the worst contexts at n = d make most.
        assert float(ridges.spd[column][column].mean.mean()) < 1e-6
        if ratio:
            assert fitted.value == pytest.approx(ratio, rel=1e-2)
            # The curve is least at the drawn penalty that is nearest.
            least = min(range(len(ridges.drawn)), key=ridges.profiles[column].__getitem__)
            assert ridges.drawn[least] == pytest.approx(ratio, rel=10**0.1 - 1)


def test_entries_are_mean_squared_differences() -> None:
    """By hand, without noise: there no prediction lies so far out that it would be scaled down much."""
    found = ridge_diagonal({0.0: LeastSquares()}, dim=3, points=8, episodes=32, penalties=[0.5, 2.0])
    asked = ask(LinearRegression(3), 8, 32, torch.Generator().manual_seed(0))
    for row, penalty in enumerate(found.penalties):
        difference = answers(LeastSquares(), asked) - answers(Ridge(penalty), asked)
        wanted = float(difference.double().square().mean()) / 3
        assert float(found.spd[row][0].mean.mean()) == pytest.approx(wanted, rel=0.05)


def test_wrong_ones_are_told() -> None:
    wrong = ridge_diagonal({1 / 16: Ridge(4 / 9), 4 / 9: Ridge(1 / 16)}, points=16, episodes=16)
    assert not any(wrong.on_diagonal)
    assert not any(wrong.fits)
    assert "in 0 of 2 columns" in wrong.verdict
    noiseless = ridge_diagonal({0.0: Ridge(0.1)}, points=16, episodes=16, penalties=[0.0, 0.1])
    assert noiseless.on_diagonal == (False,)
    assert noiseless.fits == (False,)


def test_rows_of_ones_own() -> None:
    """The diagonal is then where the penalty is nearest to the column's σ²/τ²."""
    found = ridge_diagonal({0.25: Ridge(0.25)}, points=12, episodes=32, penalties=[3.0, 0.3, 0.01])
    assert found.penalties == (0.01, 0.3, 3.0)
    assert found.on_diagonal == (True,)


def test_table_bolds_the_least_of_each_column(ridges: Diagonal) -> None:
    table = ridges.table()
    assert list(table.columns) == ["σ²/τ²", "0", "1/16", "1/9", "1/4", "4/9"]
    assert [row[0] for row in table.rows] == [f"λ = {name}" for name in table.columns[1:]] + [
        "fitted λ",
        "from",
        "to",
    ]
    assert table.best == frozenset((i, i + 1) for i in range(5))


@pytest.mark.parametrize(
    ("learners", "penalties", "message"),
    [
        ({}, None, "at least 0, given"),
        ({-1.0: Ridge(1.0)}, None, "at least 0, given"),
        ({1.0: Ridge(1.0)}, [-2.0], "penalties must be at least 0"),
        ({1.0: Ridge(1.0)}, [], "penalties must be at least 0"),
    ],
    ids=["none", "negative", "negative penalty", "no penalty"],
)
def test_refusals(learners: dict[float, Ridge], penalties: list[float] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ridge_diagonal(learners, penalties=penalties)


class _Model(Ridge):
    """A ridge regression that says it was trained on a task, as models do."""

    @property
    def task(self) -> LinearRegression | DecisionTrees:
        if self.penalty > 100:
            return DecisionTrees()
        return LinearRegression(2 if self.penalty > 10 else 3, noise_std=self.penalty**0.5)

    limit = 10


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of models are penalties of ridge regressions."""
    monkeypatch.setattr("iclkit.cli.diagonal.parse_learner", lambda text: _Model(float(text)))


def test_command(models: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "found"
    arguments = ["diagonal", "0.0625", "0.25", "--episodes", "32", "--penalties", "0", "1/16", "1/4"]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "The smallest entry lies on the diagonal in 2 of 2 columns" in said
    written = json.loads((out / "diagonal.json").read_text())
    assert written["penalties"] == [0.0, 1 / 16, 1 / 4]
    assert len(written["spd"][0][0]) == 3  # mean and interval
    assert (out / "diagonal.png").read_bytes().startswith(b"\x89PNG")
    assert "| λ = 1/16 | **" in (out / "diagonal.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0.25", "0.25"], "two models were trained at σ²/τ² = 0.25"),
        (["0.25", "11"], "the models differ in (dim, weight_std)"),
        (["101"], "101 was not trained on linear regression"),
        (["0.25", "--penalties", "a/b"], "fractions like 1/16, given 'a/b'"),
        (["0.25", "--penalties", "1/0"], "fractions like 1/16, given '1/0'"),
        (["0.25", "--points", "40"], "10"),
        (["0.25", "--seed", "-1"], "--seed must lie in"),
    ],
    ids=["twice", "dimensions", "task", "text", "zero", "too long", "seed"],
)
def test_mistakes_are_told_in_one_line(
    models: None, arguments: list[str], message: str, told_in_one_line: Callable[[list[str], str], None]
) -> None:
    told_in_one_line(["diagonal", *arguments], message)
