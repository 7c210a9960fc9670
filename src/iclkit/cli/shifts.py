"""`iclkit shifts`: a regression learner out of its distribution, beside textbook learners and Bayes."""

from __future__ import annotations

from iclkit.cli.compare import add_options, beside, check_options, context_points, model_and_task, save, show
from iclkit.cli.parser import Parser

_OTHERS = ("LeastSquares", "Averaging")


def run(argv: list[str]) -> None:
    parser = Parser(
        "shifts",
        "Squared error of a learner on a task and on its published shifts: inputs and targets of other sizes, "
        "skewed or degenerate inputs, noise, and queries from elsewhere than the context.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a model's name or folder, or a textbook learner: ridge(0.25)"
    )
    parser.add_argument(
        "learners", metavar="LEARNER", nargs="*", help=f"others beside it (default: {', '.join(_OTHERS)})"
    )
    parser.add_argument("--shifts", nargs="+", metavar="SHIFT", help="some shifts (default: all)")
    add_options(parser)
    given = parser.parse(argv)
    check_options(given, "shifts.csv")

    learner, task = model_and_task(given)
    from iclkit.analysis.shifts import compare_shifts

    judged = beside(given.model, learner, given.learners, _OTHERS)
    points = context_points(given, learner, default=41)
    found = compare_shifts(judged, task, points, given.episodes, given.seed, given.shifts)
    tables = found.tables()
    show(tables)
    if given.out is not None:
        from iclkit.report.regression_figures import shifts_figure

        save(given.out, "shifts", found, tables, shifts_figure(found))
