"""Names for rows of the residual stream of a network whose rows have a meaning.

A register is a range of rows that holds one quantity, after those blocks in which nothing else has its place.
There it is a hook point as well: `registers.w.3` is w after block 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.networks import HookPoint
from iclkit.networks.hooks import HookFunction, Removal

BALANCE = "balance+", "balance-"
"""Registers that hold each half of what the others lack to a sum of 0, for the sake of a LayerNorm."""
_RESIDUAL = re.compile(r"blocks\.(\d+)\.residual")


@dataclass(frozen=True)
class Register:
    """A named quantity of the residual stream.

    Args:
        name: Its name.
        shape: Its shape; () for a number.
        first: The first of its rows, which follow each other, the last axis of the shape fastest.
        held: Whether it is there after each block: its value, and not an empty or another's row.
    """

    name: str
    shape: tuple[int, ...]
    first: int
    held: tuple[bool, ...]

    @property
    def rows(self) -> range:
        """Its rows."""
        return range(self.first, self.first + math.prod(self.shape))

    def read(self, stream: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch _"]:
        """Its value in a residual stream."""
        return stream[..., self.rows.start : self.rows.stop].unflatten(-1, self.shape or (1,))[
            ..., *((0,) * (not self.shape))
        ]


class RegisterPoint(HookPoint):
    """A register after one block; who listens to it listens to the block's residual stream.

    Args:
        register: The register.
        stream: The hook point of the residual stream.
        balance: The registers that take back what is written to another; none if nobody does.
    """

    def __init__(self, register: Register, stream: HookPoint, balance: Sequence[Register]) -> None:
        super().__init__()
        self._register, self._balance = register, balance
        # Not as a part of this module: it is one of the network's.
        self._stream = (stream,)

    def add(self, function: HookFunction) -> Removal:
        def on_stream(stream: Tensor) -> Tensor | None:
            replaced = function(self._register.read(stream))
            return None if replaced is None else self._write(stream, replaced)

        removals = super().add(function), self._stream[0].add(on_stream)

        def remove() -> None:
            for each in removals:
                each()

        return remove

    def _write(self, stream: Float[Tensor, "*batch W"], value: Tensor) -> Float[Tensor, "*batch W"]:
        rows, before = self._register.rows, self._register.read(stream)
        if value.shape != before.shape:
            raise UserError(
                f"what replaces register {self._register.name} must have shape {list(before.shape)}, given "
                f"{list(value.shape)}"
            )
        change = (value - before).reshape(*stream.shape[:-1], len(rows))
        stream = stream.clone()
        stream[..., rows.start : rows.stop] += change
        for register in self._balance:
            stream[..., register.first] -= change.sum(-1) / len(self._balance)
        return stream


def register_points(registers: Sequence[Register], points: Mapping[str, HookPoint]) -> dict[str, RegisterPoint]:
    """A hook point for every register after every block that leaves it in its rows.

    Args:
        registers: Those of a network.
        points: Its other hook points.
    """
    balance = [register for register in registers if register.name in BALANCE]
    return {
        f"registers.{register.name}.{block}": RegisterPoint(
            register, points[f"blocks.{block}.residual"], [] if register in balance else balance
        )
        for register in registers
        for block, held in enumerate(register.held)
        if held
    }


def read_registers(
    registers: Iterable[Register], cache: Mapping[str, Tensor], names: str | Iterable[str] | None = None
) -> dict[str, dict[int, Tensor]]:
    """What the registers of a network held, from the residual streams that `run_with_cache` kept.

    Args:
        registers: Those of the network, its attribute `registers`.
        cache: Activations by hook point; entries other than `blocks.*.residual` are not looked at.
        names: Which registers; all if None.

    Returns:
        For each register the values [B, T, *shape] by block, at the blocks after which it held them.

    Raises:
        UserError: A register that is not there, or a cache without residual streams.
    """
    known = {register.name: register for register in registers}
    wanted = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    streams = {int(found[1]): value for name, value in cache.items() if (found := _RESIDUAL.fullmatch(name))}
    if not streams:
        raise UserError("the cache holds no residual stream; run with names='blocks.*.residual'")
    for name in wanted:
        if name not in known:
            raise unknown("register", name, known)
    return {
        name: {block: known[name].read(streams[block]) for block in sorted(streams) if known[name].held[block]}
        for name in wanted
    }
