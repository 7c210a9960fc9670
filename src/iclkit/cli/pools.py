"""`iclkit pools`: the effect of task diversity, from training on pools of many sizes to its figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.cli import output
from iclkit.cli.compare import check_options, show
from iclkit.cli.parser import Parser
from iclkit.cli.streams import say
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.tasks import LinearPool

SIGN = "pools.json"
_EXPONENTS = (1, 2, 3, 4, 5, 6, 8, 10)
_TRAINING = ("exponents", "recipe", "steps")


def run(argv: list[str]) -> None:
    parser = Parser(
        "pools",
        "Does a learner trained on a pool of M linear functions know the pool (dMMSE) or the prior behind it "
        "(ridge regression)? Without MODEL it first trains one learner for each M, in DIR/runs; stopped at any "
        "moment, the same command with --resume goes on.",
    )
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help="learners trained on pools, if there are: folders or runs"
    )
    parser.add_argument(
        "--exponents", type=int, nargs="+", metavar="K", help="train for M = 2^K (default: 1 to 6, 8 and 10)"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="recipe to train, by name or file (default: pool)")
    parser.add_argument(
        "--steps", type=int, metavar="S", help="updates of each training (default: the recipe's)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the training in DIR")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--points", type=int, help="queries of each episode (default: 16, or as many as the models take)"
    )
    parser.add_argument("--episodes", type=int, default=1024, help="episodes for each M (default: 1024)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the runs, the numbers and the figure"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")
    given = parser.parse(argv)
    _check(given)

    learners = _load(given.models or [str(path) for path in _train(given)])

    from iclkit.analysis.task_diversity import task_diversity

    limits = [learner.limit for learner in learners.values() if learner.limit is not None]
    points = min([16, *(limit + 1 for limit in limits)]) if given.points is None else given.points
    found = task_diversity(learners, points, given.episodes, given.seed)
    show(found.tables())
    say(found.verdict)
    if given.out is not None:
        from iclkit.analysis.table import markdown
        from iclkit.report.figures import png
        from iclkit.report.task_diversity_figure import task_diversity_figure

        given.out.mkdir(parents=True, exist_ok=True)
        output.write(given.out / SIGN, found.to_json().encode())
        output.write(given.out / "pools.md", markdown(found.verdict, found.tables()).encode())
        output.write(given.out / "pools.png", png(task_diversity_figure(found)))
        output.note(f"wrote {SIGN}, pools.md and pools.png to {given.out}")


def _check(given: argparse.Namespace) -> None:
    """Refuse what cannot be done before hours of training."""
    for name in _TRAINING:
        if given.models and getattr(given, name) is not None:
            raise UserError(f"--{name} is for training; leave it out, or name no MODEL")
    if given.models and given.resume:
        raise UserError("--resume is for training; leave it out, or name no MODEL")
    if not given.models and given.out is None:
        raise UserError(
            "name a folder for the runs by --out, or the models to measure (see iclkit pools --help)"
        )
    if not given.models and (given.out / "runs").exists():
        if not given.resume:
            raise UserError(f"{given.out} already holds runs; go on by --resume, or name a new folder")
        given.force = True  # the folder holds what this command has written
    if given.episodes < 2 or (given.points is not None and given.points < 1):
        raise UserError(
            f"--points must be at least 1 and --episodes at least 2, given {given.points} and {given.episodes}"
        )
    check_options(given, SIGN)


def _train(given: argparse.Namespace) -> list[Path]:
    """The runs of the sweep, one after another; those that are done are left as they are."""
    from iclkit.cli.train import read_recipe
    from iclkit.tasks import LinearPool
    from iclkit.training import train
    from iclkit.training.regression_recipes import pool_sweep

    recipe = read_recipe(given.recipe or "pool")
    if not isinstance(recipe.task, LinearPool):
        raise UserError(f"{recipe.name} is no recipe on a LinearPool; give pool, pool-published or one like it")
    # All of them before the first: a size that no pool has is told at once.
    recipes = pool_sweep(recipe, sorted(set(given.exponents or _EXPONENTS)))
    return [
        train(
            one,
            given.out / "runs" / one.name,
            resume=given.resume,
            steps=given.steps,
            progress=not given.quiet,
        )
        for one in recipes
    ]


def _load(models: list[str]) -> dict[LinearPool, Any]:
    """Learners by the pool that each was trained on."""
    from iclkit.cli.specs import parse_learner
    from iclkit.tasks import LinearPool

    learners: dict[LinearPool, Any] = {}
    for model in models:
        learner = parse_learner(model)
        task = getattr(learner, "task", None)
        if not isinstance(task, LinearPool):
            raise UserError(f"{model} was not trained on a LinearPool; give models that were")
        if task in learners:
            raise UserError(f"two models were trained on the pool of {task.size}; give one of them")
        learners[task] = learner
    return learners
