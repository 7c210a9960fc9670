"""The blocks of a transformer one by one, where they differ."""

from __future__ import annotations

from dataclasses import dataclass

from iclkit.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Shapes of the blocks, and which of them have the same weights; an entry for every block.

    Args:
        heads: Attention heads; 0 for a block without attention.
        hidden: Hidden units of its perceptron; 0 for none.
        like: The block whose weights it has: itself, or an earlier one of the same shape.

    Raises:
        UserError: Entries that are not as many, negative, or that do not belong together.
    """

    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    like: tuple[int, ...]

    def __post_init__(self) -> None:
        counts = {len(self.heads), len(self.hidden), len(self.like)}
        if len(counts) != 1 or not self.heads:
            raise UserError(
                "a layout has heads, hidden and like for every block, given "
                f"{len(self.heads)}, {len(self.hidden)} and {len(self.like)} entries"
            )
        if min(*self.heads, *self.hidden, 0) < 0:
            raise UserError("heads and hidden of a layout must not be negative")
        for block, like in enumerate(self.like):
            if not 0 <= like <= block or self.like[like] != like:
                raise UserError(f"block {block} of a layout is like {like}; name itself or an earlier original")
            if (self.heads[like], self.hidden[like]) != (self.heads[block], self.hidden[block]):
                raise UserError(f"block {block} of a layout is like block {like}, which has another shape")
