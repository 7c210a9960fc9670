"""A program: what a transformer is to compute, told in operations over named registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclkit.compiler.operations import Loop, Operation, Raw, Shape, Statement
from iclkit.learners import RegressionLearner


@dataclass(frozen=True, eq=False)
class Program:
    """A learning algorithm for contexts of pairs.

    The registers x [d] and y (a number) hold a column's own pair; y is 0 in the query's, both are in the start
    column's. A register named in `start` holds that value in all columns at first. Every other register is
    there from its first operation on, and keeps the shape that it then has.

    Args:
        name: What it is called.
        dim: Dimension of x (d).
        points: Longest context.
        body: The statements.
        start: Registers that hold something before the first statement.
        output: The register that holds the prediction of the query's y at the end, a number.
        learner: The textbook learner that it stands for; None if there is none.
        longest: The largest ‖x‖² that it is for; None for any.
    """

    name: str
    dim: int
    points: int
    body: Sequence[Statement]
    start: Mapping[str, ArrayLike] = field(default_factory=dict)
    output: str = "prediction"
    learner: RegressionLearner | None = None
    longest: float | None = None

    @cached_property
    def initial(self) -> dict[str, NDArray[np.float64]]:
        """The values of `start` as arrays."""
        return {name: np.asarray(value, float) for name, value in self.start.items()}

    @cached_property
    def inputs(self) -> dict[str, Shape]:
        """The shapes of the registers that are there at first."""
        return {"x": (self.dim,), "y": ()} | {name: value.shape for name, value in self.initial.items()}

    def operations(self) -> Iterator[Operation]:
        """Every operation once, those of loops too."""
        yield from _operations(self.body)

    def __str__(self) -> str:
        head = f"{self.name} (d = {self.dim}, up to {self.points} pairs), predicts {self.output}"
        return "\n".join([head, *_lines(self.body, 1)])


def simplified(body: Sequence[Statement], shapes: Mapping[str, Shape]) -> list[Statement]:
    """The statements with every `Raw` as the simpler operations that it stands for; shapes of all registers."""
    found: list[Statement] = []
    for statement in body:
        if isinstance(statement, Loop):
            found.append(Loop(statement.times, tuple(simplified(statement.body, shapes))))
        elif isinstance(statement, Raw):
            found.extend(statement.parts(shapes))
        else:
            found.append(statement)
    return found


def _operations(body: Sequence[Statement]) -> Iterator[Operation]:
    for statement in body:
        if isinstance(statement, Loop):
            yield from _operations(statement.body)
        else:
            yield statement


def _lines(body: Sequence[Statement], depth: int) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, Loop):
            yield f"{'  ' * depth}loop {statement.times} times"
            yield from _lines(statement.body, depth + 1)
        else:
            yield f"{'  ' * depth}{statement}"
