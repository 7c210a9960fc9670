"""Task distributions: what is learned from. Registered by name in `TASKS`."""

from iclkit.tasks.arrays import ArrayTask
from iclkit.tasks.base import DensityTask, Episodes, Law, Task
from iclkit.tasks.broad_mixtures import BroadMixtures
from iclkit.tasks.conjugate_mixtures import ConjugateMixtures
from iclkit.tasks.decision_trees import DecisionTrees, TreeFunctions
from iclkit.tasks.features import FeatureFunctions, FeatureRegression, Polynomials, QuadraticRegression
from iclkit.tasks.gaussian_mixtures import GaussianMixtures
from iclkit.tasks.gaussian_processes import GaussianProcesses, ProcessFunctions
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
from iclkit.tasks.regression_arrays import PairsTask
from iclkit.tasks.regression_mixtures import MixedFunctions, TaskMixture
from iclkit.tasks.relu_networks import ReluFunctions, ReluNetworks
from iclkit.tasks.sequences import Copying, RepeatedTokens, Sequences, SequenceTask
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
from iclkit.tasks.sine import SineCurves, SineFunctions
from iclkit.tasks.tabular import NoiseLevels, Padded, Standardised, VariableDimension

# ArrayTask and PairsTask are absent: they hold the user's own numbers, which no recipe can name.
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
        QuadraticRegression,
        Polynomials,
        SineCurves,
        ReluNetworks,
        DecisionTrees,
        GaussianProcesses,
        TaskMixture,
        VariableDimension,
        Padded,
        Standardised,
        NoiseLevels,
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

SEQUENCE_TASKS: dict[str, type[SequenceTask]] = {task.__name__: task for task in (RepeatedTokens, Copying)}

__all__ = [
    "REGRESSION_TASKS",
    "SEQUENCE_TASKS",
    "SHIFTS",
    "TASKS",
    "ArrayTask",
    "BroadMixtures",
    "ConjugateMixtures",
    "Copying",
    "DecisionTrees",
    "DensityTask",
    "DiagonalCovariance",
    "Episodes",
    "FeatureFunctions",
    "FeatureRegression",
    "FinitePool",
    "Functions",
    "GaussianMixtures",
    "GaussianProcesses",
    "HalfSubspace",
    "LabelNoise",
    "Law",
    "LinearFunctions",
    "LinearPool",
    "LinearRegression",
    "MixedFunctions",
    "Mixtures",
    "NoiseLevels",
    "OrthogonalQueries",
    "Padded",
    "Pairs",
    "PairsTask",
    "Polynomials",
    "ProcessFunctions",
    "QuadraticRegression",
    "RandomOrthants",
    "RegressionTask",
    "ReluFunctions",
    "ReluNetworks",
    "RepeatedQueries",
    "RepeatedTokens",
    "Scaled",
    "SequenceTask",
    "Sequences",
    "Setting",
    "SignClassification",
    "SineCurves",
    "SineFunctions",
    "Skewed",
    "SparseLinearRegression",
    "Standardised",
    "Task",
    "TaskMixture",
    "TreeFunctions",
    "VariableDimension",
]
