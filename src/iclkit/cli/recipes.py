"""`iclkit recipes`: list the recipes, or print one, resolved, as JSON."""

from __future__ import annotations

import inspect
import sys

from iclkit.cli.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser("recipes", "List the recipes, or print one as JSON, which `iclkit train` takes as a file.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the recipe to print")
    name = parser.parse(argv).name

    from iclkit.training import RECIPES, recipe_named

    if name is not None:
        sys.stdout.write(recipe_named(name).to_json())
        return
    width = max(map(len, RECIPES))
    for known, recipe in RECIPES.items():
        print(f"{known:{width}}  {(inspect.getdoc(recipe) or '').partition(chr(10))[0]}")
