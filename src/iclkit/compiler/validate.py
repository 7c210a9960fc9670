"""Refuses programs that make no sense or that a target cannot carry out, before any weight is made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from iclkit.compiler.operations import Div, Loop, Operation, Shape, Statement
from iclkit.compiler.program import Program, simplified
from iclkit.compiler.ranges import Range, divisor_ranges
from iclkit.compiler.where import Largest
from iclkit.errors import UserError, unknown

TARGETS = ("exact", "standard")


def validate(program: Program, target: str | None = None) -> dict[str, Shape]:
    """Check a program.

    Args:
        program: The program.
        target: What it is to be compiled for, "exact" or "standard"; None for no more than to be run.

    Returns:
        The shapes of all its registers.

    Raises:
        UserError: Sizes below one, shapes that do not go together, a register that is read before it is
            written, a loop that changes a shape or that runs less than once, division by what can be 0, or an
            operation that the target lacks. It names the operation and says why.
    """
    if target is not None and target not in TARGETS:
        raise unknown("target", target, TARGETS)
    for name in ("dim", "points"):
        if not _counts(value := getattr(program, name)):
            raise UserError(f"{program.name}: {name} must be at least 1, a whole number, given {value}")
    for name, value in program.initial.items():
        if name in ("x", "y"):
            raise UserError(f"{program.name}: {name} holds the data and cannot start with another value")
        if not value.size or not np.isfinite(value).all():
            raise UserError(f"{program.name}: {name} must start with finite numbers, at least one")
    shapes = dict(program.inputs)
    _walk(program, program.body, shapes, loop=None)
    if program.output not in shapes:
        raise UserError(f"{program.name}: the output {program.output!r} is never written")
    if shapes[program.output]:
        raise UserError(
            f"{program.name}: the output {program.output!r} has shape {shapes[program.output]}, "
            "but a prediction is a number, ()"
        )
    if target == "standard":
        _refuse_choices(program)
    for operation, reach in divisor_ranges(program, shapes).items():
        _check_divisor(program, operation, reach, target)
    return shapes


def simple_body(program: Program, shapes: dict[str, Shape]) -> list[Statement]:
    """The statements without `Raw`; the shapes of what stands for it are added."""
    body = simplified(program.body, shapes)
    shapes.clear()
    shapes.update(program.inputs)
    _walk(program, body, shapes, loop=None)
    return body


def _walk(program: Program, body: Sequence[Statement], shapes: dict[str, Shape], loop: Loop | None) -> None:
    for statement in body:
        if isinstance(statement, Loop):
            if not statement.body:
                raise _refused(program, statement, "it has no statements")
            if not _counts(statement.times):
                raise _refused(program, statement, f"it must run at least once, given {statement.times} times")
            _walk(program, statement.body, shapes, statement)
            continue
        for name in statement.reads:
            if name not in shapes:
                raise _refused(program, statement, f"{name!r} is read before it is written; give it a start")
        if statement.target in ("x", "y"):
            raise _refused(program, statement, f"{statement.target} holds the data and is not written")
        try:
            shape = statement.shape(shapes)
        except UserError as error:
            raise _refused(program, statement, str(error)) from None
        before = shapes.setdefault(statement.target, shape)
        if before != shape:
            why = "a loop must leave shapes as they are" if loop else "take another name"
            raise _refused(
                program, statement, f"it would turn {statement.target} from shape {before} into {shape}; {why}"
            )


def _counts(number: int) -> bool:
    return isinstance(number, int) and number >= 1


def _check_divisor(program: Program, operation: Div, reach: Range, target: str | None) -> None:
    if reach[0] > reach[1]:
        raise _refused(
            program,
            operation,
            f"{operation.divisor} would lie in [{reach[0]:g}, {reach[1]:g}], where no number is; "
            "promise what goes together",
        )
    if not reach[0] > 0:
        raise _refused(
            program,
            operation,
            f"{operation.divisor} may be 0, it lies in [{reach[0]:g}, {reach[1]:g}]; promise a positive least",
        )
    if target == "standard" and not math.isfinite(reach[1]):
        raise _refused(
            program,
            operation,
            f"target 'standard' approximates 1/{operation.divisor} on a range, and that has no end; "
            "promise a most, or take target 'exact'",
        )


def _refuse_choices(program: Program) -> None:
    for operation in program.operations():
        where = getattr(operation, "where", None)
        if isinstance(where, Largest):
            raise _refused(
                program,
                operation,
                "target 'standard' lacks it: softmax cannot choose between scores that may be as close as they "
                "like; take target 'exact'",
            )


def _refused(program: Program, operation: Operation | Loop, why: str) -> UserError:
    text = f"loop {operation.times} ×" if isinstance(operation, Loop) else str(operation)
    return UserError(f"{program.name}: {text}: {why}")
