"""The operations of the language: what each reads, what it writes, and which shapes go together.

Registers hold small arrays, and every column of a sequence has all of them: a start column whose data are 0,
one for each pair (x, y), and one for the query (x, 0). All columns run every operation at once, on their own
registers; `Mov` alone looks at other columns.

Source: Akyürek et al. (2022), section 3.1 (mov, mul, div, aff) and equation 8 (raw); loops are ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclkit.compiler.where import PREVIOUS, Largest, Where
from iclkit.errors import UserError, unknown

Shape = tuple[int, ...]


class Operation(ABC):
    """One step of a program, which writes one register."""

    target: str

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The registers that it reads."""

    @abstractmethod
    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of what it writes.

        Raises:
            UserError: Shapes that do not go together; says why, not where.
        """


@dataclass(frozen=True)
class Mov(Operation):
    """Copy a register of other columns: target ← source there.

    Args:
        target: Register that is written.
        source: Register that is read.
        where: In which columns.
    """

    target: str
    source: str
    where: Where = PREVIOUS

    @property
    def reads(self) -> tuple[str, ...]:
        return self.source, *self.where.reads

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        if isinstance(self.where, Largest):
            query, key, plus = (shapes[name] for name in self.where.reads)
            if query != key or plus:
                raise UserError(
                    f"{self.where.query} {query} and {self.where.key} {key} must have one shape, "
                    f"and {self.where.plus} {plus} must be a number, ()"
                )
        return shapes[self.source]

    def __str__(self) -> str:
        return f"mov {self.target} ← {self.source} [{self.where}]"


@dataclass(frozen=True)
class Mul(Operation):
    """A product of two registers: target ← einsum(spec, left, right).

    Args:
        target: Register that is written.
        left: First factor.
        right: Second factor.
        spec: What is multiplied and summed, as for `numpy.einsum`: "i,i->" is a dot product, "i,->i" a
            multiple.
    """

    target: str
    left: str
    right: str
    spec: str

    @property
    def reads(self) -> tuple[str, ...]:
        return self.left, self.right

    def labels(self) -> tuple[str, str, str]:
        """The letters of the factors and of the product.

        Raises:
            UserError: No such notation.
        """
        inputs, arrow, product = self.spec.partition("->")
        left, comma, right = inputs.partition(",")
        whole = left + right + product
        sound = arrow and comma and (whole.isalpha() or not whole) and set(product) <= set(left + right)
        if not sound or any(len(set(part)) < len(part) for part in (left, right, product)):
            raise UserError(f"{self.spec!r} is no product of two registers; write one like 'ij,j->i'")
        return left, right, product

    def sizes(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """The size of each letter's axis.

        Raises:
            UserError: As `shape`.
        """
        sizes: dict[str, int] = {}
        for name, letters in zip(self.reads, self.labels(), strict=False):
            shape = shapes[name]
            if len(shape) != len(letters):
                raise UserError(f"{name} has shape {shape}, but {self.spec!r} gives it {len(letters)} axes")
            for letter, size in zip(letters, shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise UserError(
                        f"axis {letter} of {self.spec!r} is {sizes[letter]} in {self.left} "
                        f"{shapes[self.left]} and {size} in {name} {shape}"
                    )
        return sizes

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        sizes = self.sizes(shapes)
        return tuple(sizes[letter] for letter in self.labels()[2])

    def __str__(self) -> str:
        return f"mul {self.target} ← {self.left}, {self.right} [{self.spec}]"


@dataclass(frozen=True)
class Div(Operation):
    """Divide by a number: target ← source / divisor.

    Args:
        target: Register that is written.
        source: What is divided.
        divisor: Register of a number.
        least: What the program promises of the divisor: it is never below this, a positive number. None to
            leave it to the ranges that follow from the program.
        most: The same from above; the target "standard" alone needs it.
    """

    target: str
    source: str
    divisor: str
    least: float | None = None
    most: float | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return self.source, self.divisor

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        if shapes[self.divisor]:
            raise UserError(
                f"the divisor {self.divisor} has shape {shapes[self.divisor]}; it must be a number, ()"
            )
        return shapes[self.source]

    def __str__(self) -> str:
        return f"div {self.target} ← {self.source} / {self.divisor}"


@dataclass(frozen=True, eq=False)
class Aff(Operation):
    """An affine map: target ← Σ coefficient · register + constant.

    Args:
        target: Register that is written.
        terms: The coefficient of each register: a number, or a matrix that acts on its entries in a row.
        constant: A number, or an array of the target's shape.
        to: Shape of the target; None for that of the registers or, behind matrices, a vector.
    """

    target: str
    terms: Mapping[str, ArrayLike]
    constant: ArrayLike = 0.0
    to: Shape | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.terms)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        found = self.to
        if not np.isfinite(np.asarray(self.constant, float)).all():
            raise UserError("the constant must be finite, given NaN or infinite numbers")
        for name, value in self.terms.items():
            matrix = np.asarray(value, float)
            if not np.isfinite(matrix).all():
                raise UserError(f"the coefficient of {name} must be finite, given NaN or infinite numbers")
            if matrix.ndim == 0:
                own = shapes[name]
            elif matrix.ndim == 2 and matrix.shape[1] == prod(shapes[name]):
                own = (len(matrix),) if self.to is None or prod(self.to) != len(matrix) else self.to
            else:
                raise UserError(
                    f"the coefficient of {name} {shapes[name]} has shape {matrix.shape}; "
                    f"give a number or a matrix with {prod(shapes[name])} columns"
                )
            if found is None:
                found = own
            if own != found:
                raise UserError(f"the term of {name} has shape {own}, others {found}")
        found = np.shape(self.constant) if found is None else found
        if np.shape(self.constant) not in ((), found):
            raise UserError(f"the constant has shape {np.shape(self.constant)}, the terms {found}")
        return found

    def matrix(self, name: str, size: int) -> NDArray[np.float64]:
        """The matrix of a term that has `size` entries."""
        value = np.asarray(self.terms[name], float)
        return value if value.ndim else value * np.eye(size)

    def __str__(self) -> str:
        parts = [_term(value, "M", name) for name, value in self.terms.items()]
        if np.any(np.asarray(self.constant)) or not parts:
            parts.append(_term(self.constant, "c"))
        # The sign of the first stands without a blank, and not at all if it is a plus.
        first, *others = parts
        return " ".join([f"aff {self.target} ←", first.removeprefix("+ ").replace("- ", "-"), *others])


@dataclass(frozen=True, eq=False)
class Raw(Operation):
    """The general operation: target ← W_out ((W_read mean of `read` there) ⋆ (W_own `own` here)).

    Args:
        target: Register that is written.
        read: Register that is read in other columns.
        own: Register of this column.
        star: "+" or "*".
        where: Which columns are read.
        read_matrix: W_read, which acts on the entries of `read` in a row; None for the identity.
        own_matrix: W_own.
        out_matrix: W_out.
        to: Shape of the target; None for a vector.

    Source: Akyürek et al. (2022), equation 8.
    """

    target: str
    read: str
    own: str
    star: str = "+"
    where: Where = PREVIOUS
    read_matrix: ArrayLike | None = None
    own_matrix: ArrayLike | None = None
    out_matrix: ArrayLike | None = None
    to: Shape | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return self.read, self.own, *self.where.reads

    def parts(self, shapes: Mapping[str, Shape]) -> list[Operation]:
        """The same as simpler operations; they share a block when compiled.

        Raises:
            UserError: As `shape`.
        """
        there, left, right, middle = (f"{self.target}.{part}" for part in ("there", "left", "right", "middle"))
        read, own = (_matrix(matrix, prod(shapes[name])) for matrix, name in self._factors())
        if len(read) != len(own):
            raise UserError(f"W_read has {len(read)} rows and W_own {len(own)}; they must be as many")
        out = _matrix(self.out_matrix, len(read))
        if out.ndim != 2 or out.shape[1] != len(read):
            raise UserError(f"W_out has shape {out.shape}; it must have {len(read)} columns")
        if self.star not in ("+", "*"):
            raise unknown("star", self.star, ("+", "*"))
        copy = Mov(there, self.read, self.where)
        if self.star == "+":
            return [copy, Aff(self.target, {there: out @ read, self.own: out @ own}, to=self.to)]
        return [
            copy,
            Aff(left, {there: read}),
            Aff(right, {self.own: own}),
            Mul(middle, left, right, "i,i->i"),
            Aff(self.target, {middle: out}, to=self.to),
        ]

    def _factors(self) -> list[tuple[ArrayLike | None, str]]:
        return [(self.read_matrix, self.read), (self.own_matrix, self.own)]

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        known = dict(shapes)
        for part in self.parts(shapes):
            known[part.target] = part.shape(known)
        return known[self.target]

    def __str__(self) -> str:
        return f"raw {self.target} ← {self.read} [{self.where}] {self.star} {self.own}"


@dataclass(frozen=True, eq=False)
class Loop:
    """The same statements several times, by the same weights.

    Args:
        times: How often.
        body: The statements: operations, or loops again.
    """

    times: int
    body: tuple[Operation | Loop, ...]

    def __str__(self) -> str:
        return f"loop {self.times} × {{{'; '.join(map(str, self.body))}}}"


Statement = Operation | Loop


def _term(value: ArrayLike, letter: str, name: str = "") -> str:
    """A summand with its sign: "- 0.5 w"; a letter stands for what is no number."""
    if np.ndim(value):
        return f"+ {letter} {name}".rstrip()
    number = float(np.asarray(value))
    size = "" if name and abs(number) == 1 else f"{abs(number):.4g}"
    return f"{'-' if number < 0 else '+'} {f'{size} {name}'.strip()}"


def _matrix(value: ArrayLike | None, size: int) -> NDArray[np.float64]:
    return np.eye(size) if value is None else np.atleast_2d(np.asarray(value, float))
