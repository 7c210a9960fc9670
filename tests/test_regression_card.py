"""Cards of regressors, with networks that were never trained, and calibration against closed forms."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from iclkit.analysis.regression_calibration import calibrate_regressor
from iclkit.errors import UserError
from iclkit.learners import BayesLinear, LeastSquares, Ridge
from iclkit.report.bayes_section import against_bayes
from iclkit.report.card import write_card
from iclkit.report.kinds_section import by_kind
from iclkit.report.model_facts import duration, training_section
from iclkit.report.priors import prior_in_words
from iclkit.tasks import (
    REGRESSION_TASKS,
    TASKS,
    BroadMixtures,
    DecisionTrees,
    GaussianMixtures,
    LinearRegression,
    NoiseLevels,
    RegressionTask,
    Scaled,
    TaskMixture,
    VariableDimension,
)
from iclkit.tasks.shifts import Around
from iclkit.training import RegressorConfig, recipe_named
from iclkit.training.models import load, save_model

TRAINING = {"steps": 7, "seconds": 90.0}


def model_folder(folder: Path, base: str, task: RegressionTask, points: int, components: int = 0) -> Path:
    """A model that was never trained, of the kind that a recipe makes."""
    network = RegressorConfig(
        dim=task.dim,
        width=8,
        layers=1,
        heads=1,
        mlp_ratio=1,
        max_points=points,
        tokens="joined",
        components=components,
    )
    recipe = dataclasses.replace(recipe_named(base), name=f"tiny-{base}", task=task, network=network, points=9)
    weights = dict(network.build(0).named_parameters())
    return save_model(folder / base, recipe, weights, TRAINING)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = LinearRegression(dim=3, noise_std=0.5)
    return model_folder(tmp_path_factory.mktemp("linear"), "linear", task, points=8)


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = (VariableDimension(LinearRegression(dim=2)), DecisionTrees(dim=2, depth=2))
    task = TaskMixture(tuple(NoiseLevels(kind) for kind in kinds))
    return model_folder(tmp_path_factory.mktemp("general"), "general", task, points=8, components=2)


def check(text: str, *words: str) -> None:
    """The words are there, nothing is NaN, and every table is rectangular."""
    for phrase in words:
        assert phrase in text, phrase
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert tables
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_the_card_of_a_linear_model(linear: Path):
    card = write_card(linear, datasets=16)
    text = card.read_text(encoding="utf-8")
    assert card == linear / "card.md"
    assert load(linear).card == text
    check(
        text,
        "# tiny-linear",
        "inputs of 3 columns; contexts of 0 to 8 pairs",
        "linear functions wᵀx in 3 dimensions, w ~ N(0, I), x ~ N(0, I), noise N(0, 0.25)",
        "7 of 64 episodes: 448 episodes",
        "time: 2 min",
        "**Largest ratio to Bayes' risk for n ≥ 2d: ",
        "ridge, λ = σ²/τ² = 0.25",
        "## Which algorithm it has become",
        "**After 2d = 6 pairs or more: tiny-linear ",
        "## Out of its distribution",
        "squared error / 3 after 8 pairs",
        "| random-orthants |",
        "does not say how sure it is",
        "`iclkit card tiny-linear --datasets 16`",
    )
    assert "## Calibration" not in text


def test_the_card_of_a_general_model_with_densities(general: Path, tmp_path: Path):
    out = tmp_path / "card.md"
    assert write_card(general, out, datasets=16) == out
    check(
        out.read_text(encoding="utf-8"),
        "predicts a density of y",
        "inputs of 1 to 2 columns",
        "into its own standard units",
        "each episode from one of 2 kinds, equally often, always x ~ N(0, I), noise of a standard deviation",
        "8 episodes of each kind",
        "| LinearRegression(dim=2) |",
        "**Out of its prior**",
        "| SineCurves(0.1, noise_std=0.1) |",
        "## Calibration",
        "in the 95 % interval / %",
        "Fewer than two pairs have no units",
    )


def test_the_card_of_bayes_itself_says_so():
    """A learner that is Bayes has no excess; one that is least squares has that of least squares."""
    task = LinearRegression(dim=2, noise_std=0.5)
    text = against_bayes(disguised(BayesLinear(0.5), "exact"), task, 16, 0)
    check(text, "n ≥ 2d: 1 [1, 1] at n = ")
    quiet = against_bayes(disguised(LeastSquares(), "exact"), LinearRegression(dim=2), 16, 0)
    check(quiet, "to least squares, per d, for n ≥ 2d: 0 [0, 0] at n = ")
    # Ridge with the wrong penalty is told from Bayes by what it is itself, not by its name.
    assert "1 [1, 1]" not in against_bayes(disguised(Ridge(5.0), "wrong"), task, 16, 0)


def disguised(learner: Any, name: str) -> Any:
    """A textbook learner that looks like a trained one as far as the sections look."""

    class Disguise(type(learner)):
        limit = 8

    found = Disguise(**{field.name: getattr(learner, field.name) for field in dataclasses.fields(learner)})
    object.__setattr__(found, "name", name)
    object.__setattr__(found, "pads", False)
    object.__setattr__(found, "network", RegressorConfig(dim=2, max_points=8))
    return found


def test_errors_by_kind_are_relative_to_the_functions_variance():
    """Least squares in standard units is among the classical learners, so it is never better than the best."""
    task = LinearRegression(dim=2, noise_std=0.1)
    text = by_kind(disguised(LeastSquares(), "exact"), task, 200, 0)
    (row,) = [line for line in text.splitlines() if line.startswith("| LinearRegression")]
    cells = row.split("|")[2:-1]
    assert len(cells) == 2  # after 4 and 8 pairs
    # σ² E tr (XᵀX)⁻¹ = σ² d / (n - d - 1) over a mean variance of d: 0.01 / 5 = 0.002 after 8 pairs. The mean
    # over 200 episodes scatters by less than half of it.
    last = float(cells[1].split("±")[0])
    assert 0.001 < last < 0.004


@pytest.mark.parametrize("right", [True, False])
def test_calibration_of_bayes_is_exact_and_of_a_doubter_is_not(right: bool):
    """Bayes' F(y) is uniform: with 2000 episodes each frequency is within 4 standard errors (6e-5 each)."""
    task = LinearRegression(dim=3, noise_std=0.5)
    learner = BayesLinear(0.5 if right else 1.0)
    found = calibrate_regressor(learner, task, (0, 2, 5, 10), 2000, seed=3)
    deviations = found.deviation
    if not right:
        # Twice the noise: after 10 pairs, most targets lie in the middle half.
        assert found.coverage(0.5).mean[-1] > 0.7
        assert deviations[-1] > 3 * found.chance
        return
    for level in (0.5, 0.8, 0.9, 0.95):
        error = (level * (1 - level) / 2000) ** 0.5
        assert (found.coverage(level).mean - level).abs().max() < 4 * error
    # Four sizes at 5 % each would be exceeded once in five; 1.63/1.36 as far at 1 %.
    assert deviations.max() < 1.63 / 1.358 * found.chance
    for i, transform in enumerate(found.transform.T):
        expected = stats.kstest(transform.numpy(), "uniform")
        assert float(deviations[i]) == pytest.approx(float(expected.statistic), abs=1e-12)  # pyright: ignore
    # 95 % of the law of √D times the deviation, corrected for 2000 (Stephens, 1974): to 1 %.
    assert found.chance == pytest.approx(stats.kstwo.ppf(0.95, 2000), rel=0.01)


def test_log_likelihoods_of_the_calibration_are_the_learners_own():
    task = LinearRegression(dim=2, noise_std=0.5)
    learner = BayesLinear(0.5)
    found = calibrate_regressor(learner, task, (3, 6), 20, seed=4)
    pairs = task.draw(20, 7, torch.Generator().manual_seed(4))
    torch.testing.assert_close(found.log_prob, learner.log_prob(pairs.x, pairs.y)[:, [3, 6]].double())
    y = pairs.y.double().numpy()
    # Student's t with the moments of the targets before: the predictive law of normal data (Jeffreys' prior).
    scale = y[:, :6].std(1, ddof=1) * (1 + 1 / 6) ** 0.5
    expected = stats.t.logpdf(y[:, 6], 5, y[:, :6].mean(1), scale)
    torch.testing.assert_close(found.blind[:, 1], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert [row[0] for row in found.table().rows] == ["3", "6"]


def test_calibration_of_a_trained_model_asks_only_what_it_shows(general: Path):
    """The queries of a standardised model agree with its distributions after every prefix."""
    learner = load(general, "regression")
    task = DecisionTrees(dim=2, depth=2, noise_std=0.3)
    found = calibrate_regressor(learner, task, (4, 8), 6, seed=5)  # pyright: ignore[reportArgumentType]
    pairs = task.draw(6, 9, torch.Generator().manual_seed(5))
    said: Any = learner
    expected = said.distribution(pairs.x, pairs.y).cdf(pairs.y)[:, [4, 8]].double()
    # float32 within the network.
    torch.testing.assert_close(found.transform, expected, rtol=1e-4, atol=1e-5)


def test_calibration_refuses_what_is_no_measurement():
    task = LinearRegression(dim=2, noise_std=0.5)
    with pytest.raises(UserError, match="context_sizes"):
        calibrate_regressor(BayesLinear(0.5), task, ())
    with pytest.raises(UserError, match="level"):
        calibrate_regressor(BayesLinear(0.5), task, (1,), 4).coverage(1.0)


@pytest.mark.parametrize("name", [*REGRESSION_TASKS, "GaussianMixtures", "BroadMixtures"])
def test_every_prior_is_said_in_words(name: str):
    task = {**TASKS, **REGRESSION_TASKS}[name]()
    text = prior_in_words(task)
    assert "(dim=" not in text  # no repr, at any depth
    assert name not in text
    if isinstance(task, Around) and task != Scaled():  # which as it stands changes nothing
        assert text != prior_in_words(task.task)


def test_priors_in_words():
    assert "1 dimension," in prior_in_words(GaussianMixtures(dim=1))
    assert "1 to 6 Gaussians in 2 dimensions" in prior_in_words(BroadMixtures())
    assert "w ~ N(0, 4 I), x ~ N(0, I), no noise" in prior_in_words(LinearRegression(weight_std=2.0))
    assert "noise N(0, 1)" in prior_in_words(LinearRegression(noise_std=1.0))
    assert "inputs times 0.333" in prior_in_words(Scaled(inputs_factor=1 / 3))
    mixture = TaskMixture((LinearRegression(2), DecisionTrees(2)), (1.0, 3.0))
    assert "always x ~ N(0, I), no noise: 25 % linear functions" in prior_in_words(mixture)
    levels = NoiseLevels(VariableDimension(LinearRegression(2, noise_std=0.5)), least=0.1, most=1.0)
    assert prior_in_words(levels).endswith(
        "in 1 to 2 columns, noise of a standard deviation from 0.1 to 1 (log-uniform) beside noise N(0, 0.25)"
    )


def test_training_of_models_without_records_is_told_as_far_as_known():
    recipe = recipe_named("linear").to_dict()
    text = training_section({"recipe": recipe, "training": {"steps": 3, "seconds": None}}, "episodes")
    assert "3 of 64 episodes: 192 episodes" in text
    assert "time" not in text
    assert [duration(seconds) for seconds in (12.0, 90.0, 8000.0)] == ["12 s", "2 min", "2 h 13 min"]
