"""The target "exact": hard attention, units that multiply and divide, no norms."""

from __future__ import annotations

import numpy as np

from iclkit.compiler.expressions import Unit
from iclkit.compiler.lowering import Plan, PlannedBlock
from iclkit.compiler.weights import Perceptron, Target


def hidden_units(plan: Plan, block: PlannedBlock) -> Perceptron | None:
    """A unit for every product and quotient, and one for every row that changes by a linear map."""
    units = dict.fromkeys(unit for row in block.rows.values() for unit in row.units)
    linear = [row for row, change in block.rows.items() if change.vector.any()]
    hidden = len(units) + len(linear)
    down_bias = np.zeros(plan.width)
    for row, change in block.rows.items():
        down_bias[row] = change.constant
    if not hidden:
        return None
    up, up_bias = np.zeros((3, hidden, plan.width)), np.ones((3, hidden))
    down = np.zeros((plan.width, hidden))
    places: dict[Unit, int] = {}
    for place, unit in enumerate(units):
        places[unit] = place
        for part, form in enumerate((unit.a, unit.b, unit.c)):
            up[part, place], up_bias[part, place] = plan.vector(form), form.constant
    for place, row in enumerate(linear, len(units)):
        # z · 1 / 1
        up[0, place], up_bias[0, place] = block.rows[row].vector, 0.0
        down[row, place] = 1.0
    for row, change in block.rows.items():
        for unit, value in change.units.items():
            down[row, places[unit]] = value
    return Perceptron(up.reshape(3 * hidden, -1), up_bias.ravel(), down, down_bias)


EXACT = Target({"attention": "hard", "norm": False, "activation": "arithmetic"}, hidden_units)
