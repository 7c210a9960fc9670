"""Task distributions: what is learned from. Registered by name in `TASKS`."""

from iclkit.tasks.arrays import ArrayTask
from iclkit.tasks.base import DensityTask, Episodes, Law, Task
from iclkit.tasks.broad_mixtures import BroadMixtures
from iclkit.tasks.conjugate_mixtures import ConjugateMixtures
from iclkit.tasks.gaussian_mixtures import GaussianMixtures
from iclkit.tasks.linear import (
    LinearFunctions,
    LinearRegression,
    SignClassification,
    SparseLinearRegression,
)
from iclkit.tasks.linear_pools import LinearPool
from iclkit.tasks.mixtures import Mixtures
from iclkit.tasks.pools import FinitePool
from iclkit.tasks.regression import Functions, Pairs, RegressionTask, Setting
from iclkit.tasks.shifts import (
    SHIFTS,
    DiagonalCovariance,
    HalfSubspace,
    LabelNoise,
    OrthogonalQueries,
    RandomOrthants,
    RepeatedQueries,
    Scaled,
    Skewed,
)

# ArrayTask is absent: it holds the user's own numbers, which no recipe can name.
TASKS: dict[str, type[DensityTask]] = {
    task.__name__: task for task in (GaussianMixtures, BroadMixtures, ConjugateMixtures, FinitePool)
}

REGRESSION_TASKS: dict[str, type[RegressionTask]] = {
    task.__name__: task
    for task in (
        LinearRegression,
        SparseLinearRegression,
        SignClassification,
        LinearPool,
        Scaled,
        Skewed,
        HalfSubspace,
        DiagonalCovariance,
        LabelNoise,
        RandomOrthants,
        OrthogonalQueries,
        RepeatedQueries,
    )
}

__all__ = [
    "REGRESSION_TASKS",
    "SHIFTS",
    "TASKS",
    "ArrayTask",
    "BroadMixtures",
    "ConjugateMixtures",
    "DensityTask",
    "DiagonalCovariance",
    "Episodes",
    "FinitePool",
    "Functions",
    "GaussianMixtures",
    "HalfSubspace",
    "LabelNoise",
    "Law",
    "LinearFunctions",
    "LinearPool",
    "LinearRegression",
    "Mixtures",
    "OrthogonalQueries",
    "Pairs",
    "RandomOrthants",
    "RegressionTask",
    "RepeatedQueries",
    "Scaled",
    "Setting",
    "SignClassification",
    "Skewed",
    "SparseLinearRegression",
    "Task",
]
