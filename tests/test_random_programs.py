"""Programs that nobody would write, compiled and interpreted: registers die, share rows and change in loops."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compiler_programs import episodes
from iclkit.compiler import Aff, Div, Interpreted, Loop, Mov, Mul, Pairs, Previous, Program, Raw, compile
from iclkit.compiler.operations import Operation, Shape, Statement
from iclkit.errors import UserError
from iclkit.learners.trained_regression import TrainedRegressor


class Writer:
    """Writes a program of a few random statements over registers that are numbers, vectors and matrices."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.dim = self.chance.randint(1, 3)
        self.shapes: dict[str, Shape] = {"x": (self.dim,), "y": ()}
        self.start = {f"s{place}": self._value() for place in range(self.chance.randint(0, 3))}
        self.shapes |= {name: value.shape for name, value in self.start.items()}

    def program(self) -> Program:
        body = self._body(self.chance.randint(2, 9), depth=0)
        numbers = [name for name, shape in self.shapes.items() if not shape and name != "y"]
        return Program(
            "random", self.dim, 4, body, self.start, self.chance.choice(numbers) if numbers else "none"
        )

    def _value(self) -> np.ndarray:
        shape = self.chance.choice([(), (self.dim,), (self.dim, self.dim)])
        return np.random.default_rng(self.chance.randint(0, 99)).normal(size=shape)

    def _body(self, count: int, depth: int) -> list[Statement]:
        found: list[Statement] = []
        for _ in range(count):
            if depth < 2 and self.chance.random() < 0.2:
                inner = self._body(self.chance.randint(1, 4), depth + 1)
                found.append(Loop(self.chance.randint(1, 3), tuple(inner)))
            else:
                found += self._operations()
        return found

    def _target(self, shape: Shape) -> str:
        """A register that is there already, or a new one."""
        known = [name for name in self._like(shape) if name not in "xy"]
        name = self.chance.choice(known) if known and self.chance.random() < 0.5 else f"t{len(self.shapes)}"
        self.shapes[name] = shape
        return name

    def _like(self, shape: Shape) -> list[str]:
        return [name for name, other in self.shapes.items() if other == shape]

    def _operations(self) -> list[Operation]:
        one = self.chance.choice(list(self.shapes))
        shape, where = self.shapes[one], self.chance.choice([Previous(), Pairs()])
        other = self.chance.choice(self._like(shape))
        kind = self.chance.choice(["mov", "mul", "mul", "aff", "aff", "raw", "div"])
        if kind == "mov":
            return [Mov(self._target(shape), one, where)]
        if kind == "aff":
            terms = {name: self.chance.uniform(-1, 1) for name in {one: 0, other: 0}}
            return [Aff(self._target(shape), terms, self.chance.choice([0.0, 0.5]))]
        if kind == "raw":
            return [Raw(self._target(shape), one, other, self.chance.choice("+*"), where, to=shape)]
        letters = "ij"[: len(shape)]
        kept = "".join(letter for letter in letters if self.chance.random() < 0.6)
        sizes = dict(zip(letters, shape, strict=True))
        product = self._target(tuple(sizes[letter] for letter in kept))
        found: list[Operation] = [Mul(product, one, other, f"{letters},{letters}->{kept}")]
        if kind == "div":
            square, divisor = self._target(()), f"d{len(self.shapes)}"
            self.shapes[divisor] = ()
            found.append(Mul(square, one, one, f"{letters},{letters}->"))
            found += [Aff(divisor, {square: 1.0}, 1.0), Div(self._target(shape), other, divisor)]
        return found


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_programs_compute_what_the_interpreter_does(first: int) -> None:
    compared = 0
    for seed in range(first, first + 50):
        program = Writer(seed).program()
        x, y = episodes(program.dim, program.points)
        try:
            network = compile(program)
        except UserError:  # the output is never written, or holds a start alone
            continue
        expected = Interpreted(program).predict(x, y)
        # Powers of powers may be anything; rounding is relative to what has been on the way to the answer.
        if float(expected.abs().max()) > 1e3:
            continue
        found = TrainedRegressor(network).predict(x, y)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8, msg=lambda m, p=program: f"{p}\n{m}")
        compared += 1
    assert compared > 20
