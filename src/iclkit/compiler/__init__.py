"""Weights by hand: networks that carry out an algorithm which nobody trained them to."""

from iclkit.compiler.before_descent import copying, feature_descent
from iclkit.compiler.constructions import gradient_descent, gradient_descent_plus_plus, kernel_smoother
from iclkit.compiler.limits import limit_gamma, limit_matrices, trained_limit
from iclkit.compiler.linear_attention import attention_layer

__all__ = [
    "attention_layer",
    "copying",
    "feature_descent",
    "gradient_descent",
    "gradient_descent_plus_plus",
    "kernel_smoother",
    "limit_gamma",
    "limit_matrices",
    "trained_limit",
]
