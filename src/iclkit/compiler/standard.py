"""The target "standard": softmax, GELU and LayerNorm alone; right up to an error that falls with a scale s.

Hidden units, with G(z) = z Φ(z) = z/2 + e(z) and e even, e(z) = z²/√(2π) (1 - z²/6 + ...):

    linear      G(z) - G(-z) = z, exactly
    product     G(s(a + b)) - G(s(a - b)) = s b + 4 s² a b/√(2π) (1 - s² (a² + b²)/3 + ...),
                so two units for a b, an error of order s², and s b is taken back by the row's linear part
    quotient    1/c by a layer of its own (`reciprocal.py`), then a product

LayerNorm: two rows hold N - Σ/2 and -N - Σ/2, Σ the sum of all others. So the mean is 0 and the variance (2 N²
+ Σ²/2 + Σ z²)/W, that is 2 N²/W (1 + O(N⁻²)): the norm divides by a number known beforehand, which its own gain
takes back. All that is written to the stream writes to these rows too.

Softmax: scores that are largest, 0, where they should and at most -1 elsewhere are sharpened by β; what goes
astray is e^-β.

Source: Akyürek et al. (2022), appendix C, for GELU's products and the rows for LayerNorm; the units for
products and quotients here are others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import pi, sqrt

import numpy as np

from iclkit.compiler.expressions import ONE, Unit
from iclkit.compiler.lowering import Plan, PlannedBlock
from iclkit.compiler.operations import Aff, Div, Loop, Mul, Shape, Statement
from iclkit.compiler.reciprocal import reciprocal
from iclkit.compiler.weights import Array, Perceptron, Target

# N is 200/s, so that its error too is of order s², and less than that of products; but rounding adds 1e-16 N.
_LEVEL, _HIGHEST = 200.0, 2e6
_SHARPNESS = 60.0
_EPS = 1e-5  # that of torch's LayerNorm


def standard(width: int, scale: float) -> Target:
    """The target for so many rows.

    Args:
        width: Rows of the residual stream.
        scale: s.
    """
    level = min(_LEVEL / scale, _HIGHEST)
    return Target(
        {"attention": "softmax", "norm": True, "activation": "gelu"},
        lambda plan, block: _hidden_units(plan, block, scale),
        sharpness=_SHARPNESS,
        gain=sqrt(2 * level**2 / width + _EPS),
        level=level,
    )


def without_quotients(
    body: list[Statement], shapes: dict[str, Shape], ranges: dict[Div, tuple[float, float]]
) -> list[Statement]:
    """Every division as a product with a reciprocal; shapes and ranges of what is new are added."""
    found: list[Statement] = []
    for statement in body:
        if isinstance(statement, Loop):
            found.append(Loop(statement.times, tuple(without_quotients(list(statement.body), shapes, ranges))))
        elif isinstance(statement, Div):
            one, inverse = f"{statement.target}.one", f"{statement.target}.inverse"
            quotient = Div(inverse, one, statement.divisor)
            letters = "ijklmnop"[: len(shapes[statement.source])]
            found += [
                Aff(one, {}, 1.0),
                quotient,
                Mul(statement.target, statement.source, inverse, f"{letters},->{letters}"),
            ]
            shapes |= {one: (), inverse: ()}
            ranges[quotient] = ranges[statement]
        else:
            found.append(statement)
    return found


class _Units:
    """Hidden units under construction: what goes in, and to which rows what comes out."""

    def __init__(self, width: int) -> None:
        self.up: list[tuple[Array, float]] = []
        self.down: list[Array] = []
        self.width = width

    def add(self, vector: Array, constant: float, out: dict[int, float]) -> None:
        column = np.zeros(self.width)
        column[list(out)] = list(out.values())
        self.up.append((vector, constant))
        self.down.append(column)


def _hidden_units(plan: Plan, block: PlannedBlock, scale: float) -> Perceptron | None:
    units, bias = _Units(plan.width), np.zeros(plan.width)
    linear = {row: change.vector.copy() for row, change in block.rows.items()}
    uses: dict[Unit, dict[int, float]] = {}
    for row, change in block.rows.items():
        bias[row] += change.constant
        for unit, value in change.units.items():
            uses.setdefault(unit, {})[row] = value
    for unit, out in uses.items():
        if unit.c == ONE:
            _product(plan, unit, out, scale, units, linear, bias)
        else:
            _reciprocal(plan, unit, out, units)
    for direction, out in _directions(linear):
        units.add(direction, 0.0, out)
        units.add(-direction, 0.0, {row: -value for row, value in out.items()})
    if not units.up:
        return None
    up, up_bias = zip(*units.up, strict=True)
    return Perceptron(np.stack(up), np.array(up_bias), np.stack(units.down, 1), bias)


def _directions(linear: Mapping[int, Array]) -> Iterable[tuple[Array, dict[int, float]]]:
    """The vectors of rows up to a factor, and the factors: many rows take back the same b of products."""
    found: dict[bytes, tuple[Array, dict[int, float]]] = {}
    for row, vector in linear.items():
        if vector.any():
            factor = float(vector[vector.nonzero()[0][0]])
            direction = vector / factor + 0.0  # no negative zeros
            found.setdefault(direction.tobytes(), (direction, {}))[1][row] = factor
    return found.values()


def _product(
    plan: Plan,
    unit: Unit,
    out: dict[int, float],
    scale: float,
    units: _Units,
    linear: dict[int, Array],
    bias: Array,
) -> None:
    a, b = plan.vector(unit.a), plan.vector(unit.b)
    factor = sqrt(2 * pi) / (4 * scale**2)
    for sign in (1.0, -1.0):
        vector, constant = scale * (a + sign * b), scale * (unit.a.constant + sign * unit.b.constant)
        if vector.any() or constant:
            units.add(vector, constant, {row: sign * factor * value for row, value in out.items()})
    for row, value in out.items():
        linear[row] -= value * factor * scale * b
        bias[row] -= value * factor * scale * unit.b.constant


def _reciprocal(plan: Plan, unit: Unit, out: dict[int, float], units: _Units) -> None:
    assert unit.a == unit.b == ONE
    assert unit.range is not None
    gadget, c = reciprocal(*unit.range), plan.vector(unit.c)
    for slope, weight in zip(gadget.slopes, gadget.weights, strict=True):
        shift = slope * unit.c.constant + gadget.shift
        units.add(slope * c, shift, {row: weight * value for row, value in out.items()})
