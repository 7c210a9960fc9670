"""Command lines, altered: options of the real parsers with other values, arguments dropped, moved, misspelt.

Every command is run in a folder of small files, made anew for each trial. It must end with exit code 0, 2 or
130, say at most one error, leave nothing unfinished behind, and print nothing that acts on a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import resource
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tests.small_models import save_small_model, save_small_regressor

from iclkit import cli
from iclkit.analysis import real_data
from iclkit.cli import output
from iclkit.cli.parser import Parser
from iclkit.tasks import LinearPool
from iclkit.training import RECIPES, models

from . import Findings, _peak, _reset_peak, _stopped_after

# What each command is when nothing is wrong with it; small enough for a second or two.
COMMANDS = {
    "energy score": "energy score d.csv --points p.csv",
    "energy sample": "energy sample d.csv --size 5 --out new.csv",
    "energy plot": "energy plot d.csv --out new.png --samples 5",
    "regress predict": "regress predict t.csv --target y --points q.csv --orders 1",
    "regress plot": "regress plot t.csv --target y --out new.png --samples 5 --orders 1",
    "train": "train energy-tiny --steps 1 --out new --quiet --episodes 2 --points 4",
    "recipes": "recipes energy-tiny",
    "models": "models",
    "export": "export run new --name mine",
    "compare": "compare ridge(0.5) Averaging --episodes 4 --points 3 --dim 2",
    "identify": "identify ridge(0.5) --episodes 16 --points 3 --dim 2 --families ridge averaging --fresh 16",
    "shifts": "shifts ridge(0.5) Averaging --episodes 4 --points 3 --dim 2",
    "probe": "probe ./plain --episodes 16 --steps 1 --control none --prefixes 2",
    "fine-tuning": "fine-tuning ./plain --episodes 2 --demonstrations 2 --rate 0.01 --no-control",
    "diagonal": "diagonal ./plain --episodes 16 --points 3",
    "interpolate": "interpolate ./plain ./plain --episodes 4 --points 3 --steps 2",
    "pools": "pools ./pool --episodes 4 --points 3",
    "induction": "induction --out new --layers 1 --seeds 0 --steps 1 --quiet",
    "compile": "compile averaging --d 2 --points 2 --out new",
    "evaluate": "evaluate --model energy-2d --splits 2 --held-out 8 --sizes 8 --pairs points",
    "card": "card energy-2d --out new --datasets 2",
    "demo": "demo --out new",
}
# Recipes whose fields become options of `train`: one of each kind.
TRAINED = {
    "energy-tiny": "--episodes 2 --points 4",
    "linear": "--episodes 2 --network.width 8 --network.layers 1 --network.heads 1",
    "induction": "--episodes 2 --network.width 8 --network.layers 1",
}
# Seconds after which a command surely hangs, on a machine that is busy besides.
_HANGS = 120.0
# Bytes that a command may ask for, beside what the process has: what is said then is told apart from success.
_ASKED = 3 << 30
_FAULTS = ("Traceback", "still running after", "out of memory")
# Work that was asked for takes its time: these get no large values that would be legal.
PATIENT = {
    "--steps",
    "--accumulate",
    "--stop-after",
    "--splits",
    "--samples",
    "--size",
    "--orders",
    "--datasets",
}

WHOLE = [
    "1",
    "2",
    "3",
    "0",
    "-1",
    "10**3",
    "1e3",
    "9" * 30,
    "-" + "9" * 30,
    str(2**31),
    str(2**63),
    str(2**64),
    "1_0",
]
HUGE = ["1000000000", str(2**31), str(2**63 - 1), str(2**63), "9" * 30]
REAL = [
    "0.5",
    "1",
    "0",
    "-1",
    "1e-3",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-308",
    "1e300",
    "1e999",
    "5e-324",
]
WORDS = [
    "",
    " ",
    "²",
    "٣",
    "１",
    "None",
    "True",
    "测量",
    "é",
    "a b",
    "\x1b[2Jx",
    "\x9bx",
    "x\ny",
    "../x",
    "-",
    "--",
    "'",
]
PATHS = [
    "d.csv",
    "t.csv",
    "none.csv",
    "folder",
    "empty",
    "link",
    "pipe",
    "none/x",
    "d.csv/x",
    "new.csv",
    "new.png",
    "new.gif",
    "new",
    "n" * 300,
    "x\udcff.csv",
    "\x1b[2Jx.png",
    "~nobody/x",
    "small",
    "run",
    "loop",
    "broken.json",
]
SPECS = [
    *(
        "ridge(0.25)",
        "ridge(1/0)",
        "ridge(-1)",
        "ridge(1e308)",
        "ridge(nan)",
        "ridge(",
        "ridge(ridge)",
        "knn(k=0)",
    ),
    *(
        "gd(3)",
        "gd(10**9)",
        "gp",
        "sine",
        "pool",
        "linear(dim=0)",
        "linear(dim=10**9)",
        "linear(dim=1000000000)",
    ),
    *(
        "LeastSquares",
        "small",
        "./small",
        "./plain",
        "energy-2d",
        "general",
        "__import__('os')",
        "ridge(0.1, 2)",
    ),
    *("ridge(penalty='x')", "[" * 300, "ridge(" * 100),
]


@dataclass
class Known:
    """What the parsers know: the options of each command, by what they take."""

    options: dict[str, list[argparse.Action]] = field(default_factory=dict)
    fields: dict[str, list[str]] = field(default_factory=dict)


def run(count: int, seed: int) -> Findings:
    """Run so many altered command lines; the commands as they are go first, for what they take.

    Args:
        count: Altered command lines.
        seed: Decides them all.
    """
    found = Findings()
    with tempfile.TemporaryDirectory() as folder, _workplace(Path(folder)) as renew:
        known = _known()
        usual = {}
        for name in COMMANDS:
            renew()
            start = time.process_time()
            _check(found, f"unaltered: {name}", shlex.split(COMMANDS[name]))
            usual[name] = time.process_time() - start
        for trial in range(count):
            chance = random.Random(f"{seed} {trial}")
            name = chance.choice(list(COMMANDS))
            argv = _altered(name, known, chance)
            renew()
            label = f"{trial}: iclkit {shlex.join(argv)!r}"
            before, start = _reset_peak(), time.process_time()
            with _stopped_after(_HANGS), _limited_memory():
                _check(found, label, argv)
            # Time of the processor, beyond what the command takes anyway: other processes do not count.
            spent = time.process_time() - start - usual[name]
            found.took(label, spent, max(_peak() - before, 0))
            found.trials += 1
    return found


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Refuse this process more memory than a command may ask for, before the system ends it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ASKED, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _check(found: Findings, label: str, argv: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(argv)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        found.append(f"{label}: {type(error).__name__}: {error}")
        return
    errors = [line for line in err.getvalue().splitlines() if line.startswith("iclkit: error:")]
    if code not in (0, 2, 130):
        found.append(f"{label}: exit code {code}: {err.getvalue()[-300:]}")
    elif any(words in err.getvalue() for words in _FAULTS):
        found.append(f"{label}: {err.getvalue()[-300:]}")
    elif len(errors) > 1 or (code and not errors and "usage:" not in err.getvalue()):
        found.append(f"{label}: exit code {code} and {len(errors)} errors")
    elif code and len(err.getvalue().splitlines()[-1]) > 2000:
        found.append(f"{label}: an error of {len(err.getvalue().splitlines()[-1])} letters")
    if any(letter in out.getvalue() + err.getvalue() for letter in "\x1b\x9b"):
        found.append(f"{label}: prints escape sequences")
    if left := [str(path) for path in Path().rglob("*") if path.name.startswith(".partial")]:
        found.append(f"{label}: left {left} behind")


def _altered(name: str, known: Known, chance: random.Random) -> list[str]:
    """One command line with a few things changed."""
    recipe = chance.choice(list(TRAINED))
    argv = shlex.split(COMMANDS[name])
    if name == "train":
        argv = shlex.split(f"train {recipe} --steps 1 --out new --quiet {TRAINED[recipe]}")
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        kind = chance.choice(["option"] * 8 + ["value"] * 3 + ["drop", "move", "misspell", "add"])
        place = chance.randrange(1, len(argv)) if len(argv) > 1 else 0
        if kind == "option":
            argv += _option(name, recipe, known, chance)
        elif kind == "value":
            argv[place : place + 1] = [chance.choice(WORDS + PATHS + SPECS + WHOLE + REAL)]
        elif kind == "drop":
            argv[place : place + 1] = []
        elif kind == "move" and argv:
            argv.insert(chance.randrange(len(argv)), argv.pop(place))
        elif kind == "misspell" and argv and argv[place]:
            at = chance.randrange(len(argv[place]))
            argv[place] = argv[place][:at] + chance.choice("abz-=_.") + argv[place][at + 1 :]
        else:
            argv.insert(place, chance.choice([*WORDS, "--lr", "--gif", "-x", "--help", "--version"]))
    # What keeps the unaltered command small stays: without it some commands rightly take minutes.
    usual = shlex.split(COMMANDS[name])
    for option in PATIENT | {"--episodes", "--points", "--seeds", "--layers"}:
        if option in usual and not any(word.partition("=")[0] == option for word in argv):
            argv += [option, usual[usual.index(option) + 1]]
    return argv or ["train"]


def _option(name: str, recipe: str, known: Known, chance: random.Random) -> list[str]:
    if name == "train" and chance.random() < 0.8:
        option = chance.choice(known.fields[recipe])
        if option in PATIENT:
            return [option, chance.choice(["0", "-1", "2", "nan", "x", ""])]
        return [
            option,
            *(chance.choice(WHOLE + HUGE + REAL + WORDS) for _ in range(chance.choice([1, 1, 1, 2]))),
        ]
    action = chance.choice(known.options[name])
    option = chance.choice(action.option_strings) if action.option_strings else None
    if isinstance(action, argparse._StoreTrueAction | argparse._HelpAction):
        return [option] if option else []
    if option in PATIENT:
        values = ["0", "-1", "1", "2", "nan", "²", ""]
    elif action.type is int:
        values = WHOLE + HUGE + WORDS
    elif action.type is float:
        values = REAL + WORDS + WHOLE
    elif action.type is Path:
        values = PATHS + WORDS
    else:
        values = (
            WORDS + PATHS + SPECS + REAL + WHOLE + ["x", "y", "linear", "HMC", "MALA", "yes", "tab", "float16"]
        )
    several = chance.choice([1, 1, 2]) if action.nargs in ("+", "*") else 1
    given = [chance.choice(values) for _ in range(several)]
    if option is None:
        return given
    return [f"{option}={given[0]}"] if chance.random() < 0.5 else [option, *given]


def _known() -> Known:
    """The options of every command, from its own parser."""
    known = Known()
    made: list[Parser] = []
    original = Parser.__init__

    def remember(self: Parser, *args, **named) -> None:
        original(self, *args, **named)
        made.append(self)

    with mock.patch.object(Parser, "__init__", remember):
        for name in COMMANDS:
            made.clear()
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main([*name.split(), "--help"])
            known.options[name] = made[0]._actions
    from iclkit.cli.train import _options
    from iclkit.training import recipe_named

    known.fields = {recipe: _options(recipe_named(recipe)) for recipe in TRAINED}
    assert all(known.options.values())
    assert set(TRAINED) <= set(RECIPES)
    return known


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Callable[[], None]]:
    """A current folder that the function yielded fills anew, in which two small models are the shipped ones."""
    store, shipped, current = folder / "store", folder / "shipped", Path.cwd()
    store.mkdir()
    save_small_model(shipped / "energy-2d", name="energy-2d")
    save_small_regressor(shipped / "general", name="general")
    _fill(store)
    baseline = real_data.baselines()["kernel density"]
    places = (folder / str(number) for number in itertools.count())
    last: list[Path] = []

    def renew() -> None:
        os.chdir(folder)
        for old in last:
            shutil.rmtree(old, ignore_errors=True)
        last[:] = [next(places)]
        shutil.copytree(store, last[0], symlinks=True)
        os.mkfifo(last[0] / "pipe")
        os.chdir(last[0])

    with contextlib.ExitStack() as stack:
        for patch in (
            mock.patch.object(models, "SHIPPED", shipped),
            mock.patch.object(output, "_PATIENCE", 0.0),  # no pipe here ever has a reader
            # What takes minutes by itself; the options before it are what is altered.
            mock.patch("iclkit.report.card.write_card", lambda model, out, datasets: out),
            mock.patch("iclkit.report.demo.write_demo", lambda out, quick: out),
            mock.patch.object(real_data, "PAIRS", {"points": _points}),
            mock.patch.object(real_data, "baselines", return_value={"kernel density": baseline}),
        ):
            stack.enter_context(patch)
        try:
            yield renew
        finally:
            os.chdir(current)


def _points() -> real_data.Pair:
    """In place of a data set of scikit-learn."""
    return real_data.Pair(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double(), ("x", "y"))


def _fill(store: Path) -> None:
    """The files that command lines name."""
    generator = np.random.default_rng(0)
    for name, header, rows in (("d", "x,y", 12), ("p", "x,y", 5), ("t", "a,b,y", 12), ("q", "a,b", 5)):
        values = generator.normal(size=(rows, header.count(",") + 1))
        np.savetxt(store / f"{name}.csv", values, delimiter=",", header=header, comments="")
    (store / "folder").mkdir()
    (store / "empty").touch()
    (store / "link").symlink_to("d.csv")
    (store / "loop").symlink_to("loop")
    (store / "broken.json").write_text('{"name": ')
    save_small_model(store / "small")
    plain = {"components": 0, "standardise": False, "pads": False}
    save_small_regressor(store / "plain", 2, **plain)
    save_small_regressor(store / "pool", 2, task=LinearPool(dim=2, size=2), **plain)
    run = ["train", "energy-tiny", "--steps", "1", "--out", str(store / "run"), "--quiet"]
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(run) == 0
