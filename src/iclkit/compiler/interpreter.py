"""The reference: runs a program in NumPy, in float64, for a batch of episodes and at every prefix.

Shape letters: B episodes, N points, d dimension of x, C columns: the start column, one for each pair but the
last, and one for each query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from iclkit.compiler.operations import Aff, Div, Loop, Mov, Mul, Operation, Raw, Statement
from iclkit.compiler.program import Program
from iclkit.compiler.validate import validate
from iclkit.compiler.where import First, Largest, Pairs, Previous, Where
from iclkit.errors import UserError

Array = NDArray[np.float64]


def interpret(program: Program, x: Float[Array, "B N d"], y: Float[Array, "B N"]) -> dict[str, Array]:
    """Run a program.

    Args:
        program: The program.
        x: Inputs.
        y: Targets; the last is not looked at.

    Returns:
        What every register holds at the end, [B, C, *shape]. Columns 0 to N - 1 are the start and the pairs but
        the last, the N others the queries, of which number n has the pairs before n.

    Raises:
        UserError: A program that makes no sense; data of another shape, or longer contexts than it is for.
    """
    validate(program)
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 3 or x.shape[2] != program.dim or y.shape != x.shape[:2] or not y.shape[1]:
        raise UserError(
            f"{program.name} takes x [episodes, points, {program.dim}] and a y for each, at least one point, "
            f"given {list(x.shape)} and {list(y.shape)}"
        )
    if y.shape[1] > program.points + 1:
        raise UserError(
            f"{program.name} is for contexts of up to {program.points} pairs, given {y.shape[1] - 1}"
        )
    nothing = np.zeros_like(y)
    state = {
        "x": np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1], x], 1),
        "y": np.concatenate([nothing[:, :1], y[:, :-1], nothing], 1),
    }
    for name, value in program.initial.items():
        state[name] = np.broadcast_to(value, (*state["y"].shape, *value.shape)).copy()
    _carry_out(program.body, state, _Columns(y.shape[1]))
    return state


@dataclass(frozen=True, eq=False)
class Interpreted:
    """A program carried out by the interpreter, as what `compare` and `identify` take for a learner.

    Args:
        program: The program.

    Raises:
        UserError: A program that makes no sense.
    """

    program: Program

    def __post_init__(self) -> None:
        validate(self.program)

    def predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Predict every y_n from x_n and the pairs before n.

        Args:
            x: Inputs.
            y: Targets; the last is not looked at.

        Raises:
            UserError: As `interpret`.
        """
        registers = interpret(self.program, x.double().cpu().numpy(), y.double().cpu().numpy())
        return torch.from_numpy(registers[self.program.output][:, x.shape[1] :]).to(y)


class _Columns:
    """Which column sees which, and how operations read other columns."""

    def __init__(self, points: int) -> None:
        pairs, queries = np.arange(points), np.arange(points)
        # The start column reads itself; a query with n pairs reads column n, which is pair n's (or the
        # start's).
        self.previous = np.concatenate([np.maximum(pairs - 1, 0), queries])
        last = np.concatenate([pairs, queries])
        self.first = np.minimum(last, 1)
        self.seen = (pairs[1:] <= last[:, None]) if points > 1 else np.zeros((2 * points, 0), bool)

    def read(self, where: Where, state: dict[str, Array], value: Array) -> Array:
        if isinstance(where, Previous):
            return value[:, self.previous]
        if isinstance(where, First):
            return value[:, self.first]
        points = len(self.seen) // 2
        if isinstance(where, Pairs):
            weights = self.seen.astype(float)[None]
        else:
            assert isinstance(where, Largest)
            query, key, plus = (state[name] for name in where.reads)
            flat = (*query.shape[:2], -1)
            scores = query.reshape(flat) @ key.reshape(flat)[:, 1:points].swapaxes(1, 2)
            later = where.later * np.arange(1, points)
            scores = np.where(self.seen, scores + plus[:, None, 1:points] - later, -np.inf)
            largest = scores.max(-1, keepdims=True, initial=-np.inf)
            weights = (self.seen & (scores == largest)).astype(float)
        # The start column takes what the pairs leave: all of it where there is none.
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1.0)
        weights = np.concatenate([1 - weights.sum(-1, keepdims=True).round(), weights], -1)
        rows = value[:, :points].reshape(len(value), points, -1)
        return (weights @ rows).reshape(value.shape)


def _carry_out(body: Sequence[Statement], state: dict[str, Array], columns: _Columns) -> None:
    for statement in body:
        if isinstance(statement, Loop):
            for _ in range(statement.times):
                _carry_out(statement.body, state, columns)
        else:
            state[statement.target] = _evaluate(statement, state, columns)


def _evaluate(operation: Operation, state: dict[str, Array], columns: _Columns) -> Array:
    if isinstance(operation, Mov):
        return columns.read(operation.where, state, state[operation.source])
    if isinstance(operation, Mul):
        left, right, product = operation.labels()
        spec = f"...{left},...{right}->...{product}"
        return np.einsum(spec, state[operation.left], state[operation.right])
    if isinstance(operation, Div):
        source = state[operation.source]
        divisor = state[operation.divisor]
        return source / divisor.reshape(divisor.shape + (1,) * (source.ndim - 2))
    if isinstance(operation, Aff):
        return _affine(operation, state)
    assert isinstance(operation, Raw)
    there = columns.read(operation.where, state, state[operation.read])
    left = _mapped(there, operation.read_matrix)
    right = _mapped(state[operation.own], operation.own_matrix)
    result = _mapped(left + right if operation.star == "+" else left * right, operation.out_matrix)
    return result if operation.to is None else result.reshape(*result.shape[:2], *operation.to)


def _mapped(value: Array, matrix: ArrayLike | None) -> Array:
    """A matrix times the entries of a register in a row; the identity if None."""
    flat = value.reshape(*value.shape[:2], -1)
    return flat if matrix is None else flat @ np.atleast_2d(np.asarray(matrix, float)).T


def _affine(operation: Aff, state: dict[str, Array]) -> Array:
    shape = operation.shape({name: value.shape[2:] for name, value in state.items()})
    lead = state["y"].shape
    total = np.broadcast_to(np.asarray(operation.constant, float), (*lead, *shape)).copy()
    for name in operation.terms:
        coefficient = np.asarray(operation.terms[name], float)
        if coefficient.ndim == 0:
            total += coefficient * state[name]
        else:
            flat = state[name].reshape(*lead, -1)
            total += (flat @ coefficient.T).reshape(total.shape)
    return total
