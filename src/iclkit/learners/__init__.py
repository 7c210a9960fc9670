"""Learners: maps from a context to predictions. Textbook references and trained networks share two protocols."""

from iclkit.learners.base import DensityLearner, Predictive

__all__ = ["DensityLearner", "Predictive"]
