"""How far log densities move when the columns are scaled, swapped, turned or sheared, and what averaging costs.

python -m benchmarks.equivariance

Real pairs of columns, and data sets of the model's prior seen through random matrices; mean absolute change
and, in parentheses, the largest, in nats.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from rich.console import Console

import iclkit
from iclkit.analysis.equivariance import (
    CONTEXT_SIZES,
    Sets,
    axis_changes,
    changes_table,
    log_densities,
    prior_sets,
    real_sets,
    together,
)
from iclkit.analysis.real_data import PAIRS
from iclkit.analysis.table import Table
from iclkit.learners.trained import EnergyDensity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="energy-2d", help="a model of two columns")
    parser.add_argument(
        "--transforms", type=int, nargs="+", default=[1, 2], help="24 takes twelve times as long as 2"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(CONTEXT_SIZES), help="context sizes")
    parser.add_argument("--splits", type=int, default=6, help="random splits of each real pair")
    parser.add_argument("--datasets", type=int, default=24, help="data sets of the prior")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = iclkit.load(options.model, "energy")
    console, longest = Console(width=160), max(options.sizes)
    real = together(real_sets(load().values, options.splits, longest) for load in PAIRS.values())
    assert model.task is not None
    prior = prior_sets(model.task, options.datasets, longest)
    costs = []
    for count in options.transforms:
        judged = dataclasses.replace(model, transforms=count)
        for name, sets in (("real pairs", real), ("its prior", prior)):
            changes = axis_changes(judged, sets, options.sizes)
            title = f"{options.model}, {count} transforms, {name}"
            console.print(changes_table(changes, options.sizes).rich(title))
        costs.append([str(count), f"{_seconds(judged, real):.3f}", _likelihoods(judged, real, options.sizes)])
    heads = ["transforms", "processor time / s", f"held-out log-likelihood, n = {options.sizes}"]
    console.print(Table(heads, costs).rich("condition on 24 points, log Z and 60 log densities; real pairs"))


def _seconds(model: EnergyDensity, sets: Sets, repeats: int = 12) -> float:
    """Mean processor time of conditioning, log Z and scoring, one context at a time."""
    points = sets.points[:, torch.arange(60) % sets.points.shape[1]]
    model.condition(sets.context[0, :24]).normalise().log_prob(points[0])  # warm
    step = max(1, len(sets.context) // repeats)
    start, count = time.process_time(), 0
    for b in range(0, len(sets.context), step):
        model.condition(sets.context[b, :24]).normalise().log_prob(points[b])
        count += 1
    return (time.process_time() - start) / count


def _likelihoods(model: EnergyDensity, sets: Sets, sizes: list[int]) -> str:
    means = log_densities(model, sets, sizes).mean((0, 2))
    return ", ".join(f"{float(mean):.4f}" for mean in means)


if __name__ == "__main__":
    main()
