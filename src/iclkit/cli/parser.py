"""Arguments of one command, with mistakes told in one line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from iclkit.cli.option_names import nearest
from iclkit.errors import UserError


def check_seed(seed: int) -> None:
    """Refuse what torch's generators do not take."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must lie in 0..2^63-1, given {seed}")


class Parser(argparse.ArgumentParser):
    """argparse, but its errors are `UserError`s and an unknown option is answered with the nearest one.

    Args:
        command: What is typed after `iclkit`.
        description: What the command does.
        add_help: Whether --help is handled here.
    """

    def __init__(self, command: str, description: str, add_help: bool = True) -> None:
        super().__init__(
            prog=f"iclkit {command}", description=description, allow_abbrev=False, add_help=add_help
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments.

        Raises:
            UserError: Unknown, missing or malformed ones.
        """
        self.check_options(argv)
        return self.parse_args(argv)

    def check_options(self, argv: Sequence[str], others: Iterable[str] = ()) -> None:
        """Refuse options that are neither this parser's nor among `others`."""
        known = [*self._option_string_actions, *others]
        for argument in argv:
            if argument == "--":
                return
            option, _, value = argument.partition("=")
            if value == "--" and argument.startswith("--"):  # which argparse takes for the end of the options
                raise UserError(f"{option} needs a value, given '--'")
            if argument.startswith("--") and option not in known:
                near = nearest(option, known)
                hint = f"; did you mean {near!r}?" if near else ""
                raise UserError(f"unknown option {option!r}{hint} (see {self.prog} --help)")
