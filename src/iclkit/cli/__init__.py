"""The `iclkit` command. Commands are imported only when they are called: help and mistakes cost no torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from iclkit import __version__
from iclkit.errors import UserError, shown, unknown

# Every command: the module whose `run(argv)` carries it out, and what it does. One line for a new one.
COMMANDS = {
    "energy": ("iclkit.cli.energy", "score points, draw samples or draw the landscape, given your own data"),
    "regress": ("iclkit.cli.regress", "predict a column of your own data from the others, with intervals"),
    "train": ("iclkit.cli.train", "carry out a recipe, in one process or under torchrun"),
    "recipes": ("iclkit.cli.recipes", "list the recipes, or print one"),
    "models": ("iclkit.cli.models", "list the models that come with the package, or print a model's card"),
    "export": ("iclkit.cli.export", "make a model folder of a training run"),
    "evaluate": (
        "iclkit.cli.evaluate",
        "compare a model with what is fitted to the same rows, on real data",
    ),
    "compare": ("iclkit.cli.compare", "put regression learners side by side: errors, distances, Bayes"),
    "identify": ("iclkit.cli.identify", "which textbook learner a model has become, with its parameter"),
    "probe": ("iclkit.cli.probe", "what can be read from a model's activations, layer by layer"),
    "fine-tuning": (
        "iclkit.cli.fine_tuning",
        "is learning in context like fine-tuning on the same demonstrations, layer by layer?",
    ),
    "diagonal": ("iclkit.cli.diagonal", "compare models trained at several noises with ridge regression"),
    "pools": ("iclkit.cli.pools", "train on pools of many sizes: which learners know the prior behind them?"),
    "induction": ("iclkit.cli.induction", "when induction heads form in training, with one layer and with two"),
    "interpolate": (
        "iclkit.cli.interpolate",
        "the loss between a model and another, or weights made by hand",
    ),
    "compile": ("iclkit.cli.compile", "turn a learning algorithm into the weights of a transformer"),
    "shifts": ("iclkit.cli.shifts", "measure a regression learner out of its distribution"),
    "card": ("iclkit.cli.card", "measure a model against the exact reference and write its card"),
    "demo": ("iclkit.cli.demo", "write a report that shows what it is all about"),
}

_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of this process by default.

    Returns:
        Exit code: 0; 2 for a mistake of the user's, told in one line on the error stream; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _plain_warnings(), _printable():
            code = _dispatch(arguments)
            sys.stdout.flush()
            return code
    except UserError as error:
        return _fail(str(error))
    except SystemExit as stop:  # help, and processes of torchrun that do not lead
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # Nobody reads any more (`| head`). What is still buffered must not raise again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for memory that the processor lacks.
        if not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        return _fail("out of memory; make the batch, the network or the file smaller")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(what)


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(_overview(), file=sys.stderr)
        return 2
    name, *rest = argv
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name in ("-V", "--version"):
        print(f"iclkit {__version__}")
        return 0
    if name.startswith("-"):
        raise unknown("option", name, ["--help", "--version"])
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    importlib.import_module(COMMANDS[name][0]).run(rest)
    return 0


def _overview() -> str:
    lines = [f"  {name:12}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: iclkit COMMAND ...",
            "",
            "Learners whose weights stay frozen while their context teaches them.",
            "",
            "commands:",
            *lines,
            "",
            "iclkit COMMAND --help explains a command; iclkit --version prints the version.",
        ]
    )


def _fail(message: str, code: int = 2) -> int:
    # Of the processes of one run, the first speaks for all.
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            print(f"iclkit: error: {shown(' '.join(message.split()))}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _printable() -> Iterator[None]:
    """Print ? for what the terminal or file has no letter for; afterwards that is a mistake again."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        yield
        return
    before = out.errors
    out.reconfigure(errors="replace")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):  # closed, or nobody reads it any more
            out.reconfigure(errors=before)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings meant for the user as one plain line each; the filters are put back afterwards."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"iclkit: warning: {shown(' '.join(str(message).split()))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
