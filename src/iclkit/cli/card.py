"""`iclkit card`: measure a model, of densities or of regression, and write its card."""

from __future__ import annotations

from pathlib import Path

from iclkit.cli import output
from iclkit.cli.parser import Parser
from iclkit.errors import UserError


def run(argv: list[str]) -> None:
    parser = Parser(
        "card",
        "Measure a model on fresh data of its prior, against the exact reference where one is known, and write "
        "its card.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a shipped model, or a model folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write (default: card.md in the model's folder; a model that comes with the package "
        "needs a file)",
    )
    parser.add_argument("--datasets", type=int, default=500, help="held-out data sets (default: 500)")
    given = parser.parse(argv)
    if given.datasets < 2:
        raise UserError(f"--datasets must be at least 2, given {given.datasets}; an interval needs as many")
    output.check(given.out, True, [])

    from iclkit.report.card import write_card

    output.note(f"wrote {write_card(given.model, given.out, datasets=given.datasets)}")
