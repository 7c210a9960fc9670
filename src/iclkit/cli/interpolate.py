"""`iclkit interpolate`: the loss along the straight line between a model and another, or one made by hand."""

from __future__ import annotations

from iclkit.cli.compare import add_options, check_options, model_and_task, save, show
from iclkit.cli.parser import Parser
from iclkit.cli.specs import parse_learner
from iclkit.cli.streams import say
from iclkit.errors import UserError


def run(argv: list[str]) -> None:
    parser = Parser(
        "interpolate",
        "Squared error of networks on the straight line between two: flat if they are one solution, with a "
        "barrier if they are not. In linear attention W_KQ may trade a factor with W_PV; the line is drawn "
        "with and without matching it.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or folder, or a run's folder")
    parser.add_argument(
        "other",
        metavar="OTHER",
        nargs="?",
        default="limit",
        help="another model; or weights made by hand: gd(STEPS), gd(STEPS, RATE), gd++(STEPS, RATE, GAMMA), or "
        "limit, what training one layer of linear attention converges to (default: limit)",
    )
    parser.add_argument("--steps", type=int, default=21, help="networks on the line (default: 21)")
    add_options(parser, episodes=4096)
    given = parser.parse(argv)
    check_options(given, "interpolate.csv")

    learner, task = model_and_task(given)
    from iclkit.analysis.counterparts import LIMIT, counterpart
    from iclkit.analysis.interpolation import straight_lines
    from iclkit.learners.trained_regression import TrainedRegressor

    if not isinstance(learner, TrainedRegressor):
        raise UserError(f"weights are interpolated, which {given.model} has none of; name a model")
    other = given.other if given.other == LIMIT else parse_learner(given.other)
    if not isinstance(other, TrainedRegressor):
        other = counterpart(learner, other, task)
    points = learner.network.max_points + 1 if given.points is None else given.points
    ends = (learner.name or given.model, given.other)
    found = straight_lines(learner, other, task, ends, points, given.episodes, given.seed, given.steps)
    tables = {"Squared error": found.table()}
    show(tables)
    say(found.verdict)
    if given.out is not None:
        from iclkit.report.regression_figures import interpolation_figure

        figure = interpolation_figure(found.lines, found.ends)
        save(given.out, "interpolate", found, tables, figure)
