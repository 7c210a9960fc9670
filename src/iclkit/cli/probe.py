"""`iclkit probe`: which numbers can be read from a model's activations, in which layer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.cli import output
from iclkit.cli.compare import check_options, show
from iclkit.cli.parser import Parser
from iclkit.cli.probe_control import trained_control
from iclkit.cli.streams import say
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.analysis.inside.probing import Probing

SIGN = "probe.json"
_CONTROL, _NONE = "control", "none"


def run(argv: list[str]) -> None:
    given = _parser().parse(argv)
    _check(given)

    from iclkit.analysis import probe
    from iclkit.analysis.inside.probe_training import READOUTS, Schedule
    from iclkit.training.models import load

    model, task = _model_and_task(given)
    settings: dict[str, Any] = {
        "targets": given.targets,
        "layers": None if given.layers is None else [_layer(text) for text in given.layers],
        "prefixes": given.prefixes,
        "readout": given.readout or READOUTS,
        "tokens": given.tokens,
        "seed": given.seed,
    }
    schedule = Schedule() if given.steps is None else Schedule(steps=given.steps)
    control = None if given.control in (None, _NONE) else load(given.control)
    # A mistake in the arguments is told before a control or probes are trained.
    trial = Schedule(steps=1, hidden=8)
    probe(model, task, **settings, beside=_beside(control), episodes=16, held_out=16, schedule=trial)
    if given.control is None:
        control = trained_control(model, given.model)
    found = probe(model, task, **settings, beside=_beside(control), episodes=given.episodes, schedule=schedule)
    show(found.tables())
    say(found.verdict)
    if given.out is not None:
        _write(given.out, found)


def _parser() -> Parser:
    parser = Parser(
        "probe",
        "Train probes on a model's activations: how well can Xᵀy and the weights of least squares (for "
        "mixtures: the components' means and number) be read from each layer? The same probes on an untrained "
        "network, and on a control that never needed a context, tell what that proves.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name, its folder or a run")
    parser.add_argument(
        "--control",
        metavar="MODEL",
        help="the control: a model trained by recipe linear-control or energy-control, or none (default: a "
        "network of MODEL's shape is trained as one, a minute for the models shipped)",
    )
    parser.add_argument(
        "--task", help="a regression task: linear, LinearRegression(dim=8) (default: the model's own)"
    )
    parser.add_argument(
        "--targets", nargs="+", metavar="NAME", help="moments, least_squares; component_means, component_count"
    )
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="numbers of blocks from 0, or names of hook points"
    )
    parser.add_argument(
        "--prefixes", type=int, nargs="+", metavar="N", help="context sizes (default: three up to the longest)"
    )
    parser.add_argument("--readout", nargs="+", metavar="NAME", help="linear, mlp (default: both)")
    parser.add_argument(
        "--tokens", metavar="NAME", help="what probes read: queries (default for regression) or context"
    )
    parser.add_argument("--episodes", type=int, default=4096, help="episodes of the training (default: 4096)")
    parser.add_argument("--steps", type=int, help="updates of the training (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of episodes and probes (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the figure, the tables and all numbers"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Refuse what does not fit before anything is loaded."""
    for name, least in (("steps", 1), ("episodes", 2)):
        if (value := getattr(given, name)) is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, given {value}")
    check_options(given, SIGN)


def _model_and_task(given: argparse.Namespace) -> tuple[Any, Any]:
    """The model, and the task that episodes come from (None: the model's own)."""
    from iclkit.cli.specs import parse_task
    from iclkit.learners.trained_regression import TrainedRegressor
    from iclkit.tasks import LinearRegression
    from iclkit.training.models import load

    model = load(given.model)
    if given.task is not None:
        return model, parse_task(given.task)
    if model.task is None and isinstance(model, TrainedRegressor):  # weights made by hand
        return model, LinearRegression(dim=model.network.dim)
    return model, None


def _layer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _beside(control: Any) -> dict[str, Any]:
    return {} if control is None else {_CONTROL: control}


def _write(folder: Path, found: Probing) -> None:
    """The numbers, the tables and the figure."""
    from iclkit.analysis.table import markdown
    from iclkit.report.figures import png
    from iclkit.report.probe_figure import probe_figure

    folder.mkdir(parents=True, exist_ok=True)
    output.write(folder / SIGN, found.to_json().encode())
    output.write(folder / "probe.md", markdown(found.verdict, found.tables()).encode())
    output.write(folder / "probe.png", png(probe_figure(found)))
    output.note(f"wrote {SIGN}, probe.md and probe.png to {folder}")
