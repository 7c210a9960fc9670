"""Regression in context: the network, its density head, and what it is trained to minimise."""

from iclkit.regression.mixture import gaussian_mixture
from iclkit.regression.network import InContextRegressor
from iclkit.regression.objectives import (
    REGRESSION_OBJECTIVES,
    MixtureLikelihood,
    RegressionObjective,
    SquaredError,
)

__all__ = [
    "REGRESSION_OBJECTIVES",
    "InContextRegressor",
    "MixtureLikelihood",
    "RegressionObjective",
    "SquaredError",
    "gaussian_mixture",
]
