"""Whoever sees the answer is refused wherever learners are measured, whichever position it sees it at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iclkit
from iclkit import analysis
from iclkit.analysis.distances import error, excess_risk, spd
from iclkit.analysis.identify import identify
from iclkit.analysis.questions import ask, check_learner, checked_answers
from iclkit.analysis.regression_calibration import calibrate_regressor
from iclkit.errors import UserError
from iclkit.learners import (
    REGRESSION_LEARNERS,
    BayesLinear,
    CallableLearner,
    KernelDensityLearner,
    LeastSquares,
    RegressionLearner,
    Ridge,
    as_learner,
)
from iclkit.tasks import GaussianMixtures, LinearRegression, SineCurves

TASK = LinearRegression(dim=3, noise_std=0.5)
HONEST = Ridge(0.25)
Function = Callable[[Tensor, Tensor], Tensor]


def at(position: int, leak: Function, later: bool = False) -> Function:
    """Ridge regression but at one position, or from there on."""

    def predict(x: Tensor, y: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        here = places >= position if later else places == position
        return torch.where(here, leak(x, y), HONEST.predict(x, y))

    return predict


def own(x: Tensor, y: Tensor) -> Tensor:
    return y


def random_leak(x: Tensor, y: Tensor) -> Tensor:
    return y + 0.1 * y.abs().mean() * torch.randn_like(y)


class Remembers:
    """Honest at first, then says the targets of the inputs that it has met."""

    def __init__(self) -> None:
        self.seen: dict[tuple[float, ...], float] = {}

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        keys = [tuple(row) for row in x.flatten(0, 1).tolist()]
        found = HONEST.predict(x, y).flatten()
        known = torch.tensor([self.seen.get(key, float(value)) for key, value in zip(keys, found, strict=True)])
        self.seen.update(zip(keys, y.flatten().tolist(), strict=True))
        return known.view_as(y)


LEAKS: dict[str, tuple[Function, str]] = {
    "its own target": (own, "after 0 pairs when the target that it predicts changes"),
    "from the sixth pair on": (at(5, own, later=True), "after 5 pairs when the target"),
    "at the last position alone": (at(9, own), "after 9 pairs when the target"),
    "a thousandth of it": (lambda x, y: HONEST.predict(x, y) + 1e-3 * y, "when the target"),
    "its sign": (at(4, lambda x, y: y.sign() * y[:, :1].abs()), "after 4 pairs when the target"),
    "its size": (at(4, lambda x, y: y.abs()), "after 4 pairs when the target"),
    "on half of the inputs": (
        at(7, lambda x, y: torch.where(x[..., 0] > 0, y, HONEST.predict(x, y))),
        "after 7 pairs when the target",
    ),
    "the last target": (lambda x, y: y[:, -1:].expand_as(y), "when later targets change"),
    "the next input": (lambda x, y: x.roll(-1, 1)[..., 0], "after 0 pairs when later inputs change"),
    "the scale of the episode": (lambda x, y: HONEST.predict(x, y / y.std(1, keepdim=True)), "pairs when"),
    "fits the whole episode": (
        lambda x, y: (x @ torch.linalg.lstsq(x, y[..., None]).solution)[..., 0],
        "after 0 pairs when",
    ),
    "other episodes": (lambda x, y: y.mean(0).expand_as(y), "when the target"),
    "noise and its target": (random_leak, "when the target"),
    "noise and its target at one place": (at(6, random_leak), "after 6 pairs when the target"),
}


@pytest.mark.parametrize("units", [1.0, 1e-6, 1e9])
@pytest.mark.parametrize("name", LEAKS)
def test_refuses_leaks_at_any_position_and_in_any_unit(name: str, units: float) -> None:
    leak, message = LEAKS[name]
    task = LinearRegression(dim=3, noise_std=0.5 * units, weight_std=units)
    learner = CallableLearner(leak, "spy")
    with pytest.raises(UserError, match=f"^spy predicts otherwise .*{message}.*the pairs before n alone$"):
        checked_answers("spy", learner, ask(task, 10, 32, torch.Generator().manual_seed(0)))


# Those that measure a learner on a task: what does, and what it is given.
MEASURES: dict[str, Callable[[Any], object]] = {
    "iclkit.compare": lambda spy: iclkit.compare({"spy": spy}, TASK, points=8, episodes=8),
    "as reference": lambda spy: iclkit.compare([HONEST], TASK, points=8, episodes=8, reference=spy),
    "iclkit.identify": lambda spy: iclkit.identify(spy, TASK, points=8, episodes=16, fresh=16),
    "compare_shifts": lambda spy: analysis.compare_shifts({"spy": spy}, TASK, points=8, episodes=8, shifts=[]),
    "spd": lambda spy: spd(spy, HONEST, TASK, 8, 8),
    "spd, second": lambda spy: spd(HONEST, spy, TASK, 8, 8),
    "error": lambda spy: error(spy, TASK, 8, 8),
    "excess_risk": lambda spy: excess_risk(spy, TASK, 8, 8),
    "ilwd": lambda spy: analysis.ilwd(spy, HONEST, TASK, 8, 8),
    "ilwd, second": lambda spy: analysis.ilwd(HONEST, spy, TASK, 8, 8),
    "sensitivity_difference": lambda spy: analysis.sensitivity_difference(HONEST, spy, TASK, 8, 8),
    "gradient_alignment": lambda spy: analysis.gradient_alignment(spy, TASK, 8, 8),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_whatever_measures_a_learner_refuses_one_that_sees_its_answers(measure: str) -> None:
    with pytest.raises(UserError, match="the pairs before n alone"):
        MEASURES[measure](at(6, own))


class QuerySpy(RegressionLearner):
    """Honest where it predicts every y_n; where it is asked elsewhere it sees the pair behind the prefix."""

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return HONEST._predict(x, y)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        found = HONEST._predict_queries(x, y, queries, prefixes)
        places = torch.tensor(prefixes).clamp(max=x.shape[1] - 1)
        return found + y[:, places, None] * (torch.tensor(prefixes)[:, None] == 5)


@pytest.mark.parametrize("measure", ["ilwd", "sensitivity_difference", "gradient_alignment"])
def test_looks_at_queries_where_queries_are_asked(measure: str) -> None:
    checked_answers("honest", QuerySpy(), ask(TASK, 8, 8, torch.Generator().manual_seed(0)))
    with pytest.raises(UserError, match="QuerySpy predicts otherwise after 5 pairs"):
        MEASURES[measure](QuerySpy())


class DensitySpy(BayesLinear):
    """A distribution whose mean is moved towards the target, from the fourth pair on."""

    def _distribution(self, x: Tensor, y: Tensor) -> torch.distributions.Normal:
        found = super()._distribution(x, y)
        late = torch.arange(y.shape[1]) >= 3
        return torch.distributions.Normal(torch.where(late, 0.5 * (found.loc + y), found.loc), found.scale)


def test_densities_may_not_see_their_targets_either() -> None:
    with pytest.raises(UserError, match=r"DensitySpy.* after 3 pairs when the target"):
        calibrate_regressor(DensitySpy(0.5), TASK, (1, 3, 6), episodes=16)
    calibrate_regressor(BayesLinear(0.5), TASK, (1, 3, 6), episodes=16)
    with pytest.raises(UserError, match="after 6 pairs when the target"):
        calibrate_regressor(DensitySpy(0.5), TASK, (6,), episodes=16)


class FutureDensity(KernelDensityLearner):
    """Sees one point more than the prefix, behind four points."""

    def predictives(self, x: Tensor, prefixes: Any = None) -> Any:
        chosen = range(x.shape[1] + 1) if prefixes is None else prefixes
        return super().predictives(x, [min(n + (n == 4), x.shape[1]) for n in chosen])


def test_densities_of_points_may_not_see_later_points() -> None:
    task = GaussianMixtures(dim=2)
    sizes = (2, 4, 6)
    for model, message in (
        (
            FutureDensity(dim=2),
            "Density predicts otherwise after 4 points when later points change|spy predicts",
        ),
        (KernelDensityLearner(dim=2), ""),
    ):
        for call in (
            lambda m: analysis.kl_by_context(KernelDensityLearner(dim=2), m, task, sizes, 4, 4),
            lambda m: analysis.log_likelihood_by_context({"spy": m}, task, sizes, 4, 4),
            lambda m: analysis.calibrate(KernelDensityLearner(dim=2), m, task, sizes, 4, 4),
        ):
            if message:
                with pytest.raises(UserError, match=message):
                    call(model)
            else:
                call(model)


class Network(nn.Module):
    """A linear map of the inputs and, where asked, the own target."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        self.share = share

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ self.weight + self.share * y


def test_interpolation_refuses_networks_that_see_their_answers() -> None:
    analysis.interpolate(Network(0.0), Network(0.0), TASK, episodes=8, steps=2)
    with pytest.raises(UserError, match="the first network predicts otherwise"):
        analysis.interpolate(Network(0.5), Network(0.5), TASK, episodes=8, steps=2)


def noisy(x: Tensor, y: Tensor) -> Tensor:
    return HONEST.predict(x, y) + 0.3 * torch.randn_like(y)


def heavy(x: Tensor, y: Tensor) -> Tensor:
    return HONEST.predict(x, y) + torch.distributions.Cauchy(0.0, 0.1).sample(y.shape).to(y)


def spoils(x: Tensor, y: Tensor) -> Tensor:
    found = HONEST.predict(x, y)
    x.zero_()
    y.zero_()
    return found


def in_units_of_all(x: Tensor, y: Tensor) -> Tensor:
    """Right, though what it computes with depends on all pairs up to rounding."""
    size = y.abs().amax(1, keepdim=True).clamp(min=1e-30)
    return size * LeastSquares().predict(x, y / size)


def counts(x: Tensor, y: Tensor) -> Tensor:
    return (y.cumsum(1) - y).round().long()


class Counts:
    """Another answer at every call: state, not the pairs, decides."""

    calls = 0

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return HONEST.predict(x, y) * (1 + 1e-3 * self.calls)


@pytest.mark.parametrize(
    "honest",
    [
        HONEST.predict,
        lambda x, y: x[..., 0],  # the query's own input may be used
        lambda x, y: torch.zeros_like(y),
        lambda x, y: torch.full_like(y, x.shape[1]),
        noisy,
        heavy,
        spoils,
        in_units_of_all,
        counts,
        Counts(),
    ],
    ids=[
        "ridge",
        "input",
        "zero",
        "length",
        "noise",
        "heavy noise",
        "spoils",
        "units",
        "whole numbers",
        "calls",
    ],
)
@pytest.mark.parametrize("points", [1, 2, 12])
def test_accepts_whoever_sees_no_answer(honest: Any, points: int) -> None:
    """One of 30 tests of ranks at 5 standard errors gives a false alarm once in 100,000; the seed is fixed."""
    torch.manual_seed(0)
    for task, factor in ((TASK, 1.0), (SineCurves(), 1.0), (TASK, 0.0)):
        asked = ask(task, points, 24, torch.Generator().manual_seed(0))
        asked = replace(asked, y=factor * asked.y)
        x, y = asked.x.clone(), asked.y.clone()
        learner = as_learner(honest)
        assert checked_answers("honest", learner, asked).shape == y.shape
        # What it spoils are copies.
        assert torch.equal(asked.x, x)
        assert torch.equal(asked.y, y)


def test_is_checked_after_it_was_measured() -> None:
    """So what remembers episodes has not met them in the check."""
    asked = ask(TASK, 8, 16, torch.Generator().manual_seed(0))
    found = checked_answers("remembers", as_learner(Remembers()), asked)
    torch.testing.assert_close(found, HONEST.predict(asked.x, asked.y))


@pytest.mark.parametrize("name", REGRESSION_LEARNERS)
def test_textbook_learners_would_pass(name: str) -> None:
    """They are not asked, so here they are."""

    class Hidden(RegressionLearner):
        inner = REGRESSION_LEARNERS[name]()
        dim = inner.dim

        def _predict(self, x: Tensor, y: Tensor) -> Tensor:
            return self.inner._predict(x, y)

        def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
            return self.inner._predict_queries(x, y, queries, prefixes)

    task = LinearRegression(Hidden.dim or 3, noise_std=0.5)
    asked = ask(task, 4, 4, torch.Generator().manual_seed(0))
    check_learner(name, Hidden(), asked)


def test_costs_a_few_episodes() -> None:
    """Three copies for each of 40 positions, in one call, whatever the number of episodes."""
    asked_of: list[int] = []

    def predict(x: Tensor, y: Tensor) -> Tensor:
        asked_of.append(len(x))
        return HONEST.predict(x, y)

    iclkit.compare([predict], TASK, points=40, episodes=256)
    assert asked_of == [256, 120]


def test_shifts_check_each_way_of_asking_once() -> None:
    calls = 0

    def predict(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x) == 32  # four copies for each of 8 positions
        return HONEST.predict(x, y)

    analysis.compare_shifts([predict], TASK, points=8, episodes=5)
    assert calls == 2


BROKEN: dict[str, tuple[Any, str]] = {
    "shape": (lambda x, y: y[:, :1], r"must return predictions of shape \[8, 8\], given \[8, 1\]"),
    "axis": (lambda x, y: y[..., None], r"given \[8, 8, 1\]"),
    "array": (lambda x, y: y.numpy(), "given ndarray"),
    "nothing": (lambda x, y: None, "given NoneType"),
    "complex": (lambda x, y: y + 0j, "real numbers, given torch.complex64"),
    "yes or no": (lambda x, y: y > 0, "real numbers, given torch.bool"),
    "nan": (
        lambda x, y: torch.where(torch.arange(8) == 3, torch.nan, y),
        "NaN or infinite values after 3 pairs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("measure", ["iclkit.compare", "spd", "error"])
def test_refuses_what_are_no_predictions(name: str, measure: str) -> None:
    broken, message = BROKEN[name]
    with pytest.raises(UserError, match=message):
        MEASURES[measure](broken)


class Squeezed(RegressionLearner):
    """A learner of the package's protocol whose predictions would broadcast."""

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return y[..., None]


def test_own_kinds_of_learners_are_held_to_shapes_too() -> None:
    with pytest.raises(
        UserError, match=r"Squeezed must return predictions of shape \[8, 8\], given \[8, 8, 1\]"
    ):
        MEASURES["spd"](Squeezed())


class Estimator:
    def fit(self, x: Any, y: Any) -> None: ...

    def predict(self, x: Any) -> Any: ...


NO_LEARNERS: dict[str, tuple[Any, str]] = {
    "estimator": (Estimator(), "Estimator is fitted to one table"),
    "iclkit's estimator": (None, "is fitted to one table"),
    "class": (Ridge, r"given the class Ridge; give an object of it: Ridge\(\)"),
    "none": (None, "given NoneType"),
    "number": (3, "given int"),
    "one argument": (lambda x: x, "does not take two arguments"),
    "three arguments": (lambda x, y, z: x, "does not take two arguments"),
}


@pytest.mark.parametrize("name", NO_LEARNERS)
@pytest.mark.parametrize("call", [lambda v: iclkit.compare([v], TASK), lambda v: identify(v, TASK)])
def test_what_is_no_learner_is_told_in_a_line(name: str, call: Callable[[Any], object]) -> None:
    value, message = NO_LEARNERS[name]
    if name == "iclkit's estimator":
        from iclkit.estimators import InContextRegression

        value = InContextRegression()
    with pytest.raises(UserError, match=message) as caught:
        call(value)
    assert "\n" not in str(caught.value)


def test_scikit_learns_ridge_is_told_in_a_line() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    for call in (lambda v: iclkit.compare([v], TASK), lambda v: iclkit.identify(v, TASK)):
        with pytest.raises(UserError, match="Ridge is fitted to one table"):
            call(linear_model.Ridge())
