"""`identify` says what varies with the context size, knows an intercept, and names the simplest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iclkit.analysis.families import FAMILIES
from iclkit.analysis.identification import Identification
from iclkit.analysis.identify import identify
from iclkit.cli.specs import parse_learner
from iclkit.errors import UserError
from iclkit.learners import (
    Averaging,
    GaussianProcess,
    GradientDescent,
    Lasso,
    LeastSquares,
    NearestNeighbors,
    OnePassSGD,
    OnFeatures,
    RegressionLearner,
    Ridge,
    WithIntercept,
    Zero,
    with_one,
)
from iclkit.tasks import LinearRegression

TASK = LinearRegression(dim=4, noise_std=0.5)
POINTS = 11
Make = Callable[[int], RegressionLearner]


def by_size(make: Make) -> Callable[[Tensor, Tensor], Tensor]:
    """A function whose algorithm differs from context size to context size."""

    def predict(x: Tensor, y: Tensor) -> Tensor:
        queries = [x[:, n : n + 1, None] for n in range(x.shape[1])]
        return torch.cat([make(n).predict_queries(x, y, q, [n])[..., 0] for n, q in enumerate(queries)], 1)

    return predict


FEW = ["zero", "averaging", "least squares", "mean target", "ridge", "ridge with intercept", "k-NN", "GD"]


def found_of(learner: Callable[[Tensor, Tensor], Tensor], seed: int = 0, **options: object) -> Identification:
    return identify(learner, TASK, POINTS, 48, seed, name="it", fresh=96, **options)  # pyright: ignore


# Learners with a parameter that varies: the family, which varies, its value by context size, what does not.
VARYING: dict[str, tuple[Make, str, str, Callable[[int], float], dict[str, float]]] = {
    "ridge, like n": (lambda n: Ridge(0.1 * n + 1e-6), "ridge", "penalty", lambda n: 0.1 * n + 1e-6, {}),
    "ridge, like 1/n": (lambda n: Ridge(3 / (n + 1)), "ridge", "penalty", lambda n: 3 / (n + 1), {}),
    "ridge, a switch": (
        lambda n: Ridge(0.1 if n < 8 else 9.0),
        "ridge",
        "penalty",
        lambda n: 0.1 if n < 8 else 9,
        {},
    ),
    "GD, more steps": (
        lambda n: GradientDescent(1 + n // 2, 0.1),
        "GD",
        "steps",
        lambda n: 1 + n // 2,
        {"rate": 0.1},
    ),
    "GD, slower": (
        lambda n: GradientDescent(3, 0.4 / (1 + 0.1 * n)),
        "GD",
        "rate",
        lambda n: 0.4 / (1 + 0.1 * n),
        {"steps": 3},
    ),
    "neighbours": (lambda n: NearestNeighbors(1 + n // 3), "k-NN", "k", lambda n: 1 + n // 3, {}),
    "SGD": (lambda n: OnePassSGD(0.02 / (1 + n)), "one-pass SGD", "rate", lambda n: 0.02 / (1 + n), {}),
    "Lasso": (lambda n: Lasso(0.02 * (n + 1) ** 0.5), "Lasso", "penalty", lambda n: 0.02 * (n + 1) ** 0.5, {}),
    "ridge with intercept": (
        lambda n: WithIntercept(Ridge(0.1 * n + 1e-6)),
        "ridge with intercept",
        "penalty",
        lambda n: 0.1 * n + 1e-6,
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", VARYING)
def test_a_parameter_that_varies_is_said_to_among_all_families(name: str, seed: int) -> None:
    make, family, parameter, *_ = VARYING[name]
    found = identify(by_size(make), TASK, 30, 128, seed)
    assert (found.nearest.family.name, found.grade) == (family, "is"), found.verdict
    assert found.nearest.variation is not None
    assert list(found.nearest.variation.estimates) == [parameter]


@pytest.mark.parametrize("name", VARYING)
def test_a_parameter_that_varies_is_said_to(name: str) -> None:
    """Its value at every context size within 1%, and the others as one value.

    Values are determined but for rounding of float32; after one pair what is centred says nothing.
    """
    make, family, parameter, value, constant = VARYING[name]
    families = FEW if family in FEW else [*FEW, family]
    found = found_of(by_size(make), families=families)
    nearest, variation = found.nearest, found.nearest.variation
    assert (nearest.family.name, found.grade) == (family, "is"), found.verdict
    assert variation is not None
    assert variation.adopted
    assert list(variation.estimates) == [parameter]
    for other, right in constant.items():
        assert variation.constant[other] == pytest.approx(right, rel=1e-2)
    for n in range(2, POINTS):
        one = variation.estimates[parameter][n]
        assert one.value == pytest.approx(value(n), rel=1e-2), n
        assert one.low <= 1.01 * value(n)
        assert one.high >= 0.99 * value(n)
    assert f"{parameter} varies with the context size" in found.verdict
    # No interval of one value is told.
    assert not re.search(rf"{parameter} = \S+ \[", found.verdict)
    known = json.loads(found.to_json())["matches"][0]["parameters_by_context_size"]
    assert known["varying"][parameter][-1]["value"] == pytest.approx(value(POINTS - 1), rel=1e-2)


def test_the_verdict_tells_powers_and_switches() -> None:
    assert "about 0.1 n^1)" in found_of(by_size(lambda n: Ridge(0.1 * n + 1e-9)), families=FEW).verdict
    assert "about 2 n^-1)" in found_of(by_size(lambda n: Ridge(2 / max(n, 1))), families=FEW).verdict
    assert (
        "0.1 up to n = 7, 9 from n = 8)"
        in found_of(by_size(VARYING["ridge, a switch"][0]), families=FEW).verdict
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "learner",
    [Ridge(0.3), GradientDescent(4, 0.2), NearestNeighbors(3), Lasso(0.05), WithIntercept(Ridge(1.0))],
    ids=str,
)
def test_a_parameter_that_does_not_vary_is_not_said_to(learner: RegressionLearner, seed: int) -> None:
    found = found_of(lambda x, y: learner.predict(x, y), seed, families=[*FEW, "Lasso"])
    assert found.grade == "is", found.verdict
    assert found.nearest.variation is None, found.verdict


def test_chance_is_no_variation() -> None:
    """A noisy ridge regression: the penalties that are fitted differ, but no others than one are right.

    The test is one of 99.8%, so that a false alarm in three seeds has a chance of one in 200.
    """
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)

        def noisy(x: Tensor, y: Tensor, generator: torch.Generator = generator) -> Tensor:
            return Ridge(0.5).predict(x, y) + 0.2 * torch.randn(y.shape, generator=generator)

        found = found_of(noisy, seed, families=["ridge", "averaging", "GD"])
        assert found.nearest.family.name == "ridge", found.verdict
        assert found.nearest.variation is None, found.verdict


def test_what_varies_a_little_is_told_beside_the_value_for_all() -> None:
    """A blend, of which ridge regression by context size explains more, but not ten times as much."""
    ridge = by_size(lambda n: Ridge(0.1 * n + 0.05))

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        return 0.9 * ridge(x, y) + 0.1 * NearestNeighbors(1).predict(x, y)

    found = found_of(mixed, families=["ridge", "k-NN"])
    assert found.nearest.family.name == "ridge"
    assert found.nearest.variation is not None
    assert not found.nearest.variation.adopted
    assert "overall, but varies with the context size: " in found.verdict
    assert "where that may vary" in found.verdict
    assert "[" not in found.verdict


INTERCEPTS: dict[str, tuple[RegressionLearner, dict[str, float]]] = {
    "mean target": (WithIntercept(Zero()), {}),
    "averaging with intercept": (WithIntercept(Averaging()), {}),
    "least squares with intercept": (WithIntercept(LeastSquares()), {}),
    "ridge with intercept": (WithIntercept(Ridge(0.3)), {"penalty": 0.3}),
    "averaging on (1, x)": (OnFeatures(Averaging(), with_one), {}),
    "least squares on (1, x)": (OnFeatures(LeastSquares(), with_one), {}),
    "ridge on (1, x)": (OnFeatures(Ridge(0.3), with_one), {"penalty": 0.3}),
}


@pytest.mark.parametrize("family", INTERCEPTS)
def test_intercepts_are_known(family: str) -> None:
    learner, values = INTERCEPTS[family]
    found = found_of(lambda x, y: learner.predict(x, y))
    assert (found.nearest.family.name, found.grade) == (family, "is"), found.verdict
    for name, value in values.items():
        assert found.nearest.parameters[name].value == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_an_intercept_is_what_centring_by_hand_gives(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 9, 4, generator=generator, dtype=torch.float64) + offset
    y = torch.randn(3, 9, generator=generator, dtype=torch.float64) + offset
    eye = torch.eye(4, dtype=torch.float64)
    learners = [WithIntercept(one) for one in (Zero(), Averaging(), LeastSquares(), Ridge(0.3))]
    for n in range(1, 9):
        mean_x, mean_y = x[:, :n].mean(1, keepdim=True), y[:, :n].mean(1, keepdim=True)
        inputs, targets = x[:, :n] - mean_x, (y[:, :n] - mean_y)[..., None]
        weights = [
            torch.zeros(3, 4, 1, dtype=torch.float64),
            inputs.mT @ targets / n,
            # Of smallest norm.
            torch.linalg.pinv(inputs, rtol=1e-10) @ targets,
            torch.linalg.solve(inputs.mT @ inputs + 0.3 * eye, inputs.mT @ targets),
        ]
        for learner, weight in zip(learners, weights, strict=True):
            right = mean_y[:, 0] + ((x[:, n] - mean_x[:, 0]) * weight[..., 0]).sum(-1)
            found = learner.predict(x, y)
            torch.testing.assert_close(found[:, n], right, rtol=1e-9, atol=1e-9)
            assert (found[:, 0] == 0).all()


def test_an_intercept_is_written_as_it_is_made() -> None:
    assert parse_learner("with-intercept(ridge(0.25))") == WithIntercept(Ridge(0.25))
    for text in ("with-intercept(lasso(0.1))", "with-intercept(linear(dim=3))", "with-intercept(2)"):
        with pytest.raises(UserError, match="an intercept goes with Zero"):
            parse_learner(text)
    with pytest.raises(UserError, match="Ridge"):
        parse_learner("ridge(ridge(1))")


def test_an_intercept_goes_with_what_is_centred_alone() -> None:
    with pytest.raises(UserError, match="an intercept goes with Zero"):
        WithIntercept(GradientDescent(3, 0.1))


def test_nothing_is_named_that_something_simpler_is() -> None:
    """A Gaussian process of a great length scale comes as near as one likes to a line with an intercept."""
    ridge = WithIntercept(Ridge(1.0))
    found = found_of(lambda x, y: ridge.predict(x, y))
    assert found.nearest.family.name == "ridge with intercept"
    # Without that family the process is near, but its length scale is the last that was tried.
    others = [name for name in FAMILIES if "intercept" not in name and FAMILIES[name](TASK, POINTS)]
    found = found_of(lambda x, y: ridge.predict(x, y), families=others)
    assert found.grade != "is", found.verdict
    smooth = GaussianProcess("rbf", 5.0, 1.0, 0.3)
    assert found_of(lambda x, y: smooth.predict(x, y)).grade == "is"


def test_a_learner_that_is_another_at_one_context_size_is_none() -> None:
    """0.4% more at one of 11: nothing of the mean square, but not nothing there."""

    def nearly(x: Tensor, y: Tensor) -> Tensor:
        factor = torch.where(torch.arange(x.shape[1]) == 9, 1.004, 1.0)
        return factor * Ridge(0.3).predict(x, y)

    found = found_of(nearly, families=["ridge", "least squares"], dtype=torch.float64)
    assert found.nearest.family.name == "ridge"
    assert found.grade == "is close to", found.verdict


def test_zero_and_affine_learners() -> None:
    assert found_of(lambda x, y: torch.zeros_like(y)).verdict.startswith("it is zero, which leaves nothing")
    assert found_of(lambda x, y: 2 * Ridge(0.3).predict(x, y) + 1, families=FEW).grade != "is"
    assert found_of(lambda x, y: torch.full_like(y, 3.0), families=FEW).grade != "is"


def test_the_figure_shows_what_varies() -> None:
    pytest.importorskip("matplotlib")
    from iclkit.report.identify_figure import identify_figure

    found = found_of(by_size(lambda n: Ridge(0.1 * n + 0.01)), families=["ridge", "zero", "averaging"])
    axes = identify_figure(found).axes
    assert len(axes) == 4
    assert axes[-1].get_ylabel() == "λ of\nridge"
    assert any("λ(n)" in label.get_text() for label in axes[2].get_yticklabels())
    constant = found_of(lambda x, y: Ridge(0.1).predict(x, y), families=["ridge", "zero"])
    assert len(identify_figure(constant).axes) == 3
