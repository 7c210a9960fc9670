"""`identify` names learners in disguise, recovers their parameters, and never sure of what nobody knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iclkit.analysis.families import FAMILIES
from iclkit.analysis.identify import identify
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import ask
from iclkit.learners import (
    Averaging,
    BayesLinear,
    GradientDescent,
    Lasso,
    LeastSquares,
    NearestNeighbors,
    OnePassSGD,
    RegressionLearner,
    Ridge,
    Zero,
)
from iclkit.tasks import LinearRegression

NOISY = LinearRegression(dim=8, noise_std=0.5)

# Learners, the family that they belong to, and its parameters.
KNOWN: list[tuple[RegressionLearner, str, dict[str, float]]] = [
    (Zero(), "zero", {}),
    (Averaging(), "averaging", {}),
    (LeastSquares(), "least squares", {}),
    (Ridge(0.25), "ridge", {"penalty": 0.25}),
    (Ridge(3.0), "ridge", {"penalty": 3.0}),
    (BayesLinear(0.5), "ridge", {"penalty": 0.25}),
    (Lasso(0.05), "Lasso", {"penalty": 0.05}),
    (NearestNeighbors(3), "k-NN", {"k": 3}),
    (NearestNeighbors(11, "distance"), "weighted k-NN", {"k": 11}),
    (GradientDescent(1, 0.4), "GD", {"steps": 1, "rate": 0.4}),
    (GradientDescent(7, 0.13), "GD", {"steps": 7, "rate": 0.13}),
    (GradientDescent(30, 0.05), "GD", {"steps": 30, "rate": 0.05}),
    (GradientDescent(2, 0.004, "sum"), "summed-loss GD", {"steps": 2, "rate": 0.004}),
    (OnePassSGD(0.02), "one-pass SGD", {"rate": 0.02}),
]


def disguised(learner: RegressionLearner) -> Callable[[Tensor, Tensor], Tensor]:
    """A plain function that tells nothing but its predictions."""
    return lambda x, y: learner.predict(x, y)


def names_it(
    learner: RegressionLearner, family: str, values: dict[str, float], seed: int, episodes: int
) -> None:
    found = identify(disguised(learner), NOISY, episodes=episodes, seed=seed)
    nearest = found.nearest
    assert nearest.family.name == family, found.verdict
    assert found.grade == "is", found.verdict
    for name, value in values.items():
        # The predictions determine a parameter up to rounding; whole ones exactly.
        assert nearest.parameters[name].value == pytest.approx(value, rel=1e-2), found.verdict


@pytest.mark.parametrize(("learner", "family", "values"), KNOWN, ids=lambda v: str(v))
def test_names_every_learner_in_disguise(
    learner: RegressionLearner, family: str, values: dict[str, float]
) -> None:
    names_it(learner, family, values, seed=1, episodes=64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("learner", "family", "values"), KNOWN, ids=lambda v: str(v))
def test_names_every_learner_in_disguise_for_every_seed(
    learner: RegressionLearner, family: str, values: dict[str, float], seed: int
) -> None:
    names_it(learner, family, values, seed, episodes=256)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_predict_what_their_learners_do(name: str) -> None:
    """By a context's spectrum or not. 1e-7 in float64: near n = d contexts are badly conditioned."""
    prompts = Prompts.of(ask(NOISY, 20, 6, torch.Generator().manual_seed(0)), slice(None))
    family = FAMILIES[name](NOISY, 20)
    if family is None:
        pytest.skip("does not apply to linear regression")
    for place in (0.3, 0.5, 0.7):
        values = {p.name: p.grid[int(place * len(p.grid))] for p in family.parameters}
        wanted = family.build(**values).predict(prompts.asked.x, prompts.asked.y)
        if (wanted.abs() < 1e6).all():
            torch.testing.assert_close(family.predict(prompts, values), wanted, rtol=1e-7, atol=1e-7)
