"""What does one program for a whole sweep of probes save, against training them one after another?

python -m benchmarks.probes                     # three minutes of one thread
python -m benchmarks.probes --steps 400         # one: shorter trainings of the same kind
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from rich.console import Console

import iclkit
from iclkit.analysis import probe
from iclkit.analysis.inside.activations import residual_layers, streams_after
from iclkit.analysis.inside.probe_training import Schedule, train_probes, whiten
from iclkit.analysis.table import Table

PREFIXES = (4, 8, 16, 40)
TARGETS = ("moments", "least_squares")
READOUTS = ("linear", "mlp")
EPISODES, HELD_OUT = 4608, 512


def seconds(work: Callable[[], object]) -> float:
    """Processor time, which other work on the machine stretches less than the clock's."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def trainings(schedule: Schedule) -> tuple[int, float, float]:
    """Number of probes, and seconds of training them in one program and one after another.

    The activations are there already. Two probes in a row tell what one after another costs; as all streams of
    a prefix have one shape, each sixth stream stands for the others.
    """
    model = iclkit.load("linear", "regression")
    layers = residual_layers(model.network)
    assert model.task is not None
    x, y = model.task.sample(EPISODES + HELD_OUT, max(PREFIXES) + 1, torch.Generator().manual_seed(0))
    streams, seen = streams_after(model.network, layers, x, y, PREFIXES)
    whiten(streams, seen, EPISODES)
    heads = x.shape[-1]
    count, probes = len(streams), len(TARGETS) * len(READOUTS)
    # What they are to learn does not change what it costs.
    targets = torch.randn(count, probes, EPISODES + HELD_OUT, heads, generator=torch.Generator().manual_seed(1))

    def train(stream: slice, one: slice, linear: int) -> None:
        generator = torch.Generator().manual_seed(2)
        train_probes(streams[stream], seen[stream], targets[stream, one], linear, heads, generator, schedule)

    whole = slice(None)
    train(slice(0, 1), whole, 2)  # warm
    together = seconds(lambda: train(whole, whole, 2))
    sample = range(0, count, 6)
    alone = sum(
        seconds(lambda s=s, r=r: train(slice(s, s + 1), slice(r, r + 1), int(r < 2)))
        for s, r in itertools.product(sample, range(probes))
    )
    return count * probes, together, alone * count / len(sample)


def calls(schedule: Schedule) -> tuple[float, float]:
    """Seconds of one call of `probe` for the sweep, and of a call for each probe, from a twelfth of them."""
    model = iclkit.load("linear", "regression")

    def call(**chosen: object) -> float:
        settings = {"episodes": EPISODES * 8 // 9, "held_out": HELD_OUT, "schedule": schedule, **chosen}
        return seconds(lambda: probe(model, **settings))  # pyright: ignore

    together = call(prefixes=PREFIXES)
    alone = sum(
        call(prefixes=[n], layers=[5], targets=["moments"], readout=readout)
        for n, readout in itertools.product(PREFIXES, READOUTS)
    )
    return together, 12 * alone


def main() -> None:
    """Print the seconds of both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Schedule.steps, help="updates of each training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    schedule = Schedule(steps=given.steps)
    count, together, alone = trainings(schedule)
    rows = [["training alone", f"{together:.1f}", f"{alone:.1f}", f"{together / alone:.2f}"]]
    together, alone = calls(schedule)
    rows.append(["calls of analysis.probe", f"{together:.1f}", f"{alone:.1f}", f"{together / alone:.2f}"])
    title = f"{count} probes of {given.steps} updates on the model linear, processor seconds"
    columns = ["", "one program", "one after another", "share"]
    Console().print(Table(columns, rows).rich(title))


if __name__ == "__main__":
    main()
