"""What one layer of hidden units can compute of the entries of registers.

A form is an affine map of entries; a unit is a product or a quotient of forms; an expression is a form plus
a combination of units. A perceptron computes any number of expressions at once: its first matrix makes the
forms, its units multiply and divide, its second matrix combines. Operations whose results are still
expressions of the layer's inputs can therefore share a layer; `express` says what such a result is, or that
there is none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from iclkit.compiler.operations import Aff, Div, Mul, Operation, Shape

Cell = tuple[str, int]
"""An entry of a register: its name and its place in a row."""


class Form(NamedTuple):
    """Σ coefficient · entry + constant; entries in order, coefficients not 0."""

    terms: tuple[tuple[Cell, float], ...] = ()
    constant: float = 0.0

    def scaled(self, factor: float) -> Form:
        """The form times a number."""
        return combined([(factor, self)])


ONE = Form((), 1.0)


class Unit(NamedTuple):
    """a b / c. Where c is not 1 it lies in the range."""

    a: Form
    b: Form
    c: Form = ONE
    range: tuple[float, float] | None = None


class Expression(NamedTuple):
    """A form plus a combination of units."""

    form: Form
    units: Mapping[Unit, float] = {}

    def cells(self) -> Iterable[Cell]:
        """The entries that it reads."""
        forms = [self.form, *(form for unit in self.units for form in (unit.a, unit.b, unit.c))]
        return (cell for form in forms for cell, _ in form.terms)


Expressions = Sequence[Expression]


def entry(name: str, index: int) -> Expression:
    """The entry of a register as it is."""
    return Expression(Form((((name, index), 1.0),)))


def combined(parts: Iterable[tuple[float, Form]]) -> Form:
    """Σ factor · form."""
    terms: dict[Cell, float] = {}
    constant = 0.0
    for factor, form in parts:
        constant += factor * form.constant
        for cell, value in form.terms:
            terms[cell] = terms.get(cell, 0.0) + factor * value
    return Form(tuple(sorted((cell, value) for cell, value in terms.items() if value)), constant)


def added(parts: Sequence[tuple[float, Expression]], constant: float = 0.0) -> Expression:
    """Σ factor · expression + constant."""
    units: dict[Unit, float] = {}
    for factor, expression in parts:
        for unit, value in expression.units.items():
            units[unit] = units.get(unit, 0.0) + factor * value
    forms = [(factor, expression.form) for factor, expression in parts]
    return Expression(
        combined([*forms, (constant, ONE)]), {unit: value for unit, value in units.items() if value}
    )


def multiplied(a: Expression, b: Expression) -> Expression | None:
    """The product, if it is an expression again."""
    for number, other in ((a, b), (b, a)):
        if not number.form.terms and not number.units:
            return added([(number.form.constant, other)])
    for quotients, other in ((a, b), (b, a)):
        # (a / c) b is a unit again; 1 / c alone is left, for a target may have units that do no more.
        if quotients.units and not quotients.form.terms and not quotients.form.constant and not other.units:
            if any(unit.b != ONE or unit.a == ONE for unit in quotients.units):
                return None
            form, factor = _normal(other.form)
            units: dict[Unit, float] = {}
            for unit, value in quotients.units.items():
                left, right = sorted((unit.a, form))
                units[Unit(left, right, unit.c, unit.range)] = factor * value
            return Expression(Form(), units)
    if a.units or b.units:
        return None
    (left, first), (right, second) = sorted((_normal(a.form), _normal(b.form)))
    return Expression(Form(), {Unit(left, right): first * second})


def divided(a: Expression, b: Expression, reach: tuple[float, float]) -> Expression | None:
    """The quotient, if it is an expression again; b lies in a range without 0."""
    if b.units:
        return None
    if not b.form.terms:
        return added([(1 / b.form.constant, a)])
    if any(unit.c != ONE for unit in a.units):
        return None
    units = {Unit(unit.a, unit.b, b.form, reach): value for unit, value in a.units.items()}
    if a.form.terms or a.form.constant:
        form, factor = _normal(a.form)
        units[Unit(form, ONE, b.form, reach)] = factor
    return Expression(Form(), units)


def express(
    operation: Operation,
    operands: Mapping[str, Expressions],
    shapes: Mapping[str, Shape],
    ranges: Mapping[Div, tuple[float, float]],
) -> Expressions | None:
    """What an operation makes of its operands, entry by entry; None if that takes another layer.

    Args:
        operation: `Mul`, `Div` or `Aff`.
        operands: Of each register that it reads the expressions of its entries.
        shapes: Of all registers.
        ranges: Of all divisors.
    """
    if isinstance(operation, Div):
        (divisor,) = operands[operation.divisor]
        results = [divided(a, divisor, ranges[operation]) for a in operands[operation.source]]
    elif isinstance(operation, Mul):
        results = _product(operation, operands, shapes)
    else:
        assert isinstance(operation, Aff)
        results = _affine(operation, operands, shapes)
    found = [result for result in results if result is not None]
    return found if len(found) == len(results) else None


def _product(
    operation: Mul, operands: Mapping[str, Expressions], shapes: Mapping[str, Shape]
) -> list[Expression | None]:
    left, right, product = operation.labels()
    sizes = operation.sizes(shapes)
    sums: dict[int, list[tuple[float, Expression]]] = {}
    for places in itertools.product(*(range(size) for size in sizes.values())):
        at = dict(zip(sizes, places, strict=True))
        factors = (
            operands[name][_flat(letters, at, sizes)]
            for name, letters in zip(operation.reads, (left, right), strict=True)
        )
        one = multiplied(*factors)
        if one is None:
            return [None]
        sums.setdefault(_flat(product, at, sizes), []).append((1.0, one))
    return [added(sums[index]) for index in range(len(sums))]


def _affine(
    operation: Aff, operands: Mapping[str, Expressions], shapes: Mapping[str, Shape]
) -> list[Expression | None]:
    shape = operation.shape(shapes)
    constants = np.broadcast_to(np.asarray(operation.constant, float), shape).ravel()
    parts: list[list[tuple[float, Expression]]] = [[] for _ in range(constants.size)]
    for name in operation.terms:
        rows, columns = np.nonzero(matrix := operation.matrix(name, math.prod(shapes[name])))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            parts[row].append((float(matrix[row, column]), operands[name][column]))
    return [added(part, float(constant)) for part, constant in zip(parts, constants, strict=True)]


def _flat(letters: str, at: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    place = 0
    for letter in letters:
        place = place * sizes[letter] + at[letter]
    return place


def _normal(form: Form) -> tuple[Form, float]:
    """The form divided by its first coefficient, and that; so equal products are found equal."""
    factor = form.terms[0][1] if form.terms else form.constant
    return form.scaled(1 / factor), factor
