"""The main paths give the same bits whatever is set around them, and leave it as it was."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import iclkit
from iclkit.energy.samplers import HMC, Langevin
from iclkit.estimators import InContextDensity, InContextRegression
from iclkit.learners import GaussianMixtureLearner, KernelDensityLearner, LeastSquares, Ridge
from iclkit.tasks import LinearRegression

X = np.random.default_rng(0).normal(size=(12, 2))
Y = X @ [1.0, 2.0]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return iclkit.load("energy-2d", "energy"), iclkit.load("general", "regression")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def given(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.copy())


def density(models: tuple[Any, Any]) -> list[Any]:
    landscape = models[0].condition(given(X))
    normalised = landscape.normalise()
    points = given(X[:3])
    return [
        landscape.energy(points),
        landscape.score(points),
        landscape.log_partition().estimate,
        landscape.sample(5, generator=seeded()),
        landscape.sample(4, HMC(steps=2, warmup=2), seeded()),
        landscape.sample(4, Langevin.published(), seeded()),
        normalised.log_prob(points),
        models[0].log_prob(given(X)[None, :4]),
    ]


def regression(models: tuple[Any, Any]) -> list[Any]:
    x, y = given(X)[None], given(Y)[None]
    found = models[1].distribution(x, y)
    return [
        models[1].predict(x, y),
        models[1].predict_queries(x, y, x[:, None, :3], [12]),
        models[1].log_prob(x, y),
        found.mean,
        found.stddev,
    ]


def estimators(models: tuple[Any, Any]) -> list[Any]:
    fitted = InContextRegression(models[1]).fit(X, Y)
    density = InContextDensity(models[0]).fit(X)
    return [
        *fitted.predict(X[:3], return_std=True),
        fitted.predict_quantiles(X[:3]),
        fitted.sample_y(X[:3], 2),
        density.score_samples(X),
        density.sample(3, random_state=0),
    ]


def loaded(_: tuple[Any, Any]) -> list[Any]:
    learner = iclkit.load("general", "regression")
    x, y = given(X)[None], given(Y)[None]
    return [learner.predict(x, y), *(p for p in learner.network.parameters() if p.ndim == 1)]


def textbook(_: tuple[Any, Any]) -> list[Any]:
    x, y = given(X)[None], given(Y)[None]
    points = x[:, None, :3]
    densities = KernelDensityLearner(2), GaussianMixtureLearner(2, max_components=2)
    return [
        LeastSquares().predict(x, y),
        Ridge(0.1).predict(x, y),
        *(learner.predictives(x, [12]).log_prob(points) for learner in densities),
    ]


def comparison(_: tuple[Any, Any]) -> list[Any]:
    found = iclkit.compare([LeastSquares(), Ridge(0.5)], LinearRegression(2), episodes=8, points=6)
    return [found.asked.x, *found.predictions.values()]


PATHS: dict[str, Callable[[tuple[Any, Any]], list[Any]]] = {
    function.__name__: function for function in (density, regression, estimators, loaded, textbook, comparison)
}


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


AROUND: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "default type float64": default_dtype,
    "default device meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic algorithms": deterministic,
    "warnings as errors": warnings_as_errors,
}


def arrays(values: list[Any]) -> list[np.ndarray]:
    return [np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for v in values]


def same(found: list[Any], expected: list[Any]) -> None:
    for mine, theirs in zip(arrays(found), arrays(expected), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("around", AROUND)
def test_what_is_set_around_changes_no_bit(models: tuple[Any, Any], path: str, around: str) -> None:
    expected = PATHS[path](models)
    with AROUND[around]():
        found = PATHS[path](models)
    same(found, expected)
    same(PATHS[path](models), expected)  # and nothing of it stays


@pytest.mark.parametrize("path", PATHS)
def test_eight_threads_at_once_change_no_bit(models: tuple[Any, Any], path: str) -> None:
    expected, before = PATHS[path](models), list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: PATHS[path](models), range(8)):
            same(found, expected)
    assert list(warnings.filters) == before
