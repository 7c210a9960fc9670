"""`iclkit diagonal`: models trained at several noises against ridge regressions of several penalties."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from iclkit.cli import output
from iclkit.cli.compare import check_options, show
from iclkit.cli.parser import Parser
from iclkit.cli.specs import parse_learner
from iclkit.cli.streams import say
from iclkit.errors import UserError


def run(argv: list[str]) -> None:
    parser = Parser(
        "diagonal",
        "Distances of models, each trained on linear regression with another noise, to ridge regressions whose "
        "penalties are these noises: each model should be nearest to its own.",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="names, model folders or run folders")
    parser.add_argument(
        "--penalties",
        nargs="+",
        metavar="RATIO",
        help="penalties of the rows, like 0 1/16 0.25 (default: σ²/τ² of the models)",
    )
    parser.add_argument(
        "--points", type=int, help="queries of each episode (default: 40, or as many as the models take)"
    )
    parser.add_argument("--episodes", type=int, default=256, help="episodes at each noise (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the numbers and the figure")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")
    given = parser.parse(argv)
    check_options(given, "diagonal.json")
    penalties = None if given.penalties is None else [_number(text) for text in given.penalties]

    from iclkit.analysis.diagonal import ridge_diagonal
    from iclkit.tasks import LinearRegression

    learners, kinds = {}, set()
    for text in given.models:
        learner = parse_learner(text)
        task = getattr(learner, "task", None)
        if not isinstance(task, LinearRegression) or task.inputs_law != "normal":
            raise UserError(
                f"{text} was not trained on linear regression with normal inputs; give models that were"
            )
        ratio = (task.noise_std / task.weight_std) ** 2
        if ratio in learners:
            raise UserError(f"two models were trained at σ²/τ² = {ratio:.4g}; give one of them")
        learners[ratio] = learner
        kinds.add((task.dim, task.weight_std))
    if len(kinds) > 1:
        raise UserError(f"the models differ in (dim, weight_std): {sorted(kinds)}; give models of one kind")
    dim, weight_std = kinds.pop()
    limits = [learner.limit for learner in learners.values() if learner.limit is not None]
    points = min([40, *(limit + 1 for limit in limits)]) if given.points is None else given.points
    found = ridge_diagonal(learners, dim, weight_std, points, given.episodes, given.seed, penalties)

    show({"mean SPD / d to ridge regression": found.table()})
    say(found.verdict)
    if given.out is not None:
        from iclkit.report.diagonal_figure import diagonal_figure
        from iclkit.report.figures import png

        given.out.mkdir(parents=True, exist_ok=True)
        output.write(given.out / "diagonal.json", found.to_json().encode())
        output.write(given.out / "diagonal.md", f"{found.verdict}\n\n{found.table().markdown()}".encode())
        output.write(given.out / "diagonal.png", png(diagonal_figure(found)))
        output.note(f"wrote diagonal.json, diagonal.md and diagonal.png to {given.out}")


def _number(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--penalties must be numbers or fractions like 1/16, given {text!r}") from None
