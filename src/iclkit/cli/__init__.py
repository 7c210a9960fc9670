"""The `iclkit` command. Commands are imported only when they are called: help and mistakes cost no torch."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

from iclkit import __version__
from iclkit.cli.streams import flush_output, occupy_descriptors, tell, usable_streams
from iclkit.errors import UserError, short, unknown

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
_UNEXPECTED = 1
# Set, it shows where in the package an unexpected error came from.
_TRACEBACK = "ICLKIT_TRACEBACK"
# torch has no class of its own for memory that a processor lacks, nor for tensors that no machine could hold.
_TOO_LARGE = ("memory", "Storage size calculation overflowed", "numel: integer multiplication overflow")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of this process by default.

    Returns:
        Exit code: 0; 2 for a mistake of the user's, told in one line on the error stream; 130 if interrupted;
        141 if nobody reads the output any more; 1 for a fault of the package itself, in one line too.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        occupy_descriptors()
    with usable_streams():
        code = _guarded(arguments)
        failed = flush_output()
        if failed is None or code:
            return code
        if isinstance(failed, BrokenPipeError):
            return _BROKEN_PIPE
        return _fail(_of_the_system(failed))


def _guarded(arguments: list[str]) -> int:
    """Run one command; every end that is none of its results is told in one line."""
    try:
        with _plain_warnings():
            return _dispatch(arguments)
    except UserError as error:
        return _fail(str(error))
    except SystemExit as stop:  # help, and processes of torchrun that do not lead
        if isinstance(stop.code, str):
            return _fail(stop.code)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:  # `| head`
        return _BROKEN_PIPE
    except OSError as error:
        return _fail(_of_the_system(error))
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _TOO_LARGE):
            return _fail("out of memory; make the batch, the network or the file smaller")
        return _unexpected(error)


def _of_the_system(error: OSError) -> str:
    """What the system refused, with the name of what it was."""
    if error.filename is not None:
        names = [
            os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
        ]
        return f"{' and '.join(names) or error.filename}: {error.strerror}"
    return error.strerror or str(error) or type(error).__name__


def _unexpected(error: Exception) -> int:
    """A fault of the package: one line, and the traceback for those who ask for it."""
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    what = str(error).strip().partition("\n")[0][:200]
    return _fail(
        f"unexpected {type(error).__name__}{': ' if what else ''}{what}; this is a fault of iclkit; please "
        f"report it with the traceback that {_TRACEBACK}=1 shows",
        _UNEXPECTED,
    )


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
        meant = difflib.get_close_matches(name.strip("-"), COMMANDS, n=1, cutoff=0.7)
        if meant:
            raise UserError(f"unknown option {short(name)!r}; a command has no hyphens: iclkit {meant[0]}")
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
    tell(f"iclkit: error: {' '.join(message.split())}")
    return code


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings meant for the user as one plain line each; the filters are put back afterwards."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        tell(f"iclkit: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
