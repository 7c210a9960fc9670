"""A table of results, written the same for a terminal, a model card and a web page."""

from __future__ import annotations

import html
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iclkit.errors import shown

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.text import Text


# Names up to this many characters stay whole in the narrowest terminal.
_NAME = 20
# What a column takes beside its cells, and a table beside its columns.
_GAP, _BORDER = 3, 1
# The width where nobody's screen limits it: of pipes and files.
_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Table:
    """Text cells under column heads; the first column names the rows.

    Args:
        columns: Heads of the columns.
        rows: Cells, as many as columns.
        best: (row, column) of cells to be shown in bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "every row needs one cell per column"

    def markdown(self) -> str:
        """As a table of a Markdown file."""
        # A bar would end the cell.
        columns = [c.replace("|", "\\|") for c in self.columns]
        rows = [[c.replace("|", "\\|") for c in row] for row in self.rows]
        lines = [
            "| " + " | ".join(columns) + " |",
            "|" + "---|" + "---:|" * (len(self.columns) - 1),
        ]
        lines += [
            "| " + " | ".join(f"**{c}**" if (i, j) in self.best else c for j, c in enumerate(row)) + " |"
            for i, row in enumerate(rows)
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """As an element of a web page."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
        body = []
        for i, row in enumerate(self.rows):
            cells = [
                f"<td><b>{html.escape(c)}</b></td>" if (i, j) in self.best else f"<td>{html.escape(c)}</td>"
                for j, c in enumerate(row)
            ]
            body.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

    def rich(self, title: str = "") -> RichTable:
        """For a terminal, see `RichTable`."""
        return RichTable(self, title)


@dataclass(frozen=True)
class RichTable:
    """A table that `rich` prints whole, however narrow the terminal: a number that is cut is a wrong one.

    Columns that do not fit side by side follow below, with the names of the rows again. Where not even one fits
    beside the names, each row becomes a list of its cells.

    Args:
        table: The table.
        title: A line above it.
    """

    table: Table
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        if self.title:
            yield Text(shown(self.title), style="italic")
        widths = [max(map(_width, column)) for column in zip(self.table.columns, *self.table.rows, strict=True)]
        room = options.max_width - _BORDER
        # Beside columns that do not all fit, names go on in the next line: they are words, numbers are not.
        whole = sum(width + _GAP for width in widths) <= room
        names = (widths[0] if whole else min(widths[0], _NAME)) + _GAP
        if any(names + width + _GAP > room for width in widths[1:]):
            yield from self._lists()
            return
        group: list[int] = []
        used = names
        for place, width in enumerate(widths[1:], 1):
            if used + width + _GAP > room:
                yield self._grid(group, names - _GAP)
                group, used = [], names
            group.append(place)
            used += width + _GAP
        yield self._grid(group, names - _GAP)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(1, options.max_width)

    def _grid(self, chosen: Sequence[int], names: int) -> RenderableType:
        """The first column and some others."""
        from rich.table import Table as Grid

        grid = Grid()
        grid.add_column(self._cell(self.table.columns[0]), overflow="fold", width=names)
        for place in chosen:
            grid.add_column(self._cell(self.table.columns[place]), justify="right", no_wrap=True)
        for index, row in enumerate(self.table.rows):
            grid.add_row(*(self._cell(row[j], (index, j) in self.table.best) for j in (0, *chosen)))
        return grid

    def _lists(self) -> Iterator[RenderableType]:
        """Every row as lines, a cell in each."""
        for index, row in enumerate(self.table.rows):
            yield self._cell(row[0], (index, 0) in self.table.best)
            for place, head in enumerate(self.table.columns[1:], 1):
                line = self._cell(row[place], (index, place) in self.table.best)
                yield self._cell(f"  {head}: ").append_text(line)

    def _cell(self, text: str, best: bool = False) -> Text:
        from rich.text import Text

        return Text(shown(text), style="bold" if best else "")


def console() -> Console:
    """Where commands print tables: as wide as the terminal; without one, as wide as the tables."""
    from rich.console import Console

    width = max(shutil.get_terminal_size().columns, _NAME) if sys.stdout.isatty() else _UNLIMITED
    # A height is given so that none is looked for.
    return Console(width=width, height=25, markup=False, highlight=False, emoji=False)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(shown(text))


def markdown(head: str, tables: Mapping[str, Table]) -> str:
    """Tables under their titles, as Markdown.

    Args:
        head: What they are about, in a line.
        tables: The tables by title.
    """
    return "\n".join([head, *(f"\n{title}\n\n{table.markdown()}" for title, table in tables.items())])
