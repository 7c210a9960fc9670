"""Programs to transformers."""

from __future__ import annotations

from iclkit.compiler.exact import EXACT
from iclkit.compiler.lowering import Plan, plan
from iclkit.compiler.program import Program
from iclkit.compiler.ranges import divisor_ranges
from iclkit.compiler.validate import simple_body, validate
from iclkit.compiler.weights import network
from iclkit.regression import InContextRegressor


def compile(program: Program, target: str = "exact") -> InContextRegressor:
    """Make the transformer that carries out a program."""
    shapes = validate(program, target)
    body = simple_body(program, shapes)
    return network(plan(program, body, shapes, divisor_ranges(program, shapes), 0), EXACT)
