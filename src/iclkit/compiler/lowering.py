"""From a program to what each block of a transformer reads and adds, row by row; the same for every target.

Shape letters: W rows of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from iclkit.compiler.allocate import allocate, dirty_rows
from iclkit.compiler.expressions import Expression, Form, Unit
from iclkit.compiler.operations import Div, Shape, Statement
from iclkit.compiler.program import Program
from iclkit.compiler.schedule import Block, find_live, loops, originals, schedule, unrolled, without_idle
from iclkit.compiler.where import Largest, Where
from iclkit.errors import UserError
from iclkit.regression.registers import Register

Vector = Float[NDArray[np.float64], " W"]


@dataclass(frozen=True)
class Own(Where):
    """The column itself."""


@dataclass(frozen=True)
class Copy:
    """What attention adds to some rows: a factor times rows of other columns.

    Args:
        where: Which columns.
        targets: Rows that are added to.
        sources: Rows that are read.
        factor: A number.
    """

    where: Where
    targets: tuple[int, ...]
    sources: tuple[int, ...]
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Row:
    """What the hidden units add to a row: vectorᵀstream + constant + Σ coefficient · unit."""

    vector: Vector
    constant: float
    units: Mapping[Unit, float]


@dataclass(frozen=True)
class Traffic:
    """The registers that a phase reads and writes."""

    reads: frozenset[str]
    writes: frozenset[str]


@dataclass(frozen=True, eq=False)
class PlannedBlock:
    """A block: what its attention adds, what its hidden units add, and of which operations and registers.

    Args:
        copies: The heads of its attention.
        rows: What the hidden units add.
        operations: What it carries out.
        attention: The registers that its attention reads and writes.
        units: The registers that its hidden units read and write.
        live: The registers that are needed before it, between its phases and after it.
    """

    copies: tuple[Copy, ...]
    rows: Mapping[int, Row]
    operations: tuple[str, ...]
    attention: Traffic
    units: Traffic
    live: tuple[frozenset[str], frozenset[str], frozenset[str]]


@dataclass(frozen=True, eq=False)
class Plan:
    """A program as the rows and blocks of a transformer.

    Args:
        program: The program.
        width: Rows of the residual stream.
        codes: Rows of what a column is: its place, the square of that, and its kind.
        balance: Rows that keep mean and variance of the stream what they are; none where they need not.
        registers: The rows of registers.
        blocks: The blocks with weights of their own.
        shapes: Of all registers of the program.
        order: For each block of the transformer which of `blocks` it is.
        loops: For each loop the first of its `blocks`, the one after the last, and how often it runs.
    """

    program: Program
    width: int
    codes: tuple[int, int, int]
    balance: tuple[int, ...]
    registers: Mapping[str, range]
    shapes: Mapping[str, Shape]
    blocks: tuple[PlannedBlock, ...]
    order: tuple[int, ...]
    loops: tuple[tuple[int, int, int], ...]

    @property
    def like(self) -> tuple[int, ...]:
        """For each block of the transformer the first with its weights."""
        return tuple(self.order.index(original) for original in self.order)

    def named_rows(self) -> tuple[Register, ...]:
        """The registers as the network names them, and the rows that are none of the program's."""
        always = (True,) * len(self.order)
        names = {"place": self.codes[0], "place²": self.codes[1], "kind": self.codes[2]}
        names |= dict(zip(("balance+", "balance-"), self.balance, strict=False))
        held = [self.blocks[index].live[2] for index in self.order]
        own = [Register(name, (), row, always) for name, row in names.items()]
        found = [
            Register(name, self.shapes[name], rows.start, tuple(name in live for live in held))
            for name, rows in sorted(self.registers.items(), key=lambda item: item[1].start)
        ]
        return (*own, *found)

    def vector(self, form: Form) -> Vector:
        """The coefficients of a form as a row vector over the stream; without its constant."""
        found = np.zeros(self.width)
        for (name, index), value in form.terms:
            found[self.registers[name][index]] += value
        return found


def plan(
    program: Program,
    body: list[Statement],
    shapes: Mapping[str, Shape],
    ranges: Mapping[Div, tuple[float, float]],
    balance: int,
) -> Plan:
    """Decide blocks and rows.

    Args:
        program: The program.
        body: Its statements, without `Raw`.
        shapes: Of all registers.
        ranges: Of all divisors.
        balance: How many rows the target needs for itself.
    """
    items = schedule(body, shapes, ranges)
    find_live(items, {program.output})
    items = without_idle(items)
    if not items:
        raise UserError(f"{program.name}: no operation has a part in the output {program.output!r}")
    find_live(items, {program.output})
    first = 3 + balance
    # A choice can turn on the last digit.
    chooses = any(isinstance(getattr(each, "where", None), Largest) for each in program.operations())
    rows = allocate(items, shapes, first, shared=not chooses)
    width = max(first, *(span.stop for span in rows.values()))
    own = list(originals(items))
    at_first = [
        row
        for name in own[0].live[0]
        if name in ("x", "y") or program.initial[name].any()
        for row in rows[name]
    ]
    dirty = dirty_rows(items, rows, at_first)
    order = tuple(own.index(block) for block in unrolled(items))
    made = Plan(program, width, (0, 1, 2), tuple(range(3, first)), rows, shapes, (), order, tuple(loops(items)))
    return replace(made, blocks=tuple(_block(block, made, *dirty[block]) for block in own))


def _block(block: Block, made: Plan, before: set[int], between: set[int]) -> PlannedBlock:
    copies: dict[Where, Copy] = {}
    cleared: list[int] = []
    for move in block.moves:
        targets, sources = made.registers[move.target], made.registers[move.source]
        known = copies.get(move.where, Copy(move.where, (), ()))
        copies[move.where] = Copy(move.where, (*known.targets, *targets), (*known.sources, *sources))
        cleared += [row for row in targets if row in before]
    if cleared:
        copies[Own()] = Copy(Own(), tuple(cleared), tuple(cleared), -1.0)
    rows = {
        row: _row(expression, row, made, row in between)
        for name, expressions in block.values.items()
        for row, expression in zip(made.registers[name], expressions, strict=True)
    }
    cells = {cell[0] for expressions in block.values.values() for each in expressions for cell in each.cells()}
    return PlannedBlock(
        tuple(copies.values()),
        rows,
        tuple(map(str, block.does)),
        Traffic(
            frozenset(name for move in block.moves for name in move.reads),
            frozenset(move.target for move in block.moves),
        ),
        Traffic(frozenset(cells), frozenset(block.values)),
        (frozenset(block.live[0]), frozenset(block.live[1]), frozenset(block.live[2])),
    )


def _row(expression: Expression, row: int, made: Plan, dirty: bool) -> Row:
    vector = made.vector(expression.form)
    if dirty:
        vector[row] -= 1.0
    return Row(vector, expression.form.constant, expression.units)
