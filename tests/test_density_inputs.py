"""Trained densities take users' arrays, can be pickled and copied, and do not mind the mode around them."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from iclkit.energy import HMC, EnergyLandscape, EnergyTransformer
from iclkit.errors import UserError
from iclkit.estimators import InContextDensity, InContextRegression
from iclkit.learners import EnumerationBayes, KernelDensityLearner, bayes
from iclkit.learners.base import DensityLearner
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import ConjugateMixtures, FinitePool, GaussianMixtures

X = np.random.default_rng(0).normal(size=(20, 2)) * [2.0, 0.3] + [5.0, 1.0]
T = torch.tensor(X)
Make = Callable[[np.ndarray[Any, Any]], Any]

FORMS: dict[str, Make] = {
    "array": lambda x: x,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "reversed rows": lambda x: x[::-1].copy()[::-1],
    "reversed columns": lambda x: x[:, ::-1].copy()[:, ::-1],
    "Fortran order": np.asfortranarray,
    "big endian": lambda x: x.astype(">f8"),
    "list": lambda x: x.tolist(),
    "pandas": lambda x: pd.DataFrame(x, columns=["a", "b"]),
    "pandas backwards": lambda x: pd.DataFrame(x[::-1]).iloc[::-1],
    "polars": lambda x: pl.DataFrame(x, schema=["a", "b"]),
    "objects": lambda x: x.astype(object),
}


def density(orders: int = 1, standardise: bool = True) -> EnergyDensity:
    torch.manual_seed(0)
    network = EnergyTransformer(2, 16, 1, 2, base_std=1.7)
    torch.nn.init.normal_(network.readout.weight, std=0.3)
    return EnergyDensity(network.requires_grad_(False), standardise=standardise, name="small", orders=orders)


@pytest.mark.parametrize("form", FORMS)
def test_a_density_takes_every_form(form: str) -> None:
    make, learner = FORMS[form], density()
    expected, found = learner.condition(T), learner.condition(make(X))
    assert torch.equal(found.energy(make(X)), expected.energy(T))
    assert torch.equal(found.score(make(X)), expected.score(T))
    given, taken = expected.normalise(), found.normalise()
    assert torch.equal(taken.log_prob(make(X)), given.log_prob(T))
    if form in ("array", "list"):
        episodes = X[None] if form == "array" else X[None].tolist()
        assert torch.equal(learner.log_prob(episodes), learner.log_prob(T[None]))
        single = learner.condition(X[None].astype(np.float16))
        torch.testing.assert_close(single.energy(X[None]), expected.energy(T)[None], rtol=0.01, atol=0.05)


def test_whole_numbers_and_booleans() -> None:
    learner, whole = density(), np.array([[0, 1], [2, 5], [1, 1]])
    expected = learner.condition(torch.tensor(whole).double())
    for given in (whole, whole.astype(np.uint8), whole.tolist(), torch.tensor(whole), pd.DataFrame(whole)):
        assert torch.equal(learner.condition(given).energy(given), expected.energy(whole))
    assert density(standardise=False).condition(whole > 0).energy(whole > 0).isfinite().all()


MISTAKES: dict[str, tuple[Any, str]] = {
    "text": ([["a", "b"]] * 3, "the context must be numeric, given 'a' .str. at row 0, column 0"),
    "a column of text": (pd.DataFrame({"a": [1.0], "city": ["Bonn"]}), "'Bonn' .str. at row 0, column 'city'"),
    "objects": (np.array([[1.0, {}]], dtype=object), "given {} .dict."),
    "missing": (
        pd.DataFrame({"a": [1.0, 2.0], "b": [None, 3.0]}),
        "must be finite, given NaN at row 0, column 'b'",
    ),
    "ragged": ([[1.0], [2.0, 3.0]], "numeric and rectangular"),
    "nothing": (None, "given a NoneType"),
    "another dimension": (np.zeros((4, 3)), r"\[n, 2\]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str) -> None:
    bad, words = MISTAKES[name]
    learner = density()
    with pytest.raises(UserError, match=words) as caught:
        learner.condition(bad)
    assert "\n" not in str(caught.value)
    land = learner.condition(X)
    for call in (land.energy, land.score, land.normalise().log_prob, lambda x: learner.log_prob([x])):
        if name == "missing" and call in (land.energy, land.score):
            continue  # a NaN for a NaN, as torch has it
        with pytest.raises(UserError) as caught:
            call(bad)
        assert "\n" not in str(caught.value)


def test_what_is_not_a_number_has_no_density() -> None:
    normalised = density().condition(X).normalise()
    with pytest.raises(UserError, match="points must be numbers, given NaN at row 1, column 0"):
        normalised.log_prob(np.array([[0.0, 0.0], [math.nan, 0.0]]))
    batched = density().condition(np.stack([X, X])).normalise()
    assert batched.log_prob(np.zeros((5, 2, 2))).shape == (5, 2)
    assert batched.log_prob(np.zeros(2)).shape == (2,)
    with pytest.raises(UserError, match=r"of shape \[..., 2, 2\], given \[5, 3, 2\]"):
        batched.log_prob(torch.zeros(5, 3, 2))


LEARNERS: dict[str, Callable[[], DensityLearner]] = {
    "trained": density,
    "KernelDensity": lambda: KernelDensityLearner(2),
    "MixtureFilter": lambda: bayes(ConjugateMixtures()),
    "EnumerationBayes": lambda: EnumerationBayes(GaussianMixtures()),
    "PoolBayes": lambda: bayes(FinitePool(GaussianMixtures(), 3)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_density_learner_takes_arrays(name: str) -> None:
    learner, x, c = LEARNERS[name](), X[None, :6], X[None, None, 6:9]
    expected = learner.predictives(T[None, :6], [4]).log_prob(torch.tensor(c))
    assert torch.equal(learner.predictives(x, [4]).log_prob(c), expected)
    if name != "KernelDensity":  # which needs two points
        assert torch.equal(learner.log_prob(x), learner.log_prob(torch.tensor(x)))
    with pytest.raises(UserError, match="x must be finite, given NaN at index"):
        learner.predictives(np.full((1, 6, 2), math.nan), [4])


@pytest.mark.parametrize("form", ["reversed rows", "reversed columns", "read-only", "pandas backwards"])
def test_estimators_take_every_form(form: str) -> None:
    make = FORMS[form]
    fitted = InContextDensity(density()).fit(X)
    np.testing.assert_array_equal(
        InContextDensity(density()).fit(make(X)).score_samples(X), fitted.score_samples(X)
    )
    np.testing.assert_array_equal(fitted.score_samples(make(X)), fitted.score_samples(X))


@pytest.mark.parametrize("view", [np.flip, lambda x: x[::-1].copy()[::-1]])
def test_regression_takes_reversed_views(view: Callable[[Any], Any]) -> None:
    y = X @ [1.0, 2.0]
    expected = InContextRegression(orders=1).fit(view(X).copy(), view(y).copy()).predict(X)
    np.testing.assert_array_equal(InContextRegression(orders=1).fit(view(X), view(y)).predict(X), expected)
    np.testing.assert_array_equal(
        InContextRegression(orders=1).fit(X, y).predict(view(X)),
        InContextRegression(orders=1).fit(X, y).predict(view(X).copy()),
    )


# Pickled and copied


def double_well(x: torch.Tensor) -> torch.Tensor:
    return (x.square() - 1).square().sum(-1)


LANDSCAPES: dict[str, Callable[[], EnergyLandscape]] = {
    "data units": lambda: density().condition(T),
    "mean over orders": lambda: density(orders=2).condition(T),
    "network": lambda: density().network.condition(T),
    "batched": lambda: density().condition(T.view(2, 10, 2)),
    "affine": lambda: density().condition(T).affine(torch.eye(2), torch.ones(2)),
    "user's": lambda: EnergyLandscape(double_well, 2, None, torch.zeros(2), torch.eye(2)),
}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_are_pickled_and_copied(name: str, duplicate: Callable[[Any], Any]) -> None:
    land = LANDSCAPES[name]()
    points = T.view(2, 10, 2) if land.batch else T
    other = duplicate(land)
    assert torch.equal(other.energy(points), land.energy(points))
    assert torch.equal(other.score(points), land.score(points))
    seeded = torch.Generator().manual_seed(1)
    normalised = land.normalise(generator=seeded)
    state = seeded.get_state()
    again = duplicate(normalised)
    seeded.set_state(state)
    assert torch.equal(again.log_prob(T[:5].unsqueeze(-2)), normalised.log_prob(T[:5].unsqueeze(-2)))
    # The copy has a generator of its own, in the same state.
    assert torch.equal(again.sample((5,)), normalised.sample((5,)))


# Modes


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
}


def everything(land: EnergyLandscape, points: torch.Tensor) -> list[torch.Tensor]:
    seeded = torch.Generator().manual_seed(3)
    chains = land.sample(4, HMC(steps=3, warmup=3), seeded)
    return [
        land.energy(points),
        land.score(points),
        chains,
        land.sample(5, generator=seeded),
        land.normalise().log_prob(points.transpose(0, 1) if land.batch else points),
        land.log_partition().estimate,
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in LANDSCAPES if name != "user's"])
def test_the_mode_around_changes_nothing(name: str, mode: str) -> None:
    points = T.view(2, 10, 2) if name == "batched" else T
    expected = everything(LANDSCAPES[name](), points)
    learner = density(orders=2 if name == "mean over orders" else 1)
    context = points.clone()

    def condition() -> EnergyLandscape:
        if name == "network":
            return learner.network.condition(context)
        land = learner.condition(context)
        return (
            land if name != "affine" else land.affine(torch.eye(2, device="cpu"), torch.ones(2, device="cpu"))
        )

    with MODES[mode]():
        inside = condition()
        within = everything(inside, points)
    without = everything(inside, points)
    for first, second, third in zip(expected, within, without, strict=True):
        assert first.dtype == second.dtype == third.dtype
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def test_a_network_made_in_inference_mode_is_conditioned_outside_of_it() -> None:
    with torch.inference_mode():
        learner, context = density(), T.clone()
    expected = density().condition(T).score(T)
    assert torch.equal(learner.condition(context).score(context), expected)
    assert torch.equal(learner.log_prob(context[None]), density().log_prob(T[None]))


def test_a_users_landscape_made_in_inference_mode() -> None:
    with torch.inference_mode():
        land = EnergyLandscape(double_well, 2, None, torch.zeros(2), torch.eye(2), torch.ones(3, 2))
        inside = land.normalise()
        start = land.sample(4)
    points = torch.ones(3, 2, requires_grad=True)
    land.affine(2 * torch.eye(2), torch.ones(2)).energy(points).sum().backward()
    inside.log_prob(points).sum().backward()
    assert points.grad is not None
    assert land.sample(4, HMC(steps=2, warmup=2), start=start).shape == (4, 2)
