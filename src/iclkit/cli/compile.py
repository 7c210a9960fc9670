"""`iclkit compile`: a learning algorithm as the weights of a transformer."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.cli import output
from iclkit.cli.actions import PICTURES, check_picture
from iclkit.cli.parser import Parser, check_seed
from iclkit.cli.streams import say
from iclkit.errors import UserError, unknown

if TYPE_CHECKING:
    from iclkit.compiler import Program
    from iclkit.compiler.lowering import Plan
    from iclkit.regression import InContextRegressor

# Constants of programs, by the options that set them.
_CONSTANTS = {
    "rate": (float, "learning rate (sgd, gradient-descent)"),
    "weight_decay": (float, "λ of the penalty λ ‖w‖² (sgd)"),
    "steps": (int, "steps (gradient-descent); for sgd, how many of the latest pairs are used"),
    "penalty": (float, "λ (ridge)"),
    "longest": (float, "largest ‖x‖² for which target 'standard' is right (ridge)"),
}
_EPISODES = 16


def run(argv: list[str]) -> None:
    given = _parser().parse(argv)
    from iclkit.compiler import PROGRAMS, compile
    from iclkit.compiler.compilation import SCALE, planned
    from iclkit.training.models import save

    if given.program not in PROGRAMS:
        raise unknown("program", given.program, PROGRAMS)
    if given.scale is not None and given.target != "standard":
        raise UserError(f"--scale is of target 'standard', given target {given.target!r}; leave it out")
    check_seed(given.seed)
    _check_files(given)
    program = _program(given, PROGRAMS[given.program])
    plan = planned(program, given.target)
    network = compile(program, given.target, scale=SCALE if given.scale is None else given.scale)
    say(_report(given, program, plan, network))
    if given.out is not None:
        save(network, given.out, name=given.program, overwrite=given.force)
        output.note(f"wrote {given.out}")
    if given.draw is not None:
        from iclkit.report.landscape_plot import render
        from iclkit.report.program_figure import program_figure

        output.write(given.draw, render(program_figure(plan, given.target), given.draw.suffix.lower()))
        output.note(f"wrote {given.draw}")


def _parser() -> Parser:
    parser = Parser(
        "compile",
        "Compile a learning algorithm to the weights of a transformer, and measure it against the interpreter.",
    )
    parser.add_argument(
        "program", metavar="PROGRAM", help="averaging, gradient-descent, nearest-neighbor, ridge or sgd"
    )
    parser.add_argument("--d", type=int, default=8, help="dimension of the inputs (default: 8)")
    parser.add_argument("--points", type=int, default=40, help="longest context, in pairs (default: 40)")
    parser.add_argument(
        "--target",
        default="exact",
        metavar="exact|standard",
        help="exact: hard attention, units that multiply and divide; standard: softmax, GELU and LayerNorm "
        "(default: exact)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="scale of products of the target standard (default: 1e-5; 0.03 for a start of training)",
    )
    for name, (kind, what) in _CONSTANTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=what)
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes of the check (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="model folder to make")
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="FILE",
        help=f"picture of what each layer reads and writes ({', '.join(PICTURES)})",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a model folder or a picture that is there"
    )
    return parser


def _check_files(given: Namespace) -> None:
    if given.draw is not None and given.draw == given.out:
        raise UserError(f"--out and --draw are both {given.out}; name a folder and a file")
    if given.draw is not None:
        check_picture(given.draw)
        output.check(given.draw, given.force, [])
        if find_spec("matplotlib") is None:
            raise UserError("pictures need matplotlib: pip install 'iclkit[plots]'")
    if given.out is not None and given.out.exists():
        if not given.out.is_dir():
            raise UserError(f"{given.out} is a file; name a folder for the model")
        if any(given.out.iterdir()) and not (given.force and (given.out / "model.json").exists()):
            raise UserError(f"{given.out} already exists; name a new folder, or replace a model by --force")


def _program(given: Namespace, make: Callable[..., Program]) -> Program:
    accepted = inspect.signature(make).parameters
    constants: dict[str, Any] = {}
    for name in _CONSTANTS:
        value = getattr(given, name)
        if value is None:
            continue
        if name not in accepted:
            known = [f"--{each.replace('_', '-')}" for each in _CONSTANTS if each in accepted]
            takes = ", ".join(known) or "no constants"
            raise UserError(f"{given.program} has no --{name.replace('_', '-')}; it takes {takes}")
        constants[name] = value
    return make(given.d, given.points, **constants)


def _report(given: Namespace, program: Program, plan: Plan, network: InContextRegressor) -> str:
    layout = network.arguments["layout"]
    weights = sum(p.numel() for p in network.parameters())
    head_width = network.arguments["head_width"]
    lines = [
        str(program),
        "",
        f"target      {given.target}",
        f"layers      {len(layout.like)}, of which {len(plan.blocks)} have weights of their own",
        f"width       {plan.width}",
        f"heads       up to {max(layout.heads)} a layer, of width {head_width}",
        f"units       up to {max(layout.hidden)} a layer",
        f"weights     {weights}",
        "",
        *(f"layer {index + 1}: {'; '.join(block.operations)}" for index, block in enumerate(plan.blocks)),
        *(_pass(*loop) for loop in plan.loops if loop[2] > 1),
        "",
        "register        shape     rows",
    ]
    for register in plan.named_rows():
        rows = register.rows
        span = f"{rows.start}" if len(rows) == 1 else f"{rows.start} to {rows.stop - 1}"
        lines.append(f"{register.name:15} {'×'.join(map(str, register.shape)) or 'number':9} {span}")
    return "\n".join([*lines, "", _error(given.seed, program, network)])


def _pass(first: int, end: int, times: int) -> str:
    """How often a loop runs."""
    if end - first == 1:
        return f"layer {end} is run {times} times"
    return f"layers {first + 1} to {end} are run {times} times"


def _error(seed: int, program: Program, network: InContextRegressor) -> str:
    from iclkit.compiler import accuracy

    found = accuracy(program, network, _EPISODES, seed)
    lines = [
        f"largest error against the interpreter: {found.error:.1e}, of predictions of about {found.size:.2g} "
        f"({_EPISODES} episodes of linear regression, every prefix)"
    ]
    if program.learner is not None:
        lines.append(f"largest error of the interpreter against {program.learner}: {found.drift:.1e}")
    return "\n".join([*lines, f"right within {found}"])
