"""`iclkit energy`: densities, samples and pictures of a user's own data."""

from __future__ import annotations

import argparse
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
from iclkit.errors import UserError, unknown

if TYPE_CHECKING:
    from iclkit.conditioned import ConditionedDensity
    from iclkit.energy.samplers import Sampler

_MODEL = "energy-2d"
_STEPS = 100
_PUBLISHED = "langevin-published"


def run(argv: list[str]) -> None:
    """Carry out one of the actions below."""
    dispatch("energy", _ACTIONS, argv)


def score(argv: list[str]) -> None:
    parser = _parser(
        "energy score",
        "Log density of points, in nats and the data's own units, given DATA as context.",
    )
    parser.add_argument("--points", type=Path, metavar="FILE", help="points to score (default: those of DATA)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv to write (default: standard output)")
    given = parser.parse(argv)
    tables.check(given.out, given.force, [given.data, given.points])
    table, density = _condition(given)
    points = table
    if given.points is not None:
        points = tables.read(
            given.points,
            given.columns,
            len(table.names),
            MOST_POINTS,
            like=table,
            delimiter=given.delimiter,
            header=given.header,
            advice="score them in parts",
        )
    values = density.log_density(points.values)
    tables.write(given.out, [*table.names, "log_density"], np.column_stack([points.values, values]))
    if given.points is None:
        output.note("these points are the context itself, so they look likelier than new ones; see --points")
    found = density.log_partition
    output.note(f"normalised by {found.method}; error {float(found.error):.1g} nats")


def sample(argv: list[str]) -> None:
    parser = _parser("energy sample", "Draw points from the density that a model sees behind DATA.")
    parser.add_argument("--size", type=int, required=True, metavar="N", help="how many points to draw")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv to write (default: standard output)")
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help="MALA or HMC for Markov chains, langevin-published for equation 5 of Schaeffer et al. as it "
        "stands (default: independent draws up to 3 columns, HMC above)",
    )
    given = parser.parse(argv)
    if not 1 <= given.size <= MOST_POINTS:
        raise UserError(f"--size must lie in 1..{MOST_POINTS}, given {given.size}")
    tables.check(given.out, given.force, [given.data])
    sampler = _sampler(given.sampler)
    table, density = _condition(given)
    draws, chains = density.sample(given.size, given.seed, sampler)
    tables.write(given.out, table.names, draws)
    if given.sampler == _PUBLISHED:
        output.note(
            "15 steps from U(-15, 15), in the data's units, at a temperature of 1.6e-5: gradient descent in "
            "effect, no draws of the density"
        )
    elif sampler is not None or draws.shape[1] > 3:
        output.note(
            f"acceptance {float(chains.acceptance):.2f}, effective sample size {float(chains.ess.min()):.0f}, "
            f"R-hat {float(chains.rhat.max()):.3f} (worst column)"
        )


def plot(argv: list[str]) -> None:
    parser = _parser(
        "energy plot", "Draw the log density that a model sees behind DATA, its context and samples."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"picture to write ({', '.join(PICTURES)})"
    )
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples to draw (default: 200)")
    given = parser.parse(argv)
    check_picture(given.out)
    if not 0 <= given.samples <= 10_000:
        raise UserError(f"--samples must lie in 0..10000, given {given.samples}")
    output.check(given.out, given.force, [given.data])
    table, density = _condition(given)
    try:
        from iclkit.report.landscape_plot import plot_landscape, render
    except ModuleNotFoundError as error:
        raise UserError(f"pictures need {error.name}: pip install 'iclkit[plots]'") from None
    draws = density.sample(given.samples, given.seed)[0] if given.samples else None
    figure = plot_landscape(density.log_density, table.values, tables.labels(table), draws)
    output.write(given.out, render(figure, given.out.suffix.lower()))


_ACTIONS: Actions = {
    "score": (score, "log density of points, to CSV"),
    "sample": (sample, "draw points, to CSV"),
    "plot": (plot, "draw the landscape, to a picture"),
}


def _parser(command: str, description: str) -> Parser:
    """A parser with the options on DATA and on the model."""
    parser = data_parser(command, description, _MODEL)
    parser.add_argument(
        "--transforms",
        type=int,
        metavar="N",
        help="average over N turned and reflected copies of DATA: 1 for none, or an even number; 24 depend "
        "less on how the columns are turned, at 24 times the cost (default: the model's own, 2 for energy-2d)",
    )
    return parser


def _condition(given: argparse.Namespace) -> tuple[Table, ConditionedDensity]:
    """Read the context and condition the model on it."""
    check_data(given)
    from iclkit.conditioned import ConditionedDensity
    from iclkit.training.models import load

    learner = load(given.model, "energy")
    limit = learner.limit
    longer = max(CEILING, limit)
    table = tables.read(
        given.data,
        given.columns,
        learner.dim,
        longer if given.allow_longer else limit,
        subsample=given.subsample,
        seed=given.seed,
        delimiter=given.delimiter,
        header=given.header,
        advice=too_many_rows(learner.name, limit, longer),
    )
    return table, ConditionedDensity(
        learner, table.values, table.names, given.allow_longer, transforms=given.transforms
    )


def _sampler(name: str | None) -> Sampler | None:
    if name is None:
        return None
    from iclkit.energy.samplers import HMC, MALA, Langevin

    samplers = {"MALA": MALA(steps=_STEPS), "HMC": HMC(steps=_STEPS), _PUBLISHED: Langevin.published()}
    if name not in samplers:
        raise unknown("sampler", name, samplers)
    return samplers[name]
