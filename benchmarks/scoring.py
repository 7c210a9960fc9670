"""Scoring points under one context: encoded once, against encoding the context again for every point.

python -m benchmarks.scoring
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

import iclkit
from iclkit.energy.network import EnergyTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(options.context, 2, generator=generator)
    points = torch.randn(options.points, 2, generator=generator)
    table = Table(title=f"{options.points:,} points under {options.context}, {options.threads} threads")
    for column in ("network", "condition", "energies", "and log Z", "in all", "naive", "ratio"):
        table.add_column(column, justify="right")
    torch.manual_seed(0)
    networks = {
        "energy-2d": iclkit.load("energy-2d").network,
        "published size": EnergyTransformer(base_std=2.0),
    }
    for name, network in networks.items():
        network.requires_grad_(False).eval()
        network.condition(context).energy(points)  # warm
        marks = [time.perf_counter()]
        landscape = network.condition(context)
        marks.append(time.perf_counter())
        fast = landscape.energy(points)
        marks.append(time.perf_counter())
        landscape.log_partition()
        marks.append(time.perf_counter())
        few = points[:200]
        start = time.perf_counter()
        copies = torch.cat([context.expand(len(few), -1, -1), few[:, None]], 1)
        slow = network.energies(copies)[:, -1]
        naive = (time.perf_counter() - start) * len(points) / len(few)
        torch.testing.assert_close(fast[: len(few)], slow, rtol=1e-4, atol=1e-4)
        stages = [later - earlier for earlier, later in pairwise(marks)]
        total = sum(stages)
        row = [f"{seconds:.3f} s" for seconds in (*stages, total)]
        table.add_row(name, *row, f"{naive:.1f} s", f"{naive / stages[1]:.0f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
