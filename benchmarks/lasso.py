"""The Lasso at every prefix in one call, against the published loop over scikit-learn's.

python -m benchmarks.lasso
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso as Reference
from torch import Tensor

from iclkit.learners import Lasso
from iclkit.tasks import LinearRegression, RegressionTask, SparseLinearRegression

TASKS: dict[str, Callable[..., RegressionTask]] = {
    "linear": LinearRegression,
    "sparse": SparseLinearRegression,
}


def loop(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Predictions [B, N] as the code of Garg et al. (2022) makes them: tensors in, up to 100,000 iterations."""
    predictions = torch.zeros_like(y)
    for n in range(1, x.shape[1]):
        for b in range(len(x)):
            model = Reference(alpha=penalty, fit_intercept=False, max_iter=100_000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x[b, :n], y[b, :n])
            predictions[b, n] = x[b, n] @ torch.from_numpy(model.coef_).to(x)
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--loop-episodes", type=int, default=4, help="episodes that the loop is timed on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = f"{options.episodes} episodes x {options.points} prefixes x d = {options.dim}"
    table = Table(title=f"{size}, one thread, process time")
    for column in ("task", "penalty", "loop, an episode", "loop, all", "one call", "ratio", "largest gap"):
        table.add_column(column, justify="right")
    for name, task in TASKS.items():
        x, y = task(dim=options.dim).sample(options.episodes, options.points, torch.Generator().manual_seed(0))
        for penalty in (1.0, 0.1, 0.01, 0.001, 0.0001):
            learner = Lasso(penalty)
            few = slice(options.loop_episodes)
            start = time.process_time()
            loop(x[few], y[few], penalty)
            each = (time.process_time() - start) / options.loop_episodes
            times = []
            for _ in range(9):
                start = time.process_time()
                learner.predict(x, y)
                times.append(time.process_time() - start)
            call = sorted(times)[4]
            gap = learner.duality_gap(x.double(), y.double()).max().item()
            whole = each * options.episodes
            row = f"{penalty:g}", f"{each * 1e3:.0f} ms", f"{whole:.2f} s", f"{call * 1e3:.0f} ms"
            table.add_row(name, *row, f"{whole / call:.0f}x", f"{gap:.0e}")
    Console().print(table)


if __name__ == "__main__":
    main()
