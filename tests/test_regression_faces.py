"""Faces of regression: learners and tasks as text, mistakes in one line, learners on other devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iclkit
from iclkit import cli
from iclkit.analysis import error
from iclkit.analysis.compare import compare
from iclkit.analysis.diagonal import ridge_diagonal
from iclkit.analysis.distances import spd
from iclkit.analysis.identify import identify
from iclkit.analysis.shifts import compare_shifts
from iclkit.analysis.weight_tables import compare_weights
from iclkit.cli.specs import parse_learner, parse_task
from iclkit.errors import UserError
from iclkit.learners import RegressionLearner, Ridge, Zero, as_learner
from iclkit.learners.on_features import OnFeatures
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.regression import InContextRegressor
from iclkit.tasks import DecisionTrees, LinearRegression

NOISY = LinearRegression(dim=3, noise_std=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Text


def test_identify_takes_text() -> None:
    found = iclkit.identify("ridge(1/4)", "linear(3, 0.5)", points=6, episodes=16, families=["ridge"], fresh=16)
    assert (found.name, found.task) == ("Ridge(0.25)", NOISY)
    again = identify(Ridge(0.25), NOISY, 6, 16, families=["ridge"], fresh=16)
    assert found.to_json() == again.to_json()


@pytest.mark.parametrize("task", ["linear(3", "lineer", 3, None])
def test_what_is_no_task_is_told(task: Any) -> None:
    for call in (iclkit.identify, lambda learner, task: iclkit.compare([learner], task)):
        with pytest.raises(
            UserError, match=r"^(task 'linear\(3' cannot be read|unknown task 'lineer'|task must be)"
        ):
            call(Zero(), task)
    with pytest.raises(UserError, match="unknown learner 'rigde'; did you mean"):
        iclkit.identify("rigde", NOISY)


def test_seeds_and_generators_of_another_kind_are_told() -> None:
    for call in (
        lambda seed: compare([Zero()], NOISY, 4, 3, seed),
        lambda seed: compare_shifts([Zero()], NOISY, 4, 3, seed),
        lambda seed: identify(Zero(), NOISY, 4, 16, seed),
    ):
        for seed in (1.5, "1", -1, 2**63):
            with pytest.raises(
                UserError, match=rf"seed must be a whole number in 0\.\.2\^63-1, given {seed!r}"
            ):
                call(seed)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"generator must be a torch.Generator or None, given 3"):
        spd(Zero(), Zero(), NOISY, generator=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"points must be at least 1 .* given 2.5 and 16"):
        identify(Zero(), NOISY, 2.5, 16)  # pyright: ignore[reportArgumentType]


def test_errors_of_a_learner_are_public() -> None:
    assert error(Zero(), NOISY, 4, 5, seeded()).context_sizes == (0, 1, 2, 3)


PYTHONS_OWN = ("__init__", "positional", "not supported between", "object", "instance")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ridge('a')", "penalty of Ridge must be a number, given 'a'"),
        ("ridge(None)", "penalty of Ridge must be a number, given None"),
        ("ridge(True)", "penalty of Ridge must be a number, given True"),
        ("ridge(1, 2)", "Ridge takes (penalty=0.1), given ridge(1, 2)"),
        ("bayeslinear", "BayesLinear takes (noise_std, weight_std=1.0), given bayeslinear"),
        ("gd(1.5)", "steps of GradientDescent must be a whole number, given 1.5"),
        (
            "gd(2, 'fast')",
            "rate of GradientDescent must be a number or a list (a, b, ...) or None, given 'fast'",
        ),
        ("knn(3, weights=1)", "weights"),
        ("knn('3')", "k of NearestNeighbors must be a whole number, given '3'"),
        ("poolposterior(3, 0.5)", "pool must be a LinearPool or weights"),
        ("poolposterior('a', 0.5)", "pool must be a LinearPool or weights"),
        ("gp(kernel=3)", "kernel"),
        ("newton(steps=(1, 2))", "steps of Newton must be a whole number, given (1, 2)"),
    ],
)
def test_wrong_arguments_of_learners_are_told_in_our_own_words(text: str, message: str) -> None:
    with pytest.raises(UserError) as found:
        parse_learner(text)
    assert message in str(found.value)
    assert not any(word in str(found.value) for word in PYTHONS_OWN), found.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear('a')", "dim of LinearRegression must be a whole number, given 'a'"),
        ("linear(1, 2, 3, 4, 5, 6)", "LinearRegression takes (dim=8, noise_std=0.0,"),
        ("scaled(3)", "task of Scaled must be a task, given 3"),
        ("taskmixture(3)", "TaskMixture"),
        ("diagonalcovariance(linear, variances=3)", "DiagonalCovariance"),
    ],
)
def test_wrong_arguments_of_tasks_are_told_in_our_own_words(text: str, message: str) -> None:
    with pytest.raises(UserError) as found:
        parse_task(text)
    assert message in str(found.value)
    assert not any(word in str(found.value) for word in PYTHONS_OWN), found.value


# Names


def test_the_reference_keeps_its_name() -> None:
    with pytest.raises(UserError, match="a learner is called 'Bayes', the name of the exact reference"):
        compare({"Bayes": Zero()}, NOISY, 4, 3)
    # Where no reference is known the name is free.
    assert compare({"Bayes": Zero()}, DecisionTrees(), 4, 3).reference is None


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SMALL = ("--task", "linear", "--dim", "3", "--points", "4", "--episodes", "3")


def test_a_learner_typed_twice_is_told_how_to_type_it(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compare", "shifts"):
        code, _, err = typed(capsys, command, "ols", "ridge(1)", "ols", *SMALL)
        assert (code, err) == (2, "iclkit: error: ols is named twice; name every learner once\n")


def test_learners_of_one_name_go_by_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "compare", "ols", "LeastSquares", "ridge(1)", *SMALL)
    assert code == 0
    assert all(name in out for name in ("ols", "LeastSquares", "Ridge(1)"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("card", "linear", "--datasets", "0"), "--datasets must be at least 2, given 0"),
        (("identify", "ridge('a')"), "penalty of Ridge must be a number"),
    ],
)
def test_mistakes_of_commands(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = typed(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_resume_may_start(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = typed(capsys, "train", "--help")
    assert "or start if it has none" in " ".join(out.split())


# Devices


class Elsewhere(RegressionLearner):
    """Predicts 0, and takes questions on another device alone, of which every machine has the meta device."""

    device = torch.device("meta")

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        assert {x.device.type, y.device.type} == {"meta"}
        return torch.zeros(y.shape)

    def predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: Any = None) -> Tensor:
        assert {x.device.type, y.device.type, queries.device.type} == {"meta"}
        return torch.zeros(queries.shape[:-1])


def test_learners_are_asked_where_they_are() -> None:
    """Everything comes out as for a learner that is where the questions are."""
    there, here = Elsewhere(), Zero()
    found, expected = (compare({"zero": learner}, NOISY, 5, 4) for learner in (there, here))
    assert torch.equal(found.error("zero").values, expected.error("zero").values)
    weights = compare_weights(found, episodes=3)
    assert weights.ilwd("zero", "Bayes").values.shape == (3, 5)
    assert weights.gradients["zero"].abs().max() == 0
    shifted = compare_shifts([there], NOISY, 5, 4, shifts=["random-orthants", "x-double"])
    assert list(shifted.conditions) == ["none", "random-orthants", "x-double"]
    few: dict[str, Any] = {"families": ["zero", "ridge"], "fresh": 16, "name": "zero"}
    told = [identify(learner, NOISY, 4, 16, **few).to_json() for learner in (there, here)]
    assert told[0] == told[1]
    diagonal = ridge_diagonal({0.25: there}, 3, points=4, episodes=16)
    assert diagonal.ratios == (0.25,)


def test_where_learners_are() -> None:
    network = InContextRegressor(dim=3, width=8, layers=1, heads=1, max_points=4)

    class Module(nn.Linear):
        def predict(self, x: Tensor, y: Tensor) -> Tensor:
            return self(x)[..., 0]

    meta, cpu = torch.device("meta"), torch.device("cpu")
    assert Ridge(1.0).device is None
    assert as_learner(lambda x, y: y).device is None
    assert as_learner(nn.Identity()).device is None
    for device in (cpu, meta):
        model = TrainedRegressor(network.to(device))
        module = Module(3, 1, device=device)
        for learner in (model, OnFeatures(model, torch.sin), as_learner(module), as_learner(module.predict)):
            assert learner.device == device


def test_a_learner_without_numbers_is_told() -> None:
    network = InContextRegressor(dim=3, width=8, layers=1, heads=1, max_points=4)
    model = TrainedRegressor(network.to("meta"), name="mine")
    x, y = torch.zeros(1, 2, 3, device="meta"), torch.zeros(1, 2, device="meta")
    calls: list[Callable[[], object]] = [
        lambda: compare([model], NOISY, 4, 3),
        lambda: identify(model, NOISY, 4, 16),
        lambda: model.predict(x, y),
        lambda: Ridge(1.0).predict(x, y),
        lambda: Ridge(1.0).predict_queries(x, y, x[:, :, None]),
    ]
    for call in calls:
        with pytest.raises(UserError, match="the meta device, which holds shapes alone"):
            call()
