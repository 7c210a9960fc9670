"""`iclkit models`: list the models that come with the package, or print the card of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iclkit.cli.parser import Parser
from iclkit.cli.streams import say
from iclkit.errors import UserError


def run(argv: list[str]) -> None:
    parser = Parser("models", "List the models that come with the package, or print the card of one.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="a model of the list, or a model folder")
    name = parser.parse(argv).name

    from iclkit.report.markdown import without_html
    from iclkit.training.models import load, shipped

    if name is not None:
        learner = load(name)
        if not learner.card:
            raise UserError(f"{name} has no card; write one by: iclkit card {name}")
        say(without_html(learner.card.removesuffix("\n")))
        return
    known = shipped()
    if not known:
        say("no model comes with this copy of the package; train one: iclkit train energy-tiny")
    width = max(map(len, known), default=0)
    for model, folder in known.items():
        say(f"{model:{width}}  {_line(folder)}")


def _line(folder: Path) -> str:
    """A model in one line."""
    from iclkit.training.description import read_description

    data: dict[str, Any] = read_description(folder).to_dict()
    network = data["network"]
    if data["kind"] == "regression":
        columns = f"up to {network['dim']}" if data["pads"] else network["dim"]
        said = "density of y" if network["components"] else "prediction"
        what, longest = f"regression on {columns} columns ({said})", f"{network['max_points']} pairs"
    else:
        what, longest = f"densities of {network['dim']} columns", f"{network['max_points']} points"
    units = "any units" if data["standardise"] else "the units of its prior"
    return (
        f"{what} in {units}, contexts of up to {longest}; "
        f"prior {data['task']['type']}, {network['layers']} layers, width {network['width']}"
    )
