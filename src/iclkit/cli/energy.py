"""`iclkit energy`: densities, samples and pictures of a user's own data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iclkit.cli import output
from iclkit.cli.parser import Parser
from iclkit.data import Table, read_table
from iclkit.errors import UserError, unknown

if TYPE_CHECKING:
    from iclkit.conditioned import ConditionedDensity
    from iclkit.energy.samplers import Sampler

_MODEL = "energy-2d"
# Attention over a context costs the square of its rows; beyond this, --allow-longer is not meant.
_CEILING = 2048
_MOST_POINTS = 1_000_000
_STEPS = 100
_PICTURES = (".png", ".pdf", ".svg")


def run(argv: list[str]) -> None:
    """Carry out one of the actions below."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)
    if argv[0] not in _ACTIONS:
        raise unknown("action of iclkit energy", argv[0], _ACTIONS)
    _ACTIONS[argv[0]][0](argv[1:])


def score(argv: list[str]) -> None:
    parser = _parser("score", "Log density of points, in nats and the data's own units, given DATA as context.")
    parser.add_argument("--points", type=Path, metavar="FILE", help="points to score (default: those of DATA)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv to write (default: standard output)")
    given = parser.parse(argv)
    output.check(given.out, given.force, [given.data, given.points])
    table, density = _condition(given)
    points = table
    if given.points is not None:
        points = read_table(
            given.points,
            given.columns,
            len(table.names),
            _MOST_POINTS,
            like=table,
            delimiter=given.delimiter,
            header=given.header,
            advice="score them in parts",
        )
    values = density.log_density(points.values)
    output.write_table(given.out, [*table.names, "log_density"], np.column_stack([points.values, values]))
    if given.points is None:
        output.note("these points are the context itself, so they look likelier than new ones; see --points")
    found = density.log_partition
    output.note(f"normalised by {found.method}; error {float(found.error):.1g} nats")


def sample(argv: list[str]) -> None:
    parser = _parser("sample", "Draw points from the density that a model sees behind DATA.")
    parser.add_argument("--size", type=int, required=True, metavar="N", help="how many points to draw")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv to write (default: standard output)")
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help="MALA or HMC for Markov chains (default: independent draws up to 3 columns, HMC above)",
    )
    given = parser.parse(argv)
    if not 1 <= given.size <= _MOST_POINTS:
        raise UserError(f"--size must lie in 1..{_MOST_POINTS}, given {given.size}")
    output.check(given.out, given.force, [given.data])
    sampler = _sampler(given.sampler)
    table, density = _condition(given)
    draws, chains = density.sample(given.size, given.seed, sampler)
    output.write_table(given.out, table.names, draws)
    if sampler is not None or draws.shape[1] > 3:
        output.note(
            f"acceptance {float(chains.acceptance):.2f}, effective sample size {float(chains.ess.min()):.0f}, "
            f"R-hat {float(chains.rhat.max()):.3f} (worst column)"
        )


def plot(argv: list[str]) -> None:
    parser = _parser("plot", "Draw the log density that a model sees behind DATA, its context and samples.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"picture to write ({', '.join(_PICTURES)})"
    )
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples to draw (default: 200)")
    given = parser.parse(argv)
    if given.out.suffix.lower() not in _PICTURES:
        raise unknown("kind of picture", given.out.suffix, _PICTURES)
    if not 0 <= given.samples <= 10_000:
        raise UserError(f"--samples must lie in 0..10000, given {given.samples}")
    output.check(given.out, given.force, [given.data])
    table, density = _condition(given)
    try:
        from iclkit.report.landscape_plot import plot_landscape, render
    except ModuleNotFoundError as error:
        raise UserError(f"pictures need {error.name}: pip install 'iclkit[plots]'") from None
    draws = density.sample(given.samples, given.seed)[0] if given.samples else None
    figure = plot_landscape(density.log_density, table.values, table.names, draws)
    output.write(given.out, render(figure, given.out.suffix.lower()))


_ACTIONS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "score": (score, "log density of points, to CSV"),
    "sample": (sample, "draw points, to CSV"),
    "plot": (plot, "draw the landscape, to a picture"),
}


def _overview() -> str:
    lines = [f"  {name:8}{what}" for name, (_, what) in _ACTIONS.items()]
    return "\n".join(
        [
            "usage: iclkit energy ACTION DATA ...",
            "",
            "The rows of DATA (.csv or .npy) are the context of a frozen model; nothing is fitted.",
            "",
            "actions:",
            *lines,
            "",
            "iclkit energy ACTION --help explains an action.",
        ]
    )


def _parser(action: str, description: str) -> Parser:
    parser = Parser(f"energy {action}", description)
    parser.add_argument("data", metavar="DATA", type=Path, help="rows of the context (.csv or .npy)")
    parser.add_argument(
        "--model", default=_MODEL, help=f"model by name, its folder or a run (default: {_MODEL})"
    )
    parser.add_argument(
        "--columns", nargs="+", metavar="COLUMN", help="columns to use, by name or by number from 1"
    )
    parser.add_argument(
        "--subsample", type=int, metavar="N", help="use N rows of DATA, drawn at random, where it has more"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: 0)")
    parser.add_argument(
        "--allow-longer", action="store_true", help="take more rows than the model was trained on"
    )
    parser.add_argument(
        "--delimiter",
        default="auto",
        help="comma, semicolon, tab, space or the character itself (default: auto)",
    )
    parser.add_argument("--header", default="auto", help="yes or no (default: auto)")
    parser.add_argument("--force", action="store_true", help="replace the output file if it is there")
    return parser


def _condition(given: argparse.Namespace) -> tuple[Table, ConditionedDensity]:
    """Read the context and condition the model on it."""
    if not given.data.exists():  # before the seconds that loading torch takes
        raise UserError(f"there is no file {given.data}")
    if not 0 <= given.seed < 2**63:
        raise UserError(f"--seed must lie in 0..2^63-1, given {given.seed}")
    from iclkit.conditioned import ConditionedDensity
    from iclkit.training.models import load

    learner = load(given.model, "energy")
    limit = learner.limit
    longer = max(_CEILING, limit)
    table = read_table(
        given.data,
        given.columns,
        learner.dim,
        longer if given.allow_longer else limit,
        subsample=given.subsample,
        seed=given.seed,
        delimiter=given.delimiter,
        header=given.header,
        advice=f"{learner.name} was trained on contexts of up to {limit}: draw some at random by --subsample "
        f"{limit}, or go on with up to {longer:,} by --allow-longer",
    )
    return table, ConditionedDensity(learner, table.values, table.names, given.allow_longer)


def _sampler(name: str | None) -> Sampler | None:
    if name is None:
        return None
    from iclkit.energy.samplers import HMC, MALA

    samplers = {"MALA": MALA, "HMC": HMC}
    if name not in samplers:
        raise unknown("sampler", name, samplers)
    return samplers[name](steps=_STEPS)
