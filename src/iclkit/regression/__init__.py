"""Regression in context: the network."""

from iclkit.regression.network import InContextRegressor

__all__ = ["InContextRegressor"]
