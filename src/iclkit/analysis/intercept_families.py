"""Families with an intercept: on centred pairs, where nothing holds it back, and on inputs (1, x), where it is
a weight like any other. They differ until the pairs determine all weights.
"""

from __future__ import annotations

import torch

from iclkit import learners
from iclkit.analysis import responses
from iclkit.analysis.family import Family, Parameter, log_grid
from iclkit.learners import OnFeatures, WithIntercept, with_one
from iclkit.tasks import RegressionTask

_CENTRED = "ŷ = ȳ + wᵀ(x − x̄) with the means of the context"


def mean_target(task: RegressionTask, points: int) -> Family:
    """The mean of the targets."""
    return Family(
        "mean target",
        lambda: WithIntercept(learners.Zero()),
        response=lambda spectrum: torch.zeros_like(spectrum.loads),
        inputs="centred",
    )


def centred_averaging(task: RegressionTask, points: int) -> Family:
    """w = mean of (x − x̄)(y − ȳ)."""
    return Family(
        "averaging with intercept",
        lambda: WithIntercept(learners.Averaging()),
        response=responses.averaging,
        inputs="centred",
        note=_CENTRED,
    )


def centred_least_squares(task: RegressionTask, points: int) -> Family:
    """Least squares with an intercept; of the w that fit the centred pairs that of smallest norm."""
    return Family(
        "least squares with intercept",
        lambda: WithIntercept(learners.LeastSquares()),
        response=responses.least_squares,
        inputs="centred",
        note=_CENTRED,
    )


def centred_ridge(task: RegressionTask, points: int) -> Family:
    """Ridge regression with an intercept on which there is no penalty."""
    return Family(
        "ridge with intercept",
        lambda penalty: WithIntercept(learners.Ridge(penalty)),
        (_penalty(),),
        responses.ridge,
        f"{_CENTRED}, penalty λ on w alone",
        "centred",
    )


def joined_averaging(task: RegressionTask, points: int) -> Family:
    """Averaging on inputs (1, x)."""
    return Family(
        "averaging on (1, x)",
        lambda: OnFeatures(learners.Averaging(), with_one),
        response=responses.averaging,
        inputs="joined",
    )


def joined_least_squares(task: RegressionTask, points: int) -> Family:
    """Least squares on inputs (1, x), of smallest norm with the intercept."""
    return Family(
        "least squares on (1, x)",
        lambda: OnFeatures(learners.LeastSquares(), with_one),
        response=responses.least_squares,
        inputs="joined",
    )


def joined_ridge(task: RegressionTask, points: int) -> Family:
    """Ridge regression on inputs (1, x): the penalty is on the intercept too."""
    return Family(
        "ridge on (1, x)",
        lambda penalty: OnFeatures(learners.Ridge(penalty), with_one),
        (_penalty(),),
        responses.ridge,
        "penalty λ on the weights and on the intercept",
        "joined",
    )


def _penalty() -> Parameter:
    return Parameter("penalty", log_grid(1e-9, 1e4, 2), symbol="λ")
