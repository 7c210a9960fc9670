"""What the commands with actions on a user's table have in common: their overview, and options on the data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from iclkit.cli.parser import Parser, check_seed
from iclkit.data import STANDARD_INPUT
from iclkit.errors import UserError, unknown

Actions = Mapping[str, tuple[Callable[[list[str]], None], str]]

# Attention over a context costs the square of its rows; beyond this, --allow-longer is not meant.
CEILING = 2048
MOST_POINTS = 1_000_000
PICTURES = (".png", ".pdf", ".svg")


def dispatch(command: str, actions: Actions, argv: list[str]) -> None:
    """Carry out one of the actions of a command, or say which there are."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(command, actions), file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)
    if argv[0] not in actions:
        raise unknown(f"action of iclkit {command}", argv[0], actions)
    actions[argv[0]][0](argv[1:])


def _overview(command: str, actions: Actions) -> str:
    lines = [f"  {name:9}{what}" for name, (_, what) in actions.items()]
    return "\n".join(
        [
            f"usage: iclkit {command} ACTION DATA ...",
            "",
            "The rows of DATA (.csv or .npy) are the context of a frozen model; nothing is fitted.",
            "",
            "actions:",
            *lines,
            "",
            f"iclkit {command} ACTION --help explains an action.",
        ]
    )


def data_parser(command: str, description: str, model: str) -> Parser:
    """A parser with the options on DATA and on the model."""
    parser = _DataParser(command, description)
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="rows of the context (.csv or .npy); - for standard input"
    )
    parser.add_argument("--model", default=model, help=f"model by name, its folder or a run (default: {model})")
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


class _DataParser(Parser):
    """A parser for which `--columns 2 3 FILE` ends where FILE begins."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        return super().parse(self._with_data_first(argv))

    def _with_data_first(self, argv: Sequence[str]) -> list[str]:
        """argparse gives all that follows --columns to it. If nothing is left for DATA, its last was that."""
        listed: list[int] = []  # places of what follows an option that takes a list
        waiting: str | int | None = 0  # how many values the last option takes: none, one (None) or a list ("+")
        for place, argument in enumerate(argv):
            if argument in ("--", "-h", "--help"):
                return [*argv]
            if argument.startswith("--"):
                action = self._option_string_actions.get(argument)
                waiting = 0 if action is None else action.nargs
            elif waiting == "+":
                listed.append(place)
            elif waiting is None:
                waiting = 0
            else:
                return [*argv]  # DATA has its place
        if not listed:
            return [*argv]
        last = argv[listed[-1]]
        if len(listed) < 2 or not (last == "-" or Path(last).exists()):
            raise UserError(
                f"DATA is missing: {' '.join(argv[place] for place in listed)!r} is all taken for columns; "
                f"give the file first: {self.prog} FILE --columns ..."
            )
        return [last, *argv[: listed[-1]], *argv[listed[-1] + 1 :]]


def too_many_rows(name: str, limit: int, longer: int, orders: bool = False) -> Callable[[int], str]:
    """What to do about a context of more rows than are accepted: only what helps with so many.

    Args:
        name: The model.
        limit: The longest context that it was trained on.
        longer: The longest that it takes at all.
        orders: Whether the command averages over orders, which takes up to `longer` rows too.
    """

    def advice(rows: int) -> str:
        ways = [f"draw some at random by --subsample {limit}"]
        if rows <= longer:
            ways += ["average over such draws by --orders 8"] if orders else []
            ways += [f"go on with up to {longer:,} by --allow-longer"]
        head = f"{name} was trained on contexts of up to {limit}: "
        return head + ", ".join(ways[:-1]) + (", or " if len(ways) > 1 else "") + ways[-1]

    return advice


def check_data(given: argparse.Namespace) -> None:
    """Refuse what can be refused before the seconds that loading torch takes."""
    if given.data != STANDARD_INPUT and not given.data.exists():
        raise UserError(f"there is no file {given.data}")
    check_seed(given.seed)


def check_picture(out: Path) -> None:
    """Refuse a picture of unknown kind."""
    if out.suffix.lower() not in PICTURES:
        said = f"unknown kind of picture {out.suffix!r}" if out.suffix else "a picture's name says its kind"
        raise UserError(f"{said}: {out} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
