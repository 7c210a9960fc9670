"""Which rows of the residual stream hold which register.

Two registers may have the same rows if never both are needed. So what is written may find something else in its
rows; then the old content is taken away in the same phase, for a block can only add to the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from iclkit.compiler.operations import Shape
from iclkit.compiler.schedule import Block, Repeat, Schedule, originals


def allocate(items: Schedule, shapes: Mapping[str, Shape], first: int, shared: bool = True) -> dict[str, range]:
    """Rows for every register that is ever needed between two phases.

    Args:
        items: Blocks whose `live` is set.
        shapes: Of all registers.
        first: The first free row.
        shared: Whether registers may have rows that others had before. Taking away what is there leaves
            rounding of its size, which may be that of inputs.

    Returns:
        Rows of each register; those before `first` are not used.
    """
    points = [live for block in originals(items) for live in block.live]
    # Large ones first; the order decides the rows, so it must not depend on that of a set.
    names = sorted({name for live in points for name in live}, key=lambda name: (-prod(shapes[name]), name))
    rows: dict[str, range] = {}
    for name in names:
        size = prod(shapes[name])
        rivals = {other for live in points if name in live or not shared for other in live}
        taken = sorted((rows[other].start, rows[other].stop) for other in rivals if other in rows)
        place = first
        for start, stop in taken:
            if place + size <= start:
                break
            place = max(place, stop)
        rows[name] = range(place, place + size)
    return rows


def dirty_rows(
    items: Schedule, rows: Mapping[str, range], at_first: Sequence[int]
) -> dict[Block, tuple[set[int], set[int]]]:
    """For each block the rows that may hold something when its attention writes, and when its units do.

    Args:
        items: Blocks whose `live` is set.
        rows: What `allocate` returned.
        at_first: The rows that hold something at first.
    """
    found: dict[Block, tuple[set[int], set[int]]] = {}

    def walk(items: Schedule, dirty: set[int]) -> None:
        for item in items:
            if isinstance(item, Repeat):
                # A second pass finds what the first has left.
                walk(item.body, dirty)
                walk(item.body, dirty)
                continue
            before = set(dirty)
            for move in item.moves:
                if move.target in item.live[1]:
                    dirty.update(rows[move.target])
            found[item] = before, set(dirty)
            for name in item.values:
                if name in item.live[2]:
                    dirty.update(rows[name])

    walk(items, set(at_first))
    return found
