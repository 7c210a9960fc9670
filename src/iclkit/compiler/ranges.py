"""Between which numbers the entries of registers lie: what divisions need to know.

Interval arithmetic over the operations; x and y may be anything, and what a loop goes on changing may become
anything. A product of a register with itself is no square in general ("i,j->ij"), but is where its letters
match.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from iclkit.compiler.operations import Aff, Div, Loop, Mov, Mul, Operation, Raw, Shape, Statement
from iclkit.compiler.program import Program

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)


def divisor_ranges(program: Program, shapes: Mapping[str, Shape]) -> dict[Div, Range]:
    """The range of the divisor of every division, what the program promises included.

    Args:
        program: One whose shapes go together.
        shapes: Of all registers.
    """
    state: dict[str, Range] = {"x": ANY, "y": ANY}
    state |= {name: (float(value.min()), float(value.max())) for name, value in program.initial.items()}
    found: dict[Div, Range] = {}
    _walk(program.body, state, shapes, found)
    return found


def _walk(
    body: Sequence[Statement], state: dict[str, Range], shapes: Mapping[str, Shape], found: dict[Div, Range]
) -> None:
    for statement in body:
        if isinstance(statement, Loop):
            _fixed_point(statement.body, state, shapes, found)
        else:
            if isinstance(statement, Div):
                found[statement] = _promised(statement, state[statement.divisor])
            state[statement.target] = _range(statement, state, shapes, found)


def _fixed_point(
    body: Sequence[Statement], state: dict[str, Range], shapes: Mapping[str, Shape], found: dict[Div, Range]
) -> None:
    """A state that holds before every pass of the body; what a pass widens may be anything on that side."""
    while True:
        before = dict(state)
        _walk(body, state, shapes, found)
        for name, (low, high) in before.items():
            after = state[name]
            state[name] = (low if after[0] >= low else -math.inf, high if after[1] <= high else math.inf)
        if all(state[name] == value for name, value in before.items()):
            _walk(body, state, shapes, found)
            return


def _promised(operation: Div, known: Range) -> Range:
    low = known[0] if operation.least is None else max(known[0], operation.least)
    high = known[1] if operation.most is None else min(known[1], operation.most)
    return low, high


def _range(
    operation: Operation, state: Mapping[str, Range], shapes: Mapping[str, Shape], found: Mapping[Div, Range]
) -> Range:
    if isinstance(operation, Mov):
        return state[operation.source]
    if isinstance(operation, Mul):
        left, right, product = operation.labels()
        one = _times(state[operation.left], state[operation.right])
        if operation.left == operation.right and left == right:
            one = (max(one[0], 0.0), one[1])
        sizes = operation.sizes(shapes)
        count = math.prod(size for letter, size in sizes.items() if letter not in product)
        return _scaled(count, one)
    if isinstance(operation, Div):
        low, high = found[operation]
        if low <= 0:
            return ANY
        return _times(state[operation.source], (1 / high if math.isfinite(high) else 0.0, 1 / low))
    if isinstance(operation, Aff):
        return _affine(operation, state, shapes)
    assert isinstance(operation, Raw)
    return ANY


def _affine(operation: Aff, state: Mapping[str, Range], shapes: Mapping[str, Shape]) -> Range:
    constant = np.asarray(operation.constant)
    low, high = float(constant.min()), float(constant.max())
    for name, value in operation.terms.items():
        if np.ndim(value) == 0:
            own = _scaled(float(np.asarray(value)), state[name])
        else:
            rows = operation.matrix(name, math.prod(shapes[name]))
            entries = [[_scaled(float(a), state[name]) for a in row] for row in rows]
            sums = [(sum(e[0] for e in row), sum(e[1] for e in row)) for row in entries]
            own = min(s[0] for s in sums), max(s[1] for s in sums)
        low, high = low + own[0], high + own[1]
    return low, high


def _scaled(factor: float, one: Range) -> Range:
    if factor == 0:
        return 0.0, 0.0
    low, high = factor * one[0], factor * one[1]
    return min(low, high), max(low, high)


def _times(a: Range, b: Range) -> Range:
    # 0 · ∞ is 0 here: every entry is finite, the bounds alone are not.
    ends = [0.0 if 0 in (p, q) else p * q for p in a for q in b]
    return min(ends), max(ends)
