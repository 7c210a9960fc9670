"""Programs to transformers."""

from __future__ import annotations

from math import prod

from iclkit.compiler.accuracy import LOOSE, TOLERANCE, check_accuracy
from iclkit.compiler.exact import EXACT
from iclkit.compiler.lowering import Plan, plan
from iclkit.compiler.program import Program
from iclkit.compiler.ranges import divisor_ranges
from iclkit.compiler.standard import standard, without_quotients
from iclkit.compiler.validate import simple_body, validate
from iclkit.compiler.weights import network
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor

# Eight bytes each, and once more while they are made.
_MOST_WEIGHTS = 10**9
SCALE, _LEAST = 1e-5, 1e-9
"""The scale s of products of the target "standard": their error is of order s², and rounding adds 1e-16/s; so
least of all is lost near 1e-5, and below 1e-9 most is."""


def compile(
    program: Program, target: str = "exact", *, scale: float = SCALE, tolerance: float | None = None
) -> InContextRegressor:
    """Make the transformer that carries out a program.

    It is the network that others are trained as, in float64: it can be hooked, saved, compared, identified and
    trained further. The rows of its residual stream have names; see `iclkit.compiler.registers`. It is run on a
    few episodes (see `accuracy`), and refused if it is not what the program stands for.

    Args:
        program: The program.
        target: "exact" (hard attention, units that multiply and divide, no norms: right up to rounding) or
            "standard" (softmax, GELU and LayerNorm: right up to an error that falls with the scale).
        scale: s of the target "standard", see `standard.py`. Training is in float32, which follows products of
            a scale of 0.01 or more; where it shall go on from an algorithm, small learning rates (1e-5) and a
            scale of 0.03 leave it intact.
        tolerance: The largest error that is accepted, as a share of the size of predictions. If None 1e-3; with
            a scale of your own, of which errors are expected, 1.

    Raises:
        UserError: A program that makes no sense or that the target cannot carry out, before any weight is made;
            one whose network errs by more than the tolerance.

    Source: Akyürek et al. (2022), section 3 and appendix C, who show that such transformers exist.
    """
    made = planned(program, target)
    if not _LEAST <= scale <= 1:
        raise UserError(f"scale must lie in [{_LEAST:g}, 1], given {scale}")
    if tolerance is None:
        tolerance = TOLERANCE if scale == SCALE or target == "exact" else LOOSE
    found = network(made, EXACT if target == "exact" else standard(made.width, scale))
    check_accuracy(program, found, target, tolerance)
    return found


def planned(program: Program, target: str = "exact") -> Plan:
    """What `compile` is going to make: blocks, and which rows hold what; raises as that."""
    shapes = validate(program, target)
    # Each register takes as many rows as it has numbers, and a block four matrices of rows by rows or more.
    rows = max(map(prod, shapes.values()))
    if 4 * rows**2 > _MOST_WEIGHTS:
        raise UserError(
            f"{program.name} in {program.dim} dimensions has a register of {rows} numbers, which takes more "
            f"than {_MOST_WEIGHTS:.0e} weights; give fewer dimensions"
        )
    body = simple_body(program, shapes)
    ranges = divisor_ranges(program, shapes)
    if target == "exact":
        return plan(program, body, shapes, ranges, balance=0)
    return plan(program, without_quotients(body, shapes, ranges), shapes, ranges, balance=2)
