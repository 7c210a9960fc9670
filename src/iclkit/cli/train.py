"""`iclkit train`: carry out a recipe, any field of which can be given another value."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
import signal
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from iclkit.cli.output import note
from iclkit.cli.parser import Parser
from iclkit.cli.signals import stopping
from iclkit.cli.specs import with_fields
from iclkit.cli.streams import say
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.tasks import RegressionTask
    from iclkit.training import Recipe


def run(argv: list[str]) -> None:
    parser = _parser()
    if any(argument in ("-h", "--help") for argument in argv):
        _help(parser, argv)
        return
    # The recipe decides which options there are, so it is looked for first.
    name = parser.parse_known_args(argv)[0].recipe
    if name is None:
        raise UserError("name a recipe to train, e.g. iclkit train energy-tiny (see iclkit recipes)")
    recipe = read_recipe(name)
    parser.check_options([_dashed(argument) for argument in argv], _options(recipe))
    given, rest = parser.parse_known_args(argv)
    recipe = _override(_like_its_start(recipe, rest), rest)
    if given.stop_after is not None and given.stop_after < 1:
        raise UserError(f"--stop-after must be at least 1, given {given.stop_after}")

    from iclkit.training import train
    from iclkit.training.distributed import JoinError, launched, place

    place(given.device)  # a mistake is told before minutes of work
    rank, _ = launched()
    out = given.out or _default_folder(recipe.name)
    try:
        with stopping() as stopped:
            train(
                recipe,
                out,
                resume=given.resume,
                steps=given.steps,
                progress=not given.quiet,
                stop_after=given.stop_after,
                device=given.device,
                stop=stopped,
            )
    except JoinError:
        raise
    except UserError:
        if rank:  # of the processes that have joined, the first speaks for all
            raise SystemExit(2) from None
        raise
    if stopped():
        if not rank:
            _tell_how_to_go_on(argv, out, stopped.name)
            if stopped.number == signal.SIGINT:
                raise KeyboardInterrupt
        raise SystemExit(stopped.code)
    if not rank:
        note(
            f"the run is in {out}; use it as --model {out}, or make a model folder: iclkit export {out} FOLDER"
        )


def _default_folder(name: str) -> Path:
    """The folder of a run that is given none: in `runs`, and not beside or above it.

    Raises:
        UserError: A name, of a recipe in a file perhaps, that is no name of a folder.
    """
    if not re.fullmatch(r"[^\W_][\w.+ -]{0,99}", name) or name.endswith((".", " ")):
        raise UserError(
            f"the recipe's name {name!r} is no name of a folder; name the run's folder by --out DIR"
        )
    return Path("runs") / name


def _tell_how_to_go_on(argv: Sequence[str], out: Path, name: str) -> None:
    from iclkit.training import checkpoint

    found = checkpoint.found(out)
    again = shlex.join([*argv, *(["--resume"] if "--resume" not in argv else [])])
    note(f"stopped by {name}; {found[-1]} is written; go on by: iclkit train {again}")


def _parser() -> Parser:
    parser = Parser(
        "train",
        "Carry out a recipe. Each of its fields is an option too, e.g. --network.width 64; "
        "iclkit train RECIPE --help lists them. Processes share the work under: "
        "torchrun --nproc-per-node 2 -m iclkit train RECIPE.",
        add_help=False,
    )
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="name of a recipe (see iclkit recipes), or a .json file"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--steps", type=int, metavar="S", help="updates; the schedule rescales")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the folder's last checkpoint, or start if it has none: a command that may be repeated",
    )
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="write a checkpoint there, and stop")
    parser.add_argument("--device", help="where to compute: cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("-h", "--help", action="store_true", help="show this, and RECIPE's fields if named")
    return parser


def read_recipe(name: str) -> Recipe:
    from iclkit.training import Recipe, recipe_named
    from iclkit.training.json_files import read_json

    if not name.endswith(".json"):
        return recipe_named(name)
    path = Path(name)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    return Recipe.from_dict(read_json(path), str(path))


def _options(recipe: Recipe) -> list[str]:
    """The option of every field of a recipe, and of the dataclasses within it."""
    return [f"--{prefix}{path}" for path, value in _fields(recipe) for prefix in _prefixes(path, value)]


def _fields(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = _dashed(path + field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{name}.")
        elif isinstance(value, tuple) and all(map(dataclasses.is_dataclass, value)):
            for place, member in enumerate(value):
                yield from _fields(member, f"{name}.{place}.")
        # What a recipe leaves out whole (a curriculum) takes a file to put in.
        elif value is not None or not any(map(dataclasses.is_dataclass, typing.get_args(hints[field.name]))):
            yield name, value


def _prefixes(path: str, value: Any) -> list[str]:
    # A switch at the top has two options; further down the "no-" stands before the last part of the name.
    return ["", "no-"] if isinstance(value, bool) and "." not in path else [""]


def _dashed(argument: str) -> str:
    """An option as it is registered: both --log_every and --log-every are understood."""
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value


def _override(recipe: Recipe, options: Sequence[str]) -> Recipe:
    """The recipe with some fields replaced.

    Raises:
        UserError: A value of another type, or one that makes no recipe.
    """
    import tyro

    if not options:
        return recipe
    loose = next((argument for argument in options[:1] if not argument.startswith("--")), None)
    if loose is not None:
        raise UserError(f"unexpected argument {loose!r}; fields are set by options, e.g. --steps 100")
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                type(recipe),
                default=recipe,
                args=options,
                prog="iclkit train",
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit:
        raise UserError(_in_one_line(told.getvalue())) from None


def _like_its_start(recipe: Recipe, options: Sequence[str]) -> Recipe:
    """A recipe of regression with the network of the model that `--start` names, unless options describe one.

    Weights made by hand are seldom of the shape that a recipe has. With the network go the dimension of the
    task and, where they would be too long, the contexts.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--start")
    start = parser.parse_known_args(options)[0].start
    described = any(option.startswith("--network.") for option in options)
    if start in (None, "None") or described or recipe.kind != "regression":
        return recipe
    from iclkit.training.models import load
    from iclkit.training.network_config import RegressorConfig

    network = RegressorConfig(**load(start, "regression").network.arguments)
    if network == recipe.network:
        return recipe
    task = cast("RegressionTask", recipe.task)
    if task.dim != network.dim:
        task = with_fields(task, dim=network.dim)
    points = min(recipe.points, network.max_points + 1)
    changed = dataclasses.replace(recipe, network=network, task=task, points=points)
    note(f"the network is that of {start}: inputs of dim {network.dim}, {points} points in each dataset")
    return changed


def _in_one_line(box: str) -> str:
    """What an error box of tyro's says, without its frame, rules and the help below them."""
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    if len(lines) > 1 and set(lines[1]) == {
        "-"
    }:  # the frame of a terminal that has ASCII alone: a title, a rule
        lines = lines[2:]
    told = []
    for line in lines:
        if line.endswith(("──", "---")):
            if told:
                break
            continue
        told.append(line)
    message = " ".join(told).strip().removeprefix("Error parsing ")
    # The message names the field itself, or a whole recipe: "optimizer: optimizer.eps must ...", "Recipe: ...".
    message = re.sub(r"^Recipe: |^(\w+): (?=\1\.)", "", message)
    return message or "a field was given a value that it does not take"


def _help(parser: Parser, argv: list[str]) -> None:
    import tyro

    parser.print_help()
    known = [argument for argument in argv if argument not in ("-h", "--help")]
    name = parser.parse_known_args(known)[0].recipe
    if name is not None:
        recipe = read_recipe(name)
        say(f"\nFields of {recipe.name}:\n")
        with contextlib.suppress(SystemExit):
            tyro.cli(
                type(recipe),
                default=recipe,
                args=["--help"],
                prog=f"iclkit train {name}",
                config=(tyro.conf.AvoidSubcommands,),
            )
