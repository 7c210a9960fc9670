"""`iclkit induction`: when induction heads form, from training with one layer and with two to the figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from iclkit.cli import output
from iclkit.cli.compare import check_options, show
from iclkit.cli.parser import Parser
from iclkit.cli.streams import say
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.analysis.inside.induction_study import Course
    from iclkit.training import Recipe

SIGN = "induction.json"
_SEEDS = (0, 1, 2)


def run(argv: list[str]) -> None:
    parser = Parser(
        "induction",
        "Train networks with one layer of attention and with two on random tokens that repeat, record the "
        "scores of induction heads on the way, and draw when they form. Runs are in DIR/runs; stopped at any "
        "moment, the same command with --resume goes on.",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the runs, the numbers and the figure"
    )
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[1, 2], metavar="L", help="numbers of layers (default: 1 2)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="S", help="seeds of the trainings (default: 0 1 2)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="a single seed, instead of --seeds")
    parser.add_argument(
        "--recipe", metavar="RECIPE", default="induction", help="name or file (default: induction)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="updates of each training (default: the recipe's)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the training in DIR")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")
    given = parser.parse(argv)
    seeds = _check(given)

    from iclkit.cli.train import read_recipe
    from iclkit.tasks import SequenceTask
    from iclkit.training.sequence_recipes import induction_sweep

    recipe = read_recipe(given.recipe)
    if not isinstance(recipe.task, SequenceTask):
        raise UserError(f"{recipe.name} is no recipe on sequences of tokens; give induction or one like it")
    recipes = induction_sweep(recipe, sorted(set(given.layers)), seeds)
    courses = [_course(one, given) for one in recipes]

    from iclkit.analysis.inside.induction_study import InductionStudy
    from iclkit.analysis.table import markdown
    from iclkit.report.figures import png
    from iclkit.report.induction_figure import induction_figure

    found = InductionStudy(tuple(courses))
    show(found.tables())
    say(found.verdict)
    output.write(given.out / SIGN, found.to_json().encode())
    output.write(given.out / "induction.md", markdown(found.verdict, found.tables()).encode())
    output.write(given.out / "induction.png", png(induction_figure(found)))
    output.note(f"wrote {SIGN}, induction.md and induction.png to {given.out}")


def _check(given: argparse.Namespace) -> list[int]:
    """Refuse what cannot be done before minutes of training; the seeds."""
    if given.out is None:
        raise UserError("name a folder for the runs by --out (see iclkit induction --help)")
    if given.seed is not None and given.seeds is not None:
        raise UserError("give --seed or --seeds, not both")
    chosen = given.seeds or _SEEDS if given.seed is None else [given.seed]
    seeds: list[int] = sorted(set(chosen))
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UserError(f"seeds must lie in 0..2^63-1, given {seed}")
    for name, values in (("layers", given.layers), ("steps", [] if given.steps is None else [given.steps])):
        if values and min(values) < 1:
            raise UserError(f"--{name} must be at least 1, given {min(values)}")
    if (given.out / "runs").exists():
        if not given.resume:
            raise UserError(f"{given.out} already holds runs; go on by --resume, or name a new folder")
        given.force = True  # the folder holds what this command has written
    given.seed = seeds[0]
    check_options(given, SIGN)
    return seeds


def _course(recipe: Recipe, given: argparse.Namespace) -> Course:
    """Train a network, or finish its training, and read what was recorded."""
    from iclkit.analysis.inside.induction_recorder import InductionRecorder
    from iclkit.analysis.inside.induction_study import Course
    from iclkit.tasks import SequenceTask
    from iclkit.training import train

    assert isinstance(recipe.task, SequenceTask)  # the command has seen to it
    folder = train(
        recipe,
        given.out / "runs" / recipe.name,
        resume=given.resume,
        steps=given.steps,
        progress=not given.quiet,
        watch=InductionRecorder(recipe.task, recipe.points),
    )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Course.of(recipe.network.layers, recipe.seed, map(json.loads, lines))  # pyright: ignore
