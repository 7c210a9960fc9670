"""Which operation happens in which block: as early as what it reads allows, so that independent ones share.

A block has two phases: attention, where all `Mov`s of the block read the stream that enters it, and hidden
units, which read what attention has left. An operation goes to the earliest phase in which its operands are
there and nobody still needs what it overwrites; in the phase in which an operand is made, if the result is
still an expression of that phase's inputs (see `expressions.py`). An operand that nothing else reads is made
where it is read, if that is possible: it then needs no rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from iclkit.compiler.expressions import Expressions, entry, express
from iclkit.compiler.operations import Div, Loop, Mov, Operation, Shape, Statement


@dataclass(eq=False)
class Block:
    """One block.

    Args:
        moves: What its attention does.
        values: What its hidden units make of each register, entry by entry.
        live: The registers whose values are still needed when the block is entered, between its phases, and
            when it is left.
        does: The operations that were put here.
    """

    moves: list[Mov] = field(default_factory=list)
    values: dict[str, Expressions] = field(default_factory=dict)
    live: tuple[set[str], set[str], set[str]] = field(default_factory=lambda: (set(), set(), set()))
    does: list[Operation] = field(default_factory=list)


@dataclass(eq=False)
class Repeat:
    """Blocks that are run several times."""

    times: int
    body: list[Block | Repeat]


Schedule = list[Block | Repeat]


def schedule(
    body: Sequence[Statement], shapes: Mapping[str, Shape], ranges: Mapping[Div, tuple[float, float]]
) -> Schedule:
    """Put operations into blocks; a loop has blocks of its own.

    Args:
        body: Statements without `Raw`.
        shapes: Of all registers.
        ranges: Of all divisors.
    """
    found: Schedule = []
    straight: list[Operation] = []
    for statement in body:
        if isinstance(statement, Loop):
            found += _pack(straight, shapes, ranges)
            found.append(Repeat(statement.times, schedule(statement.body, shapes, ranges)))
            straight = []
        else:
            straight.append(statement)
    return found + _pack(straight, shapes, ranges)


def _pack(
    operations: Sequence[Operation], shapes: Mapping[str, Shape], ranges: Mapping[Div, tuple[float, float]]
) -> Schedule:
    packing = _Packing(shapes, ranges, Counter(name for each in operations for name in each.reads))
    for operation in operations:
        packing.add(operation)
    return list(packing.blocks)


class _Packing:
    """Blocks under construction. Times are phases: 2k is the attention of block k, 2k + 1 its hidden units."""

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        ranges: Mapping[Div, tuple[float, float]],
        uses: Mapping[str, int],
    ) -> None:
        self.shapes, self.ranges, self.uses = shapes, ranges, uses
        self.blocks: list[Block] = []
        self.written: dict[str, int] = {}
        self.read: dict[str, int] = {}
        # How often a register was written, and which versions of which registers the last value was made of.
        self.version: Counter[str] = Counter()
        self.made_of: dict[str, dict[str, int]] = {}

    def add(self, operation: Operation) -> None:
        """Put the next operation of the program where it belongs."""
        target, attention = operation.target, isinstance(operation, Mov)
        # Others may read the old value in the very phase that overwrites it: all read before any writes.
        time = max(self.read.get(target, 0), self.written.get(target, -1) + attention)
        time = max([time, *(self.written.get(name, -1) + attention for name in operation.reads)])
        time += time % 2 != (not attention)
        used = dict.fromkeys(operation.reads, 0)
        if isinstance(operation, Mov):
            self._block(time).moves.append(operation)
        else:
            time, used, value = self._place(operation, time)
            self._block(time).values[target] = value
        self._block(time).does.append(operation)
        for name in used:
            self.read[name] = max(self.read.get(name, 0), time)
        self.written[target], self.read[target] = time, 0
        self.version[target] += 1
        self.made_of[target] = used

    def _place(self, operation: Operation, time: int) -> tuple[int, dict[str, int], Expressions]:
        """The first phase that can, from a time on; the versions that are read, and what comes out."""
        while True:
            single = [name for name in operation.reads if self._can_be_made(name)]
            for inline in _subsets(sorted(single, key=lambda name: -prod(self.shapes[name]))):
                operands, used = self._operands(operation, time, inline)
                value = express(operation, operands, self.shapes, self.ranges)
                if value is not None:
                    for name in inline:
                        self._moved(name, time)
                    return time, used, value
            time += 2

    def _operands(
        self, operation: Operation, time: int, inline: Collection[str]
    ) -> tuple[dict[str, Expressions], dict[str, int]]:
        operands: dict[str, Expressions] = {}
        used: dict[str, int] = {}
        for name in operation.reads:
            at = self.written.get(name, -1)
            # Made in this phase, or as well made here: then the entries are those that it was made of.
            if at == time or name in inline:
                operands[name] = self.blocks[at // 2].values[name]
                used |= self.made_of[name]
            else:
                operands[name] = [entry(name, index) for index in range(prod(self.shapes[name]))]
                used[name] = self.version[name]
        return operands, used

    def _can_be_made(self, name: str) -> bool:
        """Whether a register that nothing else reads can be made once more, from what it was made of."""
        made_of, made_by_units = self.made_of.get(name), self.written.get(name, 0) % 2
        if self.uses[name] > 1 or made_of is None or not made_by_units:
            return False
        return all(self.version[part] == number for part, number in made_of.items())

    def _moved(self, name: str, time: int) -> None:
        """Note that what made a register is done in another phase."""
        made_by = self.blocks[self.written[name] // 2].does
        maker = next(operation for operation in reversed(made_by) if operation.target == name)
        made_by.remove(maker)
        self._block(time).does.append(maker)

    def _block(self, time: int) -> Block:
        while len(self.blocks) <= time // 2:
            self.blocks.append(Block())
        return self.blocks[time // 2]


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """From all of the names to none; of the subsets of one size those with the first names first."""
    names = tuple(dict.fromkeys(names))
    for size in range(len(names), -1, -1):
        yield from combinations(names, size)


def find_live(items: Schedule, after: set[str]) -> set[str]:
    """Set `live` of all blocks.

    Args:
        items: Blocks.
        after: The registers that are needed at the end.

    Returns:
        Those that are needed at the beginning.
    """
    needed = set(after)
    for item in reversed(items):
        if isinstance(item, Repeat):
            entered: set[str] = set()
            while True:
                # What the next pass needs is needed at the end of each.
                before = find_live(item.body, needed | entered)
                if before <= entered:
                    break
                entered |= before
            needed = entered | find_live(item.body, needed | entered)
        else:
            needed = _live_in_block(item, needed)
    return needed


def _live_in_block(block: Block, after: set[str]) -> set[str]:
    middle = after - block.values.keys()
    for name in block.values.keys() & after:
        middle |= {cell[0] for expression in block.values[name] for cell in expression.cells()}
    moves = [move for move in block.moves if move.target in middle]
    before = middle - {move.target for move in moves}
    for move in moves:
        before |= set(move.reads)
    block.live = before, middle, set(after)
    return before


def without_idle(items: Schedule) -> Schedule:
    """The schedule without blocks that do nothing which is needed, once `live` is set."""
    found: Schedule = []
    for item in items:
        if isinstance(item, Repeat):
            if body := without_idle(item.body):
                found.append(Repeat(item.times, body))
        else:
            item.moves = [move for move in item.moves if move.target in item.live[1]]
            item.values = {name: value for name, value in item.values.items() if name in item.live[2]}
            if item.moves or item.values:
                found.append(item)
    return found


def originals(items: Schedule) -> Iterator[Block]:
    """Every block once, in order."""
    for item in items:
        if isinstance(item, Repeat):
            yield from originals(item.body)
        else:
            yield item


def loops(items: Schedule, first: int = 0) -> list[tuple[int, int, int]]:
    """For each loop its first block, the one after its last (in the order of `originals`), and its passes."""
    found = []
    for item in items:
        if isinstance(item, Repeat):
            inner = sum(1 for _ in originals(item.body))
            found += [(first, first + inner, item.times), *loops(item.body, first)]
            first += inner
        else:
            first += 1
    return found


def unrolled(items: Schedule) -> Iterator[Block]:
    """The blocks in the order in which they run."""
    for item in items:
        if isinstance(item, Repeat):
            for _ in range(item.times):
                yield from unrolled(item.body)
        else:
            yield item
