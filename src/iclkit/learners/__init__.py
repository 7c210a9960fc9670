"""Learners: maps from a context to predictions. Textbook references and trained networks share one protocol."""

from iclkit.learners.base import DensityLearner, Predictive
from iclkit.learners.bayes import bayes
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.mixture_predictive import MixturePredictive

__all__ = ["DensityLearner", "MixtureFilter", "MixturePredictive", "Predictive", "bayes"]
