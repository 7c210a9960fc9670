"""Learners: maps from a context to predictions. Textbook references and trained networks share one protocol."""

from iclkit.learners.base import DensityLearner, Predictive
from iclkit.learners.bayes import bayes
from iclkit.learners.classical import GaussianMixtureLearner, KernelDensityLearner
from iclkit.learners.enumeration import EnumerationBayes
from iclkit.learners.latent_smc import LatentSMC
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.mixture_predictive import MixturePredictive
from iclkit.learners.pool import PoolBayes
from iclkit.learners.regression import (
    CallableLearner,
    LinearLearner,
    ProbabilisticLearner,
    RegressionLearner,
    as_learner,
)

__all__ = [
    "CallableLearner",
    "DensityLearner",
    "EnumerationBayes",
    "GaussianMixtureLearner",
    "KernelDensityLearner",
    "LatentSMC",
    "LinearLearner",
    "MixtureFilter",
    "MixturePredictive",
    "PoolBayes",
    "Predictive",
    "ProbabilisticLearner",
    "RegressionLearner",
    "as_learner",
    "bayes",
]
