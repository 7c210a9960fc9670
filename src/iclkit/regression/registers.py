"""Names for rows of the residual stream of a network whose rows have a meaning.

A register is a range of rows that holds one quantity, after those blocks in which nothing else has its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown

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
