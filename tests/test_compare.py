"""Comparisons of regression learners: each measurement on learners whose answer is known in closed form."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Annotation
from rich.console import Console
from torch import Tensor

import iclkit
from iclkit import cli
from iclkit.analysis.compare import compare
from iclkit.analysis.distances import error, excess_risk, spd
from iclkit.analysis.interpolation import interpolate, match_scale
from iclkit.analysis.intervals import Curve, Interval, cell, ratio
from iclkit.analysis.linear_weights import ilwd
from iclkit.analysis.naming import named, written
from iclkit.analysis.questions import answers, ask
from iclkit.analysis.sensitivities import (
    gradient_alignment,
    project_on_contexts,
    sensitivities,
    sensitivity_difference,
)
from iclkit.analysis.shifts import UNSHIFTED, compare_shifts
from iclkit.analysis.weight_tables import compare_weights
from iclkit.cli.specs import parse_learner, parse_task
from iclkit.errors import UserError
from iclkit.learners import (
    REGRESSION_LEARNERS,
    Averaging,
    BayesLinear,
    GradientDescent,
    LeastSquares,
    NearestNeighbors,
    Ridge,
    Zero,
    as_learner,
)
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.networks import Attention, MergedAttention
from iclkit.regression import InContextRegressor
from iclkit.report.figures import png
from iclkit.report.regression_figures import comparison_figure, interpolation_figure, shifts_figure
from iclkit.tasks import REGRESSION_TASKS, SHIFTS, GaussianMixtures, LinearRegression, PairsTask
from iclkit.training import RECIPES

LINEAR = LinearRegression(dim=4)
NOISY = LinearRegression(dim=4, noise_std=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def along(*weights: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A learner that has learned nothing: wᵀx, whatever the context."""
    return lambda x, y: x @ torch.tensor(weights, dtype=x.dtype)


def bent(x: Tensor, y: Tensor) -> Tensor:
    """x_1 + x_1² / 2, whatever the context."""
    return x[..., 0] + 0.5 * x[..., 0].square()


def check_mean(curve: Curve, expected: Tensor | float) -> None:
    """Every mean lies within 5 standard errors of what is expected: a false alarm in 10⁶ for each size."""
    deviation = (curve.mean - expected).abs()
    error = curve.values.double().std(0) / curve.datasets**0.5
    assert (deviation <= 5 * error + 1e-9).all(), (deviation / error).tolist()


# Distances


def test_squared_prediction_difference_of_two_fixed_functions() -> None:
    a, b = along(1.0, 0.0, 0.0, 2.0), along(0.0, 0.0, 0.0, 4.0)
    found = spd(a, b, LINEAR, 6, 500, seeded())
    asked = ask(LINEAR, 6, 500, seeded())
    torch.testing.assert_close(
        found.values, (asked.x[..., 0] - 2 * asked.x[..., 3]).square().double(), atol=1e-5, rtol=1e-5
    )
    check_mean(found, 5.0)  # |w_a - w_b|²
    per_dimension = spd(a, b, LINEAR, 6, 500, seeded(), per_dimension=True)
    torch.testing.assert_close(per_dimension.values, found.values / 4)
    assert spd(a, a, LINEAR, 6, 20, seeded()).values.max() == 0


def test_errors_follow_theory() -> None:
    sizes = torch.arange(40.0, dtype=torch.float64)
    dim = 8
    task = LinearRegression(dim=dim)
    check_mean(error(LeastSquares(), task, 40, 600, seeded()), dim * (1 - sizes / dim).clamp(min=0))
    averaging = error(Averaging(), task, 40, 600, seeded())
    check_mean(averaging.at(*range(1, 40)), dim * (dim + 1) / sizes[1:])


def test_error_against_noisy_targets_exceeds_the_other_by_the_noise() -> None:
    against = [error(Ridge(0.5), NOISY, 10, 800, seeded(), against=kind) for kind in ("function", "target")]
    check_mean(against[1] - against[0], 0.25)
    assert against[0].overall().half_width < against[1].overall().half_width


def test_excess_risk_is_the_difference_of_the_risks() -> None:
    learner = NearestNeighbors(3)
    excess = excess_risk(learner, NOISY, 12, 800, seeded())
    risks = [error(k, NOISY, 12, 800, seeded(), "target") for k in (learner, BayesLinear(0.5))]
    difference = risks[0] - risks[1]
    check_mean(difference - excess, 0.0)
    assert (excess.values >= 0).all()
    assert excess.overall().half_width < difference.overall().half_width
    assert excess_risk(BayesLinear(0.5), NOISY, 12, 20, seeded()).values.max() < 1e-10


def test_unknown_functions_leave_the_targets() -> None:
    x, y = torch.randn(12, 3, generator=seeded()), torch.randn(12, generator=seeded(1))
    task = PairsTask(x, y)
    with pytest.raises(UserError, match="against='target'"):
        error(Zero(), task, 6, 4, seeded())
    found = compare([Zero(), LeastSquares()], task, points=6, episodes=5)
    torch.testing.assert_close(found.error("Zero").values, found.asked.y.double().square() / 3)
    assert "against the target" in str(found)


def test_queries_elsewhere_are_answered_elsewhere() -> None:
    repeated = SHIFTS["repeated-query"](LINEAR)
    asked = ask(repeated, 8, 6, seeded())
    assert not torch.equal(asked.queries, asked.x)
    # What was seen without noise is known to whoever interpolates.
    found = error(LeastSquares(), repeated, 8, 200, seeded())
    assert found.values[:, 1:].max() < 1e-6
    noisy = ask(SHIFTS["random-orthants"](NOISY), 30, 400, seeded())
    assert noisy.truth is not None
    check_mean(Curve(noisy.context_sizes, (noisy.targets - noisy.truth).square()), 0.25)
    # A learner without a way of its own to answer queries.
    ridge = Ridge(0.3)
    torch.testing.assert_close(
        answers(as_learner(lambda x, y: ridge.predict(x, y)), noisy), answers(ridge, noisy)
    )


# Intervals


def test_ratio_of_paired_curves() -> None:
    values = torch.rand(50, 3, generator=seeded(), dtype=torch.float64)
    curve = Curve((0, 1, 2), values)
    found = ratio(Curve((0, 1, 2), 3 * values), curve)
    for part in (found.mean, found.low, found.high):
        torch.testing.assert_close(part, torch.full((3,), 3.0, dtype=torch.float64))
    with pytest.raises(UserError, match="same datasets"):
        ratio(curve, curve.at(0, 1))


def test_intervals_of_ratios_cover_as_often_as_they_say() -> None:
    # The ratio of the means of |normal| numbers, 300 times: 95 % intervals should miss 15 times, or 18, for the
    # bootstrap is a little narrow. Six standard deviations of a binomial allow 42; false alarms below 1e-8.
    draws = torch.randn(300, 2, 80, 1, generator=seeded(), dtype=torch.float64).abs()
    missed = 0
    for top, bottom in draws:
        found = ratio(Curve((0,), 2 * top), Curve((0,), bottom))
        missed += int(not found.low[0] <= 2 <= found.high[0])
    assert 2 <= missed <= 42


def test_curves_as_tables() -> None:
    table = Curve((0, 5), torch.tensor([[1.0, 2.0], [3.0, 2.0]])).table("error", [5])
    assert table.columns[1] == "error"
    assert table.rows == [["5", "2", "2 to 2"]]


# Sensitivities


def test_sensitivities_of_a_curved_function() -> None:
    asked = ask(LINEAR, 5, 3, seeded())
    expected = torch.zeros(3, 5, 4, dtype=torch.float64)
    expected[..., 0] = 1 + asked.x[..., 0]
    torch.testing.assert_close(sensitivities(as_learner(bent), asked), expected, atol=1e-5, rtol=1e-5)


def test_sensitivities_of_a_linear_learner_are_its_weights_however_they_are_found() -> None:
    ridge = Ridge(0.25)
    asked = ask(NOISY, 12, 8, seeded())

    def hidden(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return ridge.predict(x, y)

    own = sensitivities(ridge, asked)
    torch.testing.assert_close(own, ridge.weights(asked.x, asked.y).double())
    seen = sensitivities(as_learner(lambda x, y: ridge.predict(x, y)), asked)
    torch.testing.assert_close(seen, own, atol=1e-5, rtol=1e-5)
    # Differences in single precision: rounding 1e-7 of y over a step of 5e-3.
    torch.testing.assert_close(sensitivities(as_learner(hidden), asked), own, atol=1e-3, rtol=1e-3)


def test_cosine_and_distance_of_sensitivities() -> None:
    found = sensitivity_difference(along(1, 0, 0, 0), along(1, 1, 0, 0), LINEAR, 3, 4, seeded())
    torch.testing.assert_close(found.cosine.mean, torch.full((3,), 0.5**0.5, dtype=torch.float64))
    torch.testing.assert_close(found.distance.mean, torch.ones(3, dtype=torch.float64))
    nothing = sensitivity_difference(Zero(), along(1, 0, 0, 0), LINEAR, 2, 3, seeded())
    assert nothing.cosine.values.abs().max() == 0


def test_least_squares_moves_along_what_the_context_tells_of_the_weights() -> None:
    found = gradient_alignment(LeastSquares(), LINEAR, 8, 50, seeded())
    assert found.projected.context_sizes == tuple(range(1, 8))
    torch.testing.assert_close(
        found.projected.values, torch.ones(50, 7, dtype=torch.float64), atol=1e-4, rtol=0
    )
    # Its gradient is the projection P w itself, so the other cosine is |P w| / |w|.
    pairs = LINEAR.draw(50, 8, seeded())
    weights = pairs.law.weights  # pyright: ignore
    projected = project_on_contexts(pairs.x, weights[:, None].expand(-1, 8, -1))
    share = projected.norm(dim=-1)[:, 1:] / weights.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found.truth.values, share, atol=1e-4, rtol=0)
    # After one pair there is one direction only; after more, averaging goes astray.
    assert gradient_alignment(Averaging(), LINEAR, 8, 50, seeded()).projected.mean[1:].max() < 0.95
    with pytest.raises(UserError, match="points must be at least 2"):
        gradient_alignment(LeastSquares(), LINEAR, 1, 50, seeded())


def test_projection_on_every_context() -> None:
    x, vectors = (torch.randn(2, 7, 4, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    x[1, 3] = x[1, 2]  # a point that adds no direction
    found = project_on_contexts(x, vectors)
    for n in range(7):
        seen = x[:, :n].mT
        expected = seen @ torch.linalg.pinv(seen) @ vectors[:, n, :, None]
        torch.testing.assert_close(found[:, n], expected[..., 0])


# Implicit linear weights


def test_implicit_weights_of_linear_functions() -> None:
    found = ilwd(along(1.0, 0.0, 0.0, 2.0), along(0.0, 0.0, 0.0, 4.0), LINEAR, 3, 5, seeded())
    torch.testing.assert_close(
        found.distance.mean, torch.full((3,), 5.0, dtype=torch.float64), atol=1e-4, rtol=0
    )
    for part in (found.a, found.b):
        torch.testing.assert_close(part.r2().mean, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    expected = torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64).expand(5, 3, 4)
    torch.testing.assert_close(found.a.weights, expected, atol=1e-4, rtol=0)


def test_implicit_weights_of_a_learner_are_its_own() -> None:
    ridge = Ridge(0.25)
    found = ilwd(ridge, lambda x, y: ridge.predict(x, y), NOISY, 12, 6, seeded())
    assert found.distance.values.max() < 1e-6
    assert found.b.r2().mean.min() > 1 - 1e-6
    assert float(found.a.r2().mean[0]) == 1  # predicts 0 without a context, which is linear


def test_a_bent_function_is_linear_in_part() -> None:
    # Of x + x²/2 at normal x the best linear part is x, and x²/2 has mean square 3/4: R² = 1 / (1 + 3/4).
    # 800 queries to fit leave an error of about 1 %; as many others measure R² to about 3 % an episode.
    found = ilwd(bent, along(1, 0, 0, 0), LINEAR, 2, 30, seeded(), queries=1600)
    assert float(found.a.r2().mean[0]) == pytest.approx(4 / 7, abs=0.05)
    assert found.distance.mean.max() < 0.02
    with pytest.raises(UserError, match="queries must be at least 8"):
        ilwd(bent, bent, LINEAR, 2, 3, seeded(), queries=7)


def test_weights_of_a_comparison_are_those_on_their_own() -> None:
    found = compare({"mine": Ridge(0.25).predict, "ols": LeastSquares()}, NOISY, points=7, episodes=12, seed=2)
    inside = compare_weights(found, episodes=12)
    expected = sensitivity_difference(Ridge(0.25), LeastSquares(), NOISY, 7, 12, seeded(2))
    torch.testing.assert_close(
        inside.cosine("mine", "ols").values, expected.cosine.values, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        inside.distance("mine", "ols").values, expected.distance.values, atol=1e-4, rtol=1e-4
    )
    difference = ilwd(Ridge(0.25), LeastSquares(), NOISY, 7, 12, seeded(2)).distance.values / 4
    torch.testing.assert_close(inside.ilwd("mine", "ols").values, difference, atol=1e-4, rtol=1e-4)
    tables = inside.tables([0, 6])
    assert len(tables) == 4
    # Ridge predicts 0 without a context, of which no share can be explained.
    found = tables["R² of the implicit linear weights (blank: predictions below 1% of their usual size)"]
    name, before, after = found.rows[0]
    assert (name, before) == ("mine", "")
    assert after.startswith("1 ±")
    assert "R² of the implicit linear weights" in inside.tables([1, 6])


def test_r2_of_next_to_nothing_is_left_out() -> None:
    """A network says about 1e-3 without a context, with an R² that is below 0 as often as not."""
    ridge, offset = Ridge(0.25), 1e-3

    def nearly(x: Tensor, y: Tensor) -> Tensor:
        return ridge.predict(x, y) + offset * torch.cos(9 * x[..., 0])

    found = ilwd(nearly, ridge, NOISY, 7, 20, seeded()).a
    assert float(found.r2().mean[0]) < 0.5
    assert found.faint.tolist() == [True] + [False] * 6
    assert float(found.r2().mean[1:].min()) > 0.999
    assert ilwd(Zero(), ridge, NOISY, 3, 4, seeded()).a.faint.all()


def test_cells_show_the_digits_that_are_known() -> None:
    cases = {(1.0, 0.0): "1 ± 0", (0.4567, 0.0123): "0.46 ± 0.01", (223.4, 306.0): "223 ± 306"}
    cases |= {(2.54e-15, 1e-15): "2.5e-15 ± 1e-15", (1.0, 1e-9): "1 ± 1e-09", (3e7, 2e6): "3e+07 ± 2e+06"}
    for (mean, half), text in cases.items():
        interval = Interval(*(torch.tensor(v, dtype=torch.float64) for v in (mean, mean - half, mean + half)))
        assert cell(interval) == text


# Comparison


def test_comparison_of_known_learners() -> None:
    exact = BayesLinear(0.5)

    def off(x: Tensor, y: Tensor) -> Tensor:
        return exact.predict(x, y) + 0.3

    found = compare({"off": off, "zero": Zero()}, NOISY, points=12, episodes=64, seed=3)
    assert found.names == ["off", "zero", "Bayes"]
    torch.testing.assert_close(found.excess("off").mean, torch.full((12,), 0.09 / 4, dtype=torch.float64))
    risk = found.error("Bayes").mean + 0.25 / 4
    torch.testing.assert_close(found.bayes_ratio("off").mean, 1 + 0.09 / 4 / risk)
    without = found.bayes_ratio("off", noise=False).mean
    torch.testing.assert_close(without, 1 + 0.09 / 4 / (risk - 0.25 / 4))
    assert found.asked.truth is not None
    torch.testing.assert_close(found.error("zero").values, found.asked.truth.double().square() / 4)
    torch.testing.assert_close(found.error("zero").values, found.signal.values)
    plain = compare({"off": off}, NOISY, points=12, episodes=64, seed=3, scale=1)
    torch.testing.assert_close(plain.excess("off").mean, torch.full((12,), 0.09, dtype=torch.float64))


def test_comparison_is_the_distances_on_its_own() -> None:
    found = compare([Ridge(0.25), LeastSquares()], NOISY, points=9, episodes=30, seed=5)
    expected = spd(Ridge(0.25), LeastSquares(), NOISY, 9, 30, seeded(5), per_dimension=True)
    assert torch.equal(found.spd("Ridge(0.25)", "LeastSquares").values, expected.values)


def test_comparison_prints_and_writes_the_same_numbers(tmp_path: Path) -> None:
    found = compare([Ridge(0.25), LeastSquares()], NOISY, points=9, episodes=30)
    text = found.to_csv(tmp_path / "numbers.csv")
    assert (tmp_path / "numbers.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    picked = [
        r for r in rows if (r["quantity"], r["learner"], r["context_size"]) == ("error", "Ridge(0.25)", "4")
    ]
    interval = found.error("Ridge(0.25)").interval()[4]
    assert [float(picked[0][k]) for k in ("mean", "low", "high")] == pytest.approx(
        [float(interval.mean), float(interval.low), float(interval.high)]
    )
    quantities = {row["quantity"] for row in rows}
    assert quantities == {"error", "risk ratio", "squared prediction difference"}
    console = Console(file=io.StringIO(), width=120)
    console.print(found)
    shown = " ".join(console.file.getvalue().split())  # pyright: ignore
    for title in found.tables():
        assert title in str(found)
        assert title in shown
    assert found.table([0, 8]).columns == ["learner", "n = 0", "n = 8", "mean"]
    with pytest.raises(UserError, match="not measured"):
        found.table([9])
    with pytest.raises(UserError, match="did you mean 'Ridge"):
        found.error("Ridge(0.2)")


@pytest.mark.parametrize("name", REGRESSION_LEARNERS)
def test_every_learner_can_be_compared(name: str) -> None:
    learner = REGRESSION_LEARNERS[name]()
    task = LinearRegression(dim=learner.dim or 3, noise_std=0.5)
    found = compare({name: learner, "ridge": Ridge(0.25)}, task, points=6, episodes=3)
    assert found.error(name).mean.shape == (6,)
    sensitivity_difference(learner, Ridge(0.25), task, 4, 2, seeded())
    ilwd(learner, Ridge(0.25), task, 4, 2, seeded())


def test_a_trained_network_is_a_learner_like_others() -> None:
    network = InContextRegressor(dim=4, width=8, layers=2, heads=2, max_points=6).eval().requires_grad_(False)
    model = TrainedRegressor(network, task=NOISY, name="mine")
    found = compare([model, Ridge(0.25)], NOISY, points=7, episodes=6)
    assert found.names == ["mine", "Ridge(0.25)", "Bayes"]
    # The gradients that it allows are those of its predictions.
    asked = ask(NOISY, 5, 3, seeded())
    exact = sensitivities(model, asked)
    hidden = sensitivities(as_learner(lambda x, y: model.predict(x, y).detach()), asked)
    torch.testing.assert_close(exact, hidden, atol=2e-3, rtol=1e-2)
    assert exact.abs().max() > 0
    shifted = compare_shifts([model], NOISY, points=5, episodes=3, shifts=["random-orthants"])
    assert "mine" in shifted.names
    with pytest.raises(UserError, match=r"mine: .*at most 6"):
        compare([model], NOISY, points=8, episodes=3)
    with pytest.raises(UserError, match=r"mine: x must have shape \[episodes, points, 4\]"):
        compare([model], LinearRegression(dim=5), points=4, episodes=3)


def test_mistakes_in_comparisons() -> None:
    def broken(x: Tensor, y: Tensor) -> Tensor:
        return y / 0.0 * 0.0

    cases: list[tuple[Any, str]] = [
        ([], "at least one learner"),
        (3, "a list or a dictionary"),
        ([Ridge(1.0), Ridge(1.0)], "two learners are called 'Ridge\\(1.0\\)'"),
        ({"a": 3}, "a function of"),
        ({"mine": lambda x, y: y[:, :2]}, "must return predictions of shape"),
        ({"mine": broken}, "mine predicts NaN"),
    ]
    for learners, message in cases:
        with pytest.raises(UserError, match=message):
            compare(learners, LINEAR, points=4, episodes=3)
    for points, episodes in ((0, 5), (4, 1)):
        with pytest.raises(UserError, match="points must be at least 1"):
            compare([Zero()], LINEAR, points, episodes)


def test_mistakes_in_what_is_asked() -> None:
    """Every measure refuses what is no task, and numbers of points and episodes that are none."""
    measures: list[Callable[..., Any]] = [
        lambda *given: compare([Zero()], *given),
        lambda *given: compare_shifts([Zero()], *given),
        lambda *given: spd(Zero(), LeastSquares(), *given),
        lambda *given: ilwd(Zero(), LeastSquares(), *given),
        lambda *given: sensitivity_difference(Zero(), LeastSquares(), *given),
    ]
    for measure in measures:
        for task in ("linear", GaussianMixtures()):
            with pytest.raises(UserError, match="task must be a regression task"):
                measure(task, 4, 3)
        for numbers in ((0, 3), (4, 1), (4.5, 3)):
            with pytest.raises(UserError, match="points must be at least 1 and episodes at least 2"):
                measure(LINEAR, *numbers)
    with pytest.raises(UserError, match="scale must be positive, given 0"):
        compare([Zero()], LINEAR, 4, 3, scale=0.0)


def test_public_name_takes_text() -> None:
    found = iclkit.compare(["ridge(1/4)", LeastSquares()], "linear(dim=3, noise_std=0.5)", points=5, episodes=4)
    assert found.task == LinearRegression(dim=3, noise_std=0.5)
    assert found.names == ["Ridge(0.25)", "LeastSquares", "Bayes"]
    assert iclkit.compare({"mine": "zero"}, LINEAR, 3, 4).names[0] == "mine"


# Shifts


def test_scaled_functions_scale_errors() -> None:
    found = compare_shifts(
        [LeastSquares(), Zero()], LINEAR, points=6, episodes=40, shifts=["x-double", "y-third"]
    )
    assert list(found.conditions) == [UNSHIFTED, "x-double", "y-third"]
    before = found.conditions[UNSHIFTED].error("LeastSquares").values[:, :4]
    # The episodes are the same, and least squares is linear in x and in y.
    for shift, factor in (("x-double", 4.0), ("y-third", 1 / 9)):
        after = found.conditions[shift].error("LeastSquares").values[:, :4]
        torch.testing.assert_close(after, factor * before, atol=1e-5, rtol=1e-3)


def test_shifts_in_tables_and_numbers() -> None:
    found = compare_shifts(
        [Averaging()], NOISY, points=7, episodes=6, shifts=["orthogonal-query", "label-noise"]
    )
    assert found.names == ["Averaging", "Bayes, no shift", "Bayes"]
    # Beyond d pairs no query is orthogonal to all of them.
    assert found.table(6).rows[1][1:] == ["", "", ""]
    assert found.table(2).rows[1][1] != ""
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert {row["shift"] for row in rows} == set(found.conditions)
    everything = compare_shifts([Averaging()], LINEAR, points=5, episodes=3)
    assert list(everything.conditions) == [UNSHIFTED, *SHIFTS]
    with pytest.raises(UserError, match="did you mean 'x-double'"):
        compare_shifts([Zero()], LINEAR, 4, 3, shifts=["x-doubles"])


# Text


def test_learners_and_tasks_read_what_is_written() -> None:
    for name, make in REGRESSION_LEARNERS.items():
        learner = make()
        text = written(learner)
        if "tensor" not in text and "..." not in text:
            found = parse_learner(text)
            assert (type(found), written(found)) == (type(learner), text), name
    for kind in REGRESSION_TASKS.values():
        task = kind()
        assert parse_task(written(task)) == task
    assert parse_task("Scaled(linear(dim=3), inputs_factor=2)") == parse_task("scaled(LinearRegression(3), 2)")
    assert parse_task("linear", dim=5, noise_std=None) == LinearRegression(dim=5)
    for recipe in ("linear", "sparse", "pool", "sine", "decision-tree", "relu-network"):
        assert type(parse_task(recipe)) is type(RECIPES[recipe]().task)
    assert parse_learner("k-NN(5, weights='distance')") == NearestNeighbors(5, weights="distance")
    assert list(named(["a" and Zero(), bent])) == ["Zero", "bent"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ridg(1)", "did you mean 'Ridge'"),
        ("ridge(penalt=1)", "did you mean 'penalty'"),
        ("ridge(", "cannot be read"),
        ("ridge(x)", "no number, text or task"),
        ("ridge(__import__('os'))", "unknown task"),
        ("ridge(1/0)", "no number"),
        ("knn(1, 2, 3, 4)", "takes"),
        ("ridge('a')", "Ridge"),
        ("linear-9", "unknown learner"),
        ("no/such/folder", "there is no folder"),
    ],
)
def test_mistakes_in_text(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        parse_learner(text)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear(dim=2.5)", "dim of LinearRegression must be a whole number, given 2.5"),
        ("linear(8, 'a')", "noise_std of LinearRegression must be a number, given 'a'"),
        ("Scaled(task=3)", "task of Scaled must be a task, given 3"),
        ("linear(dim=None)", "dim of LinearRegression must be a whole number"),
    ],
)
def test_mistakes_in_tasks_as_text(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_task(text)


# Lines between networks


def descent(rate: float, merged: bool = True, factor: float = 1.0) -> InContextRegressor:
    """A layer of linear attention that takes a step of gradient descent: c W_KQ and W_PV / c, any factor c."""
    network = InContextRegressor(
        dim=4,
        width=5,
        layers=1,
        heads=1,
        mlp_ratio=0,
        tokens="joined",
        attention="linear",
        norm=False,
        embedding="identity",
        bias=False,
        merged=merged,
    )
    (attention,) = (module for module in network.modules() if isinstance(module, Attention))
    inputs, target = torch.diag(torch.tensor([1.0] * 4 + [0.0])), torch.diag(torch.tensor([0.0] * 4 + [1.0]))
    with torch.no_grad():
        if isinstance(attention, MergedAttention):
            attention.key_query.weight.copy_(factor * rate * inputs)
            attention.value_out.weight.copy_(target / factor)
        else:
            # W_Kᵀ W_Q and W_O W_V with a change of basis between the two factors of each.
            basis = torch.linalg.qr(torch.randn(5, 5, generator=seeded())).Q
            attention.qkv.weight.copy_(
                torch.cat([factor * rate * basis @ inputs, basis @ inputs, basis @ target])
            )
            attention.out.weight.copy_(target @ basis.mT / factor)
    return network


@pytest.mark.parametrize("merged_one", [True, False])
def test_one_step_of_descent_in_two_scales_is_one_solution(merged_one: bool) -> None:
    factor = 3.0
    a, b = descent(0.6), descent(0.6, merged_one, factor)
    x, y = LINEAR.sample(400, 11, seeded())
    said = GradientDescent(1, rate=0.6).predict(x, y)
    torch.testing.assert_close(a(x, y)[..., 0], said, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b(x, y)[..., 0], said, atol=1e-5, rtol=1e-5)
    error = (said - y)[:, -1].square().double()
    same = interpolate(a, b, LINEAR, 11, 400, seeded(), steps=5, match=True)
    torch.testing.assert_close(same.losses.values, error[:, None].expand(-1, 5), atol=1e-4, rtol=1e-4)
    assert float(same.barrier().mean) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(match_scale(b, a)(x, y), b(x, y), atol=1e-5, rtol=1e-5)
    if merged_one:
        # Without matching, the line multiplies the prediction by (1 - t + tc)(1 - t + t/c).
        apart = interpolate(a, b, LINEAR, 11, 400, seeded(), steps=5)
        t = torch.tensor(apart.fractions)
        gain = (1 - t + t * factor) * (1 - t + t / factor)
        expected = (gain * said[:, -1:] - y[:, -1:]).square().double()
        torch.testing.assert_close(apart.losses.values, expected, atol=1e-4, rtol=1e-4)
        assert apart.table().columns[0] == "fraction"
        assert png(interpolation_figure({"apart": apart, "matched": same}, ("a", "b"))).startswith(b"\x89PNG")


def test_a_turned_sign_is_a_scale_too() -> None:
    a, b = descent(0.6), descent(0.6, merged=False, factor=-2.0)
    before = torch.get_rng_state()
    same = interpolate(a, b, LINEAR, 6, 50, seeded(), steps=3, match=True, last=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(same.barrier().mean) == pytest.approx(0, abs=1e-5)


def test_mistakes_in_interpolation() -> None:
    softmax = InContextRegressor(dim=4, width=8, layers=1, heads=2)
    mixture = InContextRegressor(dim=4, width=8, layers=1, heads=2, components=2)
    plain: dict[str, Any] = {"dim": 4, "width": 5, "heads": 1, "tokens": "joined", "embedding": "identity"}
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (softmax, InContextRegressor(dim=4, width=8, layers=2, heads=2), {}, "the same weights"),
        (softmax, softmax, {"match": True}, "linear attention alone"),
        (softmax, Ridge(1.0), {}, "given Ridge"),
        (softmax, softmax, {"steps": 1}, r"steps must lie in 2\.\.10000"),
        (softmax, softmax, {"steps": 2**31}, r"steps must lie in 2\.\.10000"),
        (softmax, softmax, {"episodes": 0}, "episodes must be at least 1"),
        (softmax, softmax, {"points": 42}, "contexts of up to 41 pairs, at most 40 are taken"),
        (mixture, mixture, {}, "this network says densities"),
        (
            softmax,
            InContextRegressor(dim=4, width=8, layers=1, heads=2, attention="kernel"),
            {},
            "differ in att",
        ),
        (
            InContextRegressor(**plain),
            InContextRegressor(**plain, negated=True),
            {},
            "the sign of their answers",
        ),
    ]
    for a, b, options, message in cases:
        with pytest.raises(UserError, match=message):
            interpolate(a, b, LINEAR, **{"points": 4, "episodes": 4, "generator": seeded(), **options})


def test_a_line_may_end_in_weights_of_another_type() -> None:
    a, b = descent(0.6), descent(0.3).double()
    found = interpolate(a, b, LINEAR, 6, 20, seeded(), steps=3)
    other = interpolate(a, descent(0.3), LINEAR, 6, 20, seeded(), steps=3)
    torch.testing.assert_close(found.losses.values, other.losses.values)


# Command line and figures


def test_compare_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--dim", "3", "--noise-std", "0.5", "--points", "7", "--episodes", "12", "--out", str(out)]
    assert cli.main(["compare", "ridge(0.25)", "ols", "--weights", *arguments]) == 0
    told = capsys.readouterr()
    assert "squared error / 3" in told.out
    assert "R² of the implicit linear weights" in (out / "compare.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["compare.csv", "compare.md", "compare.png"]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["compare", "ridge(0.25)", "--dims", "3"]) == 2
    assert "did you mean '--dim'" in capsys.readouterr().err
    assert cli.main(["compare", "ridge(0.25)", "--task", "lineer"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_shifts_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--dim", "3", "--points", "5", "--episodes", "6", "--out", str(out)]
    assert cli.main(["shifts", "ols", *arguments, "--shifts", "repeated-query", "skewed"]) == 0
    assert "repeated-query" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["shifts.csv", "shifts.md", "shifts.png"]
    (out / "mine").touch()
    assert cli.main(["shifts", "ols", "--out", str(tmp_path)]) == 2


def test_comparison_figure_names_every_line() -> None:
    found = compare([Ridge(0.25), Zero()], NOISY, points=6, episodes=8)
    figure = comparison_figure(found)
    left, right = figure.axes
    named_left, named_right = (
        {text.get_text() for text in axes.get_children() if isinstance(text, Annotation)}
        for axes in (left, right)
    )
    assert named_left == {"Ridge(0.25)", "Zero", "Bayes"}
    assert named_right == {"Zero", "Bayes"}
    assert left.get_yscale() == "log"
    assert png(figure).startswith(b"\x89PNG")


def test_shifts_figure_has_a_panel_for_each_shift() -> None:
    found = compare_shifts([Zero()], NOISY, points=4, episodes=4, shifts=["skewed", "x-half"])
    figure = shifts_figure(found)
    assert [axes.get_title() for axes in figure.axes] == ["no shift", "skewed", "x-half"]
    assert png(figure).startswith(b"\x89PNG")


def test_shifts_figure_leaves_out_queries_that_ask_for_nothing() -> None:
    """After d inputs nothing but 0 is orthogonal to all; the axes stay those of the other panels."""
    found = compare_shifts([Zero()], NOISY, points=9, episodes=4, shifts=["orthogonal-query"])
    figure = shifts_figure(found)
    drawn: list[Any] = [axes.lines[0].get_xdata() for axes in figure.axes]
    assert [list(line) for line in drawn] == [list(range(9)), list(range(NOISY.dim))]
    assert all(axes.get_xlim()[1] > 8 for axes in figure.axes)
    assert png(figure).startswith(b"\x89PNG")
