"""`iclkit regress`: predictions of one column of a user's table from the others, with how sure they are."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iclkit.cli import output, tables
from iclkit.cli.actions import (
    CEILING,
    MOST_POINTS,
    PICTURES,
    Actions,
    check_data,
    check_picture,
    data_parser,
    dispatch,
    too_many_rows,
)
from iclkit.cli.parser import Parser
from iclkit.data import Table
from iclkit.data.columns import listed
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.conditioned_regression import ConditionedRegression, Predictions
    from iclkit.learners.trained_regression import TrainedRegressor

_MODEL = "general"
# Leaving one out of n rows costs n contexts of n - 1; without --allow-longer they are short.
_MOST_LEFT_OUT = 512
_MOST_ORDERS = 256


def run(argv: list[str]) -> None:
    """Carry out one of the actions below."""
    dispatch("regress", _ACTIONS, argv)


def predict(argv: list[str]) -> None:
    parser = _parser(
        "predict",
        "Predict a column of new rows from the others, given DATA as context: mean, standard deviation (noise "
        "included) and quantiles, in the data's own units.",
    )
    parser.add_argument(
        "--points",
        type=Path,
        metavar="FILE",
        help="rows to predict (default: each row of DATA after the others, leave-one-out)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv to write (default: standard output)")
    given = _parse(parser, argv)
    tables.check(given.out, given.force, [given.data, given.points])
    table, regression = _condition(given)
    inputs = dataclasses.replace(
        table, values=table.values[:, :-1], names=table.names[:-1], places=table.places[:-1]
    )
    if given.points is None:
        points, found = table, _leave_one_out(given, table, regression)
    else:
        points = tables.read(
            given.points,
            given.columns,
            len(inputs.names),
            MOST_POINTS,
            like=inputs,
            delimiter=given.delimiter,
            header=given.header,
            advice="predict them in parts",
        )
        found = regression.predict(points.values)
        _tell_far_points(inputs, points)
    levels = (0.5 - given.interval / 2, 0.5, 0.5 + given.interval / 2)
    quantiles = found.quantiles(levels)
    target = table.names[-1]
    names = [f"{target} mean", f"{target} std", *(f"{target} q{level:.6g}" for level in levels)]
    numbers = [points.values, found.mean, found.std, quantiles]
    tables.write(
        given.out, [*(table if given.points is None else inputs).names, *names], np.column_stack(numbers)
    )
    if given.points is None:
        _summarise(table.values[:, -1], found, quantiles, given.interval)


def plot(argv: list[str]) -> None:
    parser = _parser(
        "plot",
        "Draw what a model predicts behind DATA: over one input column the mean, bands and samples; with more "
        "columns, predicted against observed, each row after the others (leave-one-out).",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"picture to write ({', '.join(PICTURES)})"
    )
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples to draw (default: 200)")
    given = _parse(parser, argv)
    check_picture(given.out)
    if not 0 <= given.samples <= 10_000:
        raise UserError(f"--samples must lie in 0..10000, given {given.samples}")
    output.check(given.out, given.force, [given.data])
    table, regression = _condition(given)
    try:
        from iclkit.report.landscape_plot import render
        from iclkit.report.regression_plot import plot_curve, plot_left_out
    except ModuleNotFoundError as error:
        raise UserError(f"pictures need {error.name}: pip install 'iclkit[plots]'") from None
    names = tables.labels(table)
    if len(names) == 2:
        figure = plot_curve(regression.predict, table.values, names, given.interval, given.samples, given.seed)
    else:
        figure = plot_left_out(
            _leave_one_out(given, table, regression), table.values[:, -1], names[-1], given.interval
        )
    output.write(given.out, render(figure, given.out.suffix.lower()))


_ACTIONS: Actions = {
    "predict": (predict, "predict new rows, or each row of DATA from the others, to CSV"),
    "plot": (plot, "draw the predictions, to a picture"),
}


def _parser(action: str, description: str) -> Parser:
    parser = data_parser(f"regress {action}", description, _MODEL)
    parser.add_argument(
        "--target", required=True, metavar="COLUMN", help="the column to predict, by name or by number from 1"
    )
    parser.add_argument(
        "--interval", type=float, default=0.9, help="probability of the interval that is given (default: 0.9)"
    )
    parser.add_argument(
        "--orders",
        type=int,
        metavar="N",
        help="average over N orders of the rows and columns (default: 4); if given, DATA may be longer, and "
        "each order takes as many random rows as the model was trained on",
    )
    return parser


def _parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    given = parser.parse(argv)
    if not 0 < given.interval < 1:
        raise UserError(f"--interval must lie between 0 and 1, given {given.interval:g}")
    if given.orders is not None and not 1 <= given.orders <= _MOST_ORDERS:
        raise UserError(f"--orders must lie in 1..{_MOST_ORDERS}, given {given.orders}")
    check_data(given)
    return given


def _condition(given: argparse.Namespace) -> tuple[Table, ConditionedRegression]:
    """Read the context, whose last column is the target, and condition the model on it."""
    from iclkit.conditioned_regression import ORDERS, ConditionedRegression
    from iclkit.training.models import load

    learner = load(given.model, "regression")
    table = _read(given, learner)
    x, y = table.values[:, :-1], table.values[:, -1]
    constant = [
        name
        for name, column in zip(table.names, x.T, strict=False)
        if len(x) > 1 and (column == column[0]).all()
    ]
    regression = ConditionedRegression(
        learner,
        x,
        y,
        table.names[-1],
        allow_longer=given.allow_longer,
        orders=ORDERS if given.orders is None else given.orders,
        seed=given.seed,
    )
    if constant:
        what = f"column {constant[0]!r} is" if len(constant) == 1 else f"columns {listed(constant)} are"
        output.note(f"{what} constant in {given.data}, so the predictions do not depend on it")
    return table, regression


def _read(given: argparse.Namespace, learner: TrainedRegressor) -> Table:
    limit = learner.network.max_points
    longer = max(CEILING, limit)
    any_length = given.allow_longer or given.orders is not None
    table = tables.read(
        given.data,
        given.columns,
        max_rows=longer if any_length else limit,
        subsample=given.subsample,
        seed=given.seed,
        target=given.target,
        delimiter=given.delimiter,
        header=given.header,
        advice=too_many_rows(learner.name, limit, longer, orders=True),
    )
    if len(table.names) == 1:
        raise UserError(f"{given.data} has no column beside the target {table.names[0]!r} to predict it from")
    return table


def _leave_one_out(given: argparse.Namespace, table: Table, regression: ConditionedRegression) -> Predictions:
    if given.allow_longer and len(table.values) > _MOST_LEFT_OUT:
        raise UserError(
            f"leaving one out of {len(table.values)} rows takes too long, {_MOST_LEFT_OUT} are accepted; "
            f"take some at random by --subsample {_MOST_LEFT_OUT}, or predict other rows"
        )
    return regression.leave_one_out()


def _tell_far_points(context: Table, points: Table) -> None:
    """A network does not go on as a line does: say where its predictions are guesses."""
    low, high = context.values.min(0), context.values.max(0)
    # Half of the range on either side; what is constant in the context is not looked at.
    outside = (points.values < low - 0.5 * (high - low)) | (points.values > high + 0.5 * (high - low))
    outside &= low < high
    if outside.any():
        name, count = context.names[int(outside.sum(0).argmax())], int(outside.any(1).sum())
        output.note(
            f"{count} of {len(outside)} rows lie far outside the range of DATA (most in column {name!r}); "
            "nothing is known of the predictions there"
        )


def _summarise(observed: np.ndarray, found: Predictions, quantiles: np.ndarray, interval: float) -> None:
    """How good leave-one-out predictions are, in a line."""
    errors, spread = observed - found.mean, observed - observed.mean()
    inside = int(((observed >= quantiles[:, 0]) & (observed <= quantiles[:, 2])).sum())
    r2, rmse = 1 - (errors**2).sum() / (spread**2).sum(), np.sqrt((errors**2).mean())
    output.note(
        f"leave-one-out: R² {r2:.3f}, root mean squared error {rmse:.4g}, "
        f"{inside} of {len(observed)} rows inside their {interval:.6g} interval"
    )
