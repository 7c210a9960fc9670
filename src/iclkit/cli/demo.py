"""`iclkit demo`: a report that shows what it is all about."""

from __future__ import annotations

from pathlib import Path

from iclkit.cli.output import check_folder, note
from iclkit.cli.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser("demo", "Write a folder with a self-contained report.html and its pictures.")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder (default: demo)")
    parser.add_argument("--quick", action="store_true", help="fewer data sets: seconds, wider intervals")
    parser.add_argument("--force", action="store_true", help="write into a folder of other things")
    given = parser.parse(argv)
    check_folder(given.out, given.force, "report.html")

    from iclkit.report.demo import write_demo

    note(f"wrote {write_demo(given.out, quick=given.quick)}")
