"""`iclkit export`: make a model folder of a training run."""

from __future__ import annotations

from pathlib import Path

from iclkit.cli.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser("export", "Make a model folder of a run's last checkpoint, to be used by --model FOLDER.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("out", metavar="FOLDER", type=Path, help="model folder to make")
    parser.add_argument("--name", help="name of the model (default: its recipe's)")
    parser.add_argument("--force", action="store_true", help="replace a model folder that is there")
    given = parser.parse(argv)

    from iclkit.cli.output import note
    from iclkit.training import export

    folder = export(given.run, given.out, name=given.name, overwrite=given.force)
    note(f"wrote {folder}")
