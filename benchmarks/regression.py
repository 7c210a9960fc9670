"""Textbook learners of regression: every prefix in one call, against a loop over prefixes of batched `lstsq`.

python -m benchmarks.regression
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from iclkit.learners import (
    Averaging,
    BayesLinear,
    GaussianProcess,
    GradientDescent,
    GradientDescentPlusPlus,
    LeastSquares,
    NearestNeighbors,
    Newton,
    OnePassSGD,
    RegressionLearner,
    Ridge,
)
from iclkit.tasks import LinearRegression

LEARNERS: dict[str, RegressionLearner] = {
    "ridge": Ridge(0.1),
    "ridge, λ = 1e-9": Ridge(1e-9),
    "Bayesian linear": BayesLinear(0.5),
    "least squares": LeastSquares(),
    "averaging": Averaging(),
    "one-pass SGD": OnePassSGD(0.01),
    "GD, 1 step": GradientDescent(1),
    "GD, 1000 steps": GradientDescent(1000, 0.05),
    "GD++, 2 steps": GradientDescentPlusPlus(2),
    "Newton, 10 steps": Newton(10),
    "3 nearest neighbours": NearestNeighbors(3),
    "Gaussian process": GaussianProcess(length_scale=5.0),
}


def naive(x: Tensor, y: Tensor, penalty: float = 0.0) -> Tensor:
    """Predictions of ridge regression by `torch.linalg.lstsq` for one prefix after another.

    The penalty is d more rows √λ I with target 0.
    """
    batch, points, dim = x.shape
    extra = penalty**0.5 * torch.eye(dim, dtype=x.dtype).expand(batch, dim, dim)
    found = torch.zeros_like(y)
    for n in range(1, points):
        rows, targets = x[:, :n], y[:, :n]
        if penalty:
            rows = torch.cat([rows, extra], 1)
            targets = torch.cat([targets, y.new_zeros(batch, dim)], 1)
        weights = torch.linalg.lstsq(rows, targets[..., None], driver="gelsd" if n < dim else "gelsy").solution
        found[:, n] = (x[:, n] * weights[..., 0]).sum(-1)
    return found


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, for what else the machine does only adds to it."""
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = LinearRegression(options.dim, noise_std=0.5)
    x, y = task.sample(options.episodes, options.points, torch.Generator().manual_seed(0))
    reference = seconds(lambda: naive(x, y), options.repeats)
    size = f"{options.episodes} episodes, {options.points} prefixes, d = {options.dim}"
    table = Table(title=f"{size}, {options.threads} thread(s); loop of lstsq: {1e3 * reference:.1f} ms")
    for column in ("learner", "ms", "times faster"):
        table.add_column(column, justify="left" if column == "learner" else "right")
    for name, learner in LEARNERS.items():
        time_of = seconds(lambda learner=learner: learner.predict(x, y), options.repeats)
        table.add_row(name, f"{1e3 * time_of:.2f}", f"{reference / time_of:.1f}")
    console = Console()
    console.print(table)
    wide = x.double(), y.double()
    for name, penalty in (("ridge", 0.1), ("least squares", 0.0)):
        apart = (LEARNERS[name].predict(*wide) - naive(*wide, penalty)).abs().max().item()
        console.print(f"{name} against the loop, in float64: at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
