"""What compiled programs cost and how exact they are: every figure that is stated of weights by hand.

python -m benchmarks.compiler              # some dimensions, 32 episodes: half a minute of one thread
python -m benchmarks.compiler --full       # d = 1..10, 256 episodes, all threads for the seconds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

import iclkit
from benchmarks import constructions
from iclkit.analysis.table import Table
from iclkit.compiler import PROGRAMS, Interpreted, Program, compile, programs
from iclkit.compiler.compilation import SCALE, planned
from iclkit.errors import UserError
from iclkit.learners import Ridge
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.tasks import LinearRegression

TARGETS = ("exact", "standard")
SIZES = (1, 8, 40)
# Every program, and some of them with constants that change what they do.
VARIANTS: dict[str, Callable[[int, int], Program]] = {
    "averaging": programs.averaging,
    "sgd": programs.sgd,
    "sgd, one step": lambda d, n: programs.sgd(d, n, steps=1),
    "sgd with decay": lambda d, n: programs.sgd(d, n, weight_decay=0.1),
    "gradient-descent": programs.gradient_descent,
    "gradient-descent, 5 steps": lambda d, n: programs.gradient_descent(d, n, 5, 0.1),
    "ridge": programs.ridge,
    "ridge, λ = 1": lambda d, n: programs.ridge(d, n, 1.0),
    "nearest-neighbor": programs.nearest_neighbor,
}


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all dimensions, and 256 episodes for the seconds")
    full = parser.parse_args().full
    threads = torch.get_num_threads()
    # What is no matter of seconds takes one thread: a machine may be busy besides.
    torch.set_num_threads(1)
    dims = range(1, 11) if full else (1, 4, 8)
    show("exact: largest error to the interpreter, contexts of 0 to n pairs", exact_errors(dims))
    show("ridge by Sherman-Morrison: largest difference to the closed form, 0 to 40 pairs", closed_form(dims))
    show(constructions.TITLE, constructions.table())
    show("standard: largest error to the interpreter, by scale of its products (d = 4)", scales())
    show(f"standard at the scale of {SCALE:g}: largest error to the interpreter", standard_errors())
    show("layers of one step", layers())
    show("width, and the slope of its logarithm over that of d from 64 on", widths())
    show("identify, d = 4, contexts of 0 to 12 pairs", identified())
    torch.set_num_threads(threads)
    batch = 256 if full else 32
    show(f"seconds, d = 8, 40 pairs; {batch} episodes on {threads} threads", seconds(batch))


def show(title: str, table: Table) -> None:
    Console(width=118).print(table.rich(title))


def episodes(dim: int, points: int, batch: int) -> tuple[Tensor, Tensor]:
    task = LinearRegression(dim=dim, noise_std=0.1)
    x, y = task.sample(batch, points + 1, torch.Generator().manual_seed(0))
    return x.double(), y.double()


def error(program: Program, target: str, batch: int, scale: float = SCALE) -> float:
    """The largest difference between a compiled program and the interpreter, over every prefix."""
    x, y = episodes(program.dim, program.points, batch)
    found = TrainedRegressor(compile(program, target, scale=scale, tolerance=float("inf"))).predict(x, y)
    return float((found - Interpreted(program).predict(x, y)).abs().max())


def exact_errors(dims: Sequence[int]) -> Table:
    rows = [
        [f"{name}, n = {n}", *(f"{error(make(d, n), 'exact', 4):.0e}" for d in dims)]
        for name, make in VARIANTS.items()
        for n in SIZES
    ]
    return Table(["", *(f"d = {d}" for d in dims)], rows)


def closed_form(dims: Sequence[int]) -> Table:
    def difference(dim: int, penalty: float) -> float:
        x, y = episodes(dim, 40, 4)
        found = TrainedRegressor(compile(programs.ridge(dim, 40, penalty))).predict(x, y)
        return float((found - Ridge(penalty).predict(x, y)).abs().max())

    rows = [
        [f"λ = {penalty:g}", *(f"{difference(d, penalty):.0e}" for d in dims)] for penalty in (0.01, 0.1, 1.0)
    ]
    return Table(["", *(f"d = {d}" for d in dims)], rows)


def scales() -> Table:
    """Errors by scale, and the slope in logarithms where it is the products' that counts."""
    powers = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0)
    fitted = [place for place, power in enumerate(powers) if 2.5 <= power <= 4]
    cases = {
        "averaging, 8 pairs": programs.averaging(4, 8),
        "sgd, one step": programs.sgd(4, 8, steps=1),
        "sgd, 8 steps, decay 0.1": programs.sgd(4, 8, weight_decay=0.1),
        "descent, 5 steps": programs.gradient_descent(4, 8, 5, 0.1),
        "ridge, 8 pairs": programs.ridge(4, 8),
        "ridge, 40 pairs": programs.ridge(4, 40),
    }
    rows = []
    for name, program in cases.items():
        errors = [error(program, "standard", 8, 10.0**-power) for power in powers]
        slope = np.polyfit([-powers[i] for i in fitted], [np.log10(errors[i]) for i in fitted], 1)[0]
        rows.append([name, *(f"{value:.0e}" for value in errors), f"{slope:.2f}", "2"])
    return Table(["scale 10^", *(f"-{power:g}" for power in powers), "slope", "expected"], rows)


def standard_errors() -> Table:
    cases = [
        ("sgd, one step, d = 4", programs.sgd(4, 8, steps=1), 1e-3),
        ("sgd, one step, d = 8", programs.sgd(8, 40, steps=1), 1e-3),
        ("ridge, d = 4, 8 pairs", programs.ridge(4, 8), 1e-2),
        ("ridge, d = 8, 40 pairs", programs.ridge(8, 40), 1e-2),
    ]
    rows = [[name, f"{error(program, 'standard', 64):.1e}", f"{bound:g}"] for name, program, bound in cases]
    return Table(["", "error", "at most"], rows)


def layers() -> Table:
    rows = []
    for name, what, published in (
        ("sgd", "one step of SGD", "9"),
        ("ridge", "one Sherman-Morrison update", "14"),
        ("gradient-descent", "gradient descent, one step", ""),
        ("averaging", "averaging", ""),
        ("nearest-neighbor", "nearest neighbour", ""),
    ):
        counts = [of_target(PROGRAMS[name](8, 40), target, lambda plan: len(plan.blocks)) for target in TARGETS]
        rows.append([what, *counts, published])
    return Table(["", *TARGETS, "Akyürek et al."], rows)


def widths() -> Table:
    dims, far = (2, 4, 8, 16), (64, 96, 128)
    rows = []
    for name, expected in (
        ("averaging", 1),
        ("sgd", 1),
        ("nearest-neighbor", 1),
        ("gradient-descent", 2),
        ("ridge", 2),
    ):
        for target in TARGETS:
            cells = [of_target(PROGRAMS[name](d, 4), target, lambda plan: plan.width) for d in dims]
            if cells[0] == "none":
                continue
            found = [planned(PROGRAMS[name](d, 4), target).width for d in far]
            slope = np.polyfit(np.log(far), np.log(found), 1)[0]
            rows.append([name, target, *cells, f"{slope:.2f}", str(expected)])
    return Table(["", "target", *(f"d = {d}" for d in dims), "slope", "expected"], rows)


def of_target(program: Program, target: str, what: Callable) -> str:
    """A figure of a plan, or "none" where the target lacks an operation."""
    try:
        return str(what(planned(program, target)))
    except UserError:
        return "none"


def identified() -> Table:
    task = LinearRegression(dim=4, noise_std=0.5)
    rows = []
    for program, given in (
        (programs.ridge(4, 12, 0.25), "ridge, λ = 0.25"),
        (programs.gradient_descent(4, 12, 3, 0.4), "gradient descent, 3 steps, rate 0.4"),
        (programs.sgd(4, 12, 0.02), "SGD, rate 0.02"),
    ):
        for target in TARGETS:
            learner = TrainedRegressor(compile(program, target))
            found = iclkit.identify(
                learner, task, points=12, episodes=64, fresh=64, dtype=torch.float64
            ).nearest
            parameters = ", ".join(f"{name} {fit.value:.6g}" for name, fit in found.parameters.items())
            rows.append([given, target, found.family.name, parameters])
    return Table(["compiled", "target", "named", "parameters"], rows)


def seconds(batch: int) -> Table:
    """Of the clock and of all processors together, to compile and to predict at every prefix."""
    x, y = episodes(8, 40, batch)
    rows = []
    for name, make in VARIANTS.items():
        for target in TARGETS:
            if of_target(make(8, 40), target, lambda plan: plan.width) == "none":
                continue
            start, start_cpu = time.perf_counter(), time.process_time()
            learner = TrainedRegressor(compile(make(8, 40), target))
            made, made_cpu = time.perf_counter(), time.process_time()
            learner.predict(x, y)
            done, done_cpu = time.perf_counter(), time.process_time()
            cells = [made - start, made_cpu - start_cpu, done - made, done_cpu - made_cpu]
            rows.append([name, target, *(f"{cell:.2f}" for cell in cells)])
    return Table(["", "target", "compile", "(CPU)", "run", "(CPU)"], rows)


if __name__ == "__main__":
    main()
