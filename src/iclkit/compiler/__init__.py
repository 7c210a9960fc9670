"""Weights by hand: networks that carry out an algorithm which nobody trained them to."""

from iclkit.compiler import programs
from iclkit.compiler.accuracy import Accuracy, accuracy
from iclkit.compiler.before_descent import copying, feature_descent
from iclkit.compiler.compilation import compile
from iclkit.compiler.constructions import gradient_descent, gradient_descent_plus_plus, kernel_smoother
from iclkit.compiler.interpreter import Interpreted, interpret
from iclkit.compiler.limits import limit_gamma, limit_matrices, trained_limit
from iclkit.compiler.linear_attention import attention_layer
from iclkit.compiler.operations import Aff, Div, Loop, Mov, Mul, Raw
from iclkit.compiler.program import Program
from iclkit.compiler.programs import PROGRAMS
from iclkit.compiler.reading import registers
from iclkit.compiler.token_descent import token_descent
from iclkit.compiler.validate import validate
from iclkit.compiler.where import First, Largest, Pairs, Previous

__all__ = [
    "PROGRAMS",
    "Accuracy",
    "Aff",
    "Div",
    "First",
    "Interpreted",
    "Largest",
    "Loop",
    "Mov",
    "Mul",
    "Pairs",
    "Previous",
    "Program",
    "Raw",
    "accuracy",
    "attention_layer",
    "compile",
    "copying",
    "feature_descent",
    "gradient_descent",
    "gradient_descent_plus_plus",
    "interpret",
    "kernel_smoother",
    "limit_gamma",
    "limit_matrices",
    "programs",
    "registers",
    "token_descent",
    "trained_limit",
    "validate",
]
