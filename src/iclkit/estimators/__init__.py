"""Scikit-learn's view of frozen models: estimators that fit nothing."""

from iclkit.estimators.density import InContextDensity
from iclkit.estimators.regression import InContextRegression

__all__ = ["InContextDensity", "InContextRegression"]
