"""What compiled programs cost and how exact they are: `python benchmarks/compiler.py [--full]`.

Prints four tables: errors of the target "exact" by dimension, of "standard" by the scale of its products,
layers and widths, and seconds to compile and to run.
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table

from iclkit.compiler import PROGRAMS, Interpreted, Program, compile, programs
from iclkit.compiler.compilation import planned
from iclkit.learners import Ridge
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.tasks import LinearRegression

SCALES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


def episodes(dim: int, points: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    task = LinearRegression(dim=dim, noise_std=0.1)
    x, y = task.sample(batch, points + 1, torch.Generator().manual_seed(0))
    return x.double(), y.double()


def error(program: Program, target: str, batch: int = 16, **options: float) -> float:
    x, y = episodes(program.dim, program.points, batch)
    found = TrainedRegressor(compile(program, target, **options)).predict(x, y)
    return float((found - Interpreted(program).predict(x, y)).abs().max())


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="256 episodes for the timings, not 32")
    batch = 256 if parser.parse_args().full else 32

    dims, points = (1, 2, 4, 6, 8, 10), 40
    rows = [
        [name, *(f"{error(make(d, points), 'exact', 4):.0e}" for d in dims)] for name, make in PROGRAMS.items()
    ]
    x, y = episodes(8, points, 4)
    found = TrainedRegressor(compile(programs.ridge(8, points, 0.1))).predict(x, y)
    rows.append(
        ["ridge, to closed form (d = 8)", f"{float((found - Ridge(0.1).predict(x, y)).abs().max()):.0e}"]
    )
    print_table(
        f"exact: largest error to the interpreter, {points} pairs", ["", *(f"d = {d}" for d in dims)], rows
    )

    cases = {
        "averaging, d = 4, 8 pairs": programs.averaging(4, 8),
        "sgd, 1 step, d = 4": programs.sgd(4, 8, 0.02, steps=1),
        "sgd, 8 steps, d = 4": programs.sgd(4, 8, 0.02, 0.1),
        "gradient descent, 5 steps": programs.gradient_descent(4, 8, 5),
        "ridge λ = 0.1, d = 4, 8 pairs": programs.ridge(4, 8, 0.1),
        "ridge λ = 0.1, d = 8, 40 pairs": programs.ridge(8, 40, 0.1),
    }
    rows = [
        [name, *(f"{error(case, 'standard', 8, scale=scale):.0e}" for scale in SCALES)]
        for name, case in cases.items()
    ]
    print_table(
        "standard: largest error to the interpreter by scale", ["", *(f"{s:.0e}" for s in SCALES)], rows
    )

    rows = []
    for name, make in PROGRAMS.items():
        for target in ("exact", "standard"):
            if name == "nearest-neighbor" and target == "standard":
                continue
            widths = [str(planned(make(d, points), target).width) for d in (4, 8, 16)]
            start = time.perf_counter()
            network = compile(make(8, points), target)
            made = time.perf_counter()
            TrainedRegressor(network).predict(*episodes(8, points, batch))
            seconds = [f"{made - start:.2f}", f"{time.perf_counter() - made:.2f}"]
            plan = planned(make(8, points), target)
            rows.append([name, target, str(len(plan.blocks)), str(len(plan.order)), *widths, *seconds])
    print_table(
        f"sizes at {points} pairs; seconds at d = 8, {batch} episodes, {torch.get_num_threads()} threads",
        ["", "target", "own layers", "layers", "width d=4", "d=8", "d=16", "compile", "run"],
        rows,
    )


if __name__ == "__main__":
    main()
