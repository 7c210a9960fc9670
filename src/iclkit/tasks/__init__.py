"""Task distributions: what is learned from. Registered by name in `TASKS`."""

from iclkit.tasks.arrays import ArrayTask
from iclkit.tasks.base import DensityTask, Episodes, Law, Task
from iclkit.tasks.broad_mixtures import BroadMixtures
from iclkit.tasks.conjugate_mixtures import ConjugateMixtures
from iclkit.tasks.gaussian_mixtures import GaussianMixtures
from iclkit.tasks.linear import LinearFunctions, LinearRegression
from iclkit.tasks.mixtures import Mixtures
from iclkit.tasks.pools import FinitePool
from iclkit.tasks.regression import Functions, Pairs, RegressionTask

# ArrayTask is absent: it holds the user's own numbers, which no recipe can name.
TASKS: dict[str, type[DensityTask]] = {
    task.__name__: task for task in (GaussianMixtures, BroadMixtures, ConjugateMixtures, FinitePool)
}

REGRESSION_TASKS: dict[str, type[RegressionTask]] = {task.__name__: task for task in (LinearRegression,)}

__all__ = [
    "REGRESSION_TASKS",
    "TASKS",
    "ArrayTask",
    "BroadMixtures",
    "ConjugateMixtures",
    "DensityTask",
    "Episodes",
    "FinitePool",
    "Functions",
    "GaussianMixtures",
    "Law",
    "LinearFunctions",
    "LinearRegression",
    "Mixtures",
    "Pairs",
    "RegressionTask",
    "Task",
]
