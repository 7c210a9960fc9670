"""`iclkit compare`: learners side by side on fresh episodes of a regression task."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.cli import output
from iclkit.cli.parser import Parser, check_seed
from iclkit.cli.specs import parse_learner, parse_task, with_fields
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.analysis.table import Table
    from iclkit.tasks import RegressionTask

_OTHERS = ("LeastSquares", "Averaging", "NearestNeighbors")


def run(argv: list[str]) -> None:
    parser = Parser(
        "compare",
        "Squared error, excess risk over Bayes and mutual distances of learners by context size, on fresh "
        "episodes.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a model's name or folder, or a textbook learner: ridge(0.25)"
    )
    parser.add_argument(
        "learners", metavar="LEARNER", nargs="*", help=f"others beside it (default: {', '.join(_OTHERS)})"
    )
    parser.add_argument(
        "--weights", action="store_true", help="also compare implicit linear weights and sensitivities (slower)"
    )
    add_options(parser)
    given = parser.parse(argv)
    check_options(given, "compare.csv")

    learner, task = model_and_task(given)
    from iclkit.analysis.compare import compare

    judged = beside(given.model, learner, given.learners, _OTHERS)
    found = compare(judged, task, context_points(given, learner), given.episodes, given.seed)
    tables = found.tables()
    if given.weights:
        from iclkit.analysis.weight_tables import compare_weights

        tables |= compare_weights(found, seed=given.seed).tables(found.some_sizes)
    show(tables)
    if given.out is not None:
        from iclkit.report.regression_figures import comparison_figure

        save(given.out, "compare", found, tables, comparison_figure(found))


def add_options(parser: Parser, episodes: int = 256) -> None:
    """What `compare` and `shifts` have in common."""
    parser.add_argument(
        "--task", help="a regression task: linear, LinearRegression(dim=8) (default: the model's own)"
    )
    parser.add_argument("--dim", type=int, help="dimension of the inputs")
    parser.add_argument("--noise-std", type=float, help="standard deviation of the noise")
    parser.add_argument(
        "--points", type=int, help="queries of each episode (default: 40, or as many as the model takes)"
    )
    parser.add_argument("--episodes", type=int, default=episodes, help=f"episodes (default: {episodes})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the figure, the tables and all numbers"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")


def check_options(given: argparse.Namespace, sign: str) -> None:
    """Refuse what cannot be done before any work is."""
    check_seed(given.seed)
    if given.out is None:
        return
    output.check_folder(given.out, given.force, sign)
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"figures need {error.name}: pip install 'iclkit[plots]'") from None


def model_and_task(given: argparse.Namespace) -> tuple[Any, RegressionTask]:
    """The learner that is judged, and the task that it is judged on."""
    learner = parse_learner(given.model)
    if given.task is not None:
        return learner, parse_task(given.task, dim=given.dim, noise_std=given.noise_std)
    own = getattr(learner, "task", None)
    if own is None:  # a textbook learner, or weights made by hand
        own = with_fields(parse_task("LinearRegression"), dim=learner.dim)
    return learner, with_fields(own, dim=given.dim, noise_std=given.noise_std)


def beside(text: str, learner: Any, given: Sequence[str], default: Sequence[str]) -> dict[str, Any]:
    """A learner with those that it is compared with; of the default ones, those that it is not itself.

    Args:
        text: How the learner was named.
        learner: The learner.
        given: Names of others.
        default: Names of others where none was given.

    Returns:
        The learners by name; those of one name (two runs of one recipe) as they were typed.

    Raises:
        UserError: One that is named twice.
    """
    from iclkit.analysis.naming import name_of

    others = [(other, parse_learner(other)) for other in given or default]
    others = [(other, found) for other, found in others if given or type(found) is not type(learner)]
    judged = [(text, learner), *others]
    names = [name_of(found) for _, found in judged]
    shown = [name if names.count(name) == 1 else typed for name, (typed, _) in zip(names, judged, strict=True)]
    twice = next((name for name in shown if shown.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; name every learner once")
    return {name: found for name, (_, found) in zip(shown, judged, strict=True)}


def context_points(given: argparse.Namespace, learner: Any, default: int = 40) -> int:
    """How many queries each episode gets."""
    if given.points is not None:
        return given.points
    return default if learner.limit is None else min(default, learner.limit + 1)


def show(tables: Mapping[str, Table]) -> None:
    """Print tables under their titles."""
    from iclkit.analysis.table import console

    for title, table in tables.items():
        console().print(table.rich(title))


def save(folder: Path, name: str, found: Any, tables: Mapping[str, Table], figure: Any) -> None:
    """Write the numbers, the tables and the figure."""
    from iclkit.analysis.table import markdown
    from iclkit.report.figures import png

    folder.mkdir(parents=True, exist_ok=True)
    output.write(folder / f"{name}.csv", found.to_csv().encode())
    output.write(folder / f"{name}.md", markdown(found.head, tables).encode())
    output.write(folder / f"{name}.png", png(figure))
    output.note(f"wrote {name}.csv, {name}.md and {name}.png to {folder}")
