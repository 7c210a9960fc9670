"""`iclkit identify`: which textbook learner a model has become."""

from __future__ import annotations

from iclkit.cli import output
from iclkit.cli.compare import add_options, check_options, context_points, model_and_task
from iclkit.cli.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser(
        "identify",
        "Which textbook learner predicts most nearly what a learner does, with its fitted parameter: ridge's "
        "penalty, number and rate of gradient steps, number of neighbours, ...",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a model's name or folder, or a textbook learner: ridge(0.25)"
    )
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", help="families of learners (default: all that are quick)"
    )
    parser.add_argument(
        "--fresh",
        type=int,
        help="episodes on which distances are measured (default: 8 times those of the fits)",
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="context sizes that count (default: all)"
    )
    add_options(parser)
    given = parser.parse(argv)
    check_options(given, "identify.json")

    learner, task = model_and_task(given)
    from iclkit.analysis.identify import identify
    from iclkit.analysis.table import console

    found = identify(
        learner,
        task,
        context_points(given, learner),
        given.episodes,
        given.seed,
        families=given.families,
        context_sizes=given.sizes,
        fresh=given.fresh,
    )
    console().print(found)
    if given.out is not None:
        from iclkit.report.figures import png
        from iclkit.report.identify_figure import identify_figure

        given.out.mkdir(parents=True, exist_ok=True)
        output.write(given.out / "identify.json", found.to_json().encode())
        output.write(given.out / "identify.md", found.markdown().encode())
        output.write(given.out / "identify.png", png(identify_figure(found)))
        output.note(f"wrote identify.json, identify.md and identify.png to {given.out}")
