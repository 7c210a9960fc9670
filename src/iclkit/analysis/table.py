"""A table of results, written the same for a terminal, a model card and a web page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


# Names up to this many characters stay whole beside many columns, which can break at their blanks.
_NAME = 20


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
        """For a terminal."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(title=title or None)
        for index, column in enumerate(self.columns):
            if index:
                table.add_column(escape(column), justify="right", overflow="fold")
            else:  # a name that is cut off may be another's; a long one goes on in the next line
                longest = max(len(row[0]) for row in [self.columns, *self.rows])
                table.add_column(escape(column), overflow="fold", min_width=min(longest, _NAME))
        for i, row in enumerate(self.rows):
            table.add_row(
                *(f"[bold]{escape(c)}[/]" if (i, j) in self.best else escape(c) for j, c in enumerate(row))
            )
        return table


def markdown(head: str, tables: Mapping[str, Table]) -> str:
    """Tables under their titles, as Markdown.

    Args:
        head: What they are about, in a line.
        tables: The tables by title.
    """
    return "\n".join([head, *(f"\n{title}\n\n{table.markdown()}" for title, table in tables.items())])
