"""What hook points cost: where nobody listens (nothing, it is claimed), and where somebody does.

python -m benchmarks.hooks                 # two minutes of one thread
python -m benchmarks.hooks --rounds 10     # a glance; "step" is a training step without the optimiser
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

import iclkit
from iclkit.analysis.table import Table
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.networks import HookPoint
from iclkit.regression import InContextRegressor

POINTS = 41
KEPT = {"residual kept": "blocks.*.residual", "scores kept": "blocks.*.attention.scores", "all kept": "*"}


class Bare:
    """What stands where a hook point is taken out."""

    listening = False

    def __call__(self, value: Tensor) -> Tensor:
        return value


def without(network: InContextRegressor, *names: str) -> InContextRegressor:
    """A copy in which the hook points of these names (all if there are none) are no modules, and do nothing."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HookPoint) and (not names or name in names):
                delattr(parent, name)
                object.__setattr__(parent, name, Bare())
    return network


def networks() -> dict[str, InContextRegressor]:
    """The model `linear`, whose blocks are written out where nobody listens; and one run module by module."""
    learner = iclkit.load("linear")
    assert isinstance(learner, TrainedRegressor)
    same = learner.network.arguments
    found = {"linear": learner.network, "kernel": InContextRegressor(**{**same, "attention": "kernel"})}
    return {name: network.requires_grad_(True) for name, network in found.items()}


def forward(network: InContextRegressor, x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        network(x, y)


def step(network: InContextRegressor, x: Tensor, y: Tensor) -> None:
    (network(x, y)[..., 0] - y).square().mean().backward()
    network.zero_grad(set_to_none=True)


Run = Callable[[InContextRegressor, Tensor, Tensor], None]


def keeping(run: Run, pattern: str, network: InContextRegressor, x: Tensor, y: Tensor) -> None:
    """The same while somebody keeps some activations."""
    cache: list[Tensor] = []
    with network.hooks({pattern: cache.append}):
        run(network, x, y)


def ways(network: InContextRegressor, run: Run, x: Tensor, y: Tensor) -> dict[str, Callable[[], None]]:
    """What is timed; the first is what all others are compared with."""
    bare = without(network)
    found = {
        "no hooks, ms": partial(run, bare, x, y),
        "again": partial(run, copy.deepcopy(bare), x, y),
        "without scores": partial(run, without(network, "scores"), x, y),
        "all": partial(run, network, x, y),
    }
    return found | {label: partial(keeping, run, names, network, x, y) for label, names in KEPT.items()}


def seconds(ways: list[Callable[[], None]], rounds: int) -> Tensor:
    """Of each way in each round [rounds, ways]; all take turns, so that a busy machine is so for all."""
    rows = []
    for turn in range(-2, rounds):
        row = [0.0] * len(ways)
        for place in torch.randperm(len(ways), generator=torch.Generator().manual_seed(turn + 2)).tolist():
            begin = time.perf_counter()
            ways[place]()
            row[place] = time.perf_counter() - begin
        if turn >= 0:  # the first are slower
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def table(rounds: int) -> Table:
    """Medians of the ratios to the time without hook points, with half their 95 % intervals."""
    rows, columns = [], []
    generator = torch.Generator().manual_seed(0)
    for name, network in networks().items():
        for episodes in (1, 16):
            x = torch.randn(episodes, POINTS, network.dim, generator=generator)
            for what, run in (("forward", forward), ("step", step)):
                timed = ways(network, run, x, x[..., 0])
                columns = list(timed)
                found = seconds(list(timed.values()), rounds)
                row = [f"{name}, {what}, {episodes}", f"{1e3 * float(found[:, 0].median()):.2f}"]
                rows.append([*row, *(median(ratio) for ratio in (found[:, 1:] / found[:, :1]).unbind(1))])
    return Table(["network, what, episodes", *columns], rows)


def median(values: Tensor) -> str:
    """A median, and half of its bootstrap interval."""
    chosen = torch.randint(len(values), (1000, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[chosen].median(1).values.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return f"{float(values.median()):.2f} ± {(high - low) / 2:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="how often everything is timed (default: 60)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    title = f"times of the network without hook points; contexts of {POINTS} points"
    Console(width=132).print(table(rounds).rich(title))


if __name__ == "__main__":
    main()
