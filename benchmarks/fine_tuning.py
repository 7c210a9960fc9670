"""Is learning in context like fine-tuning? A network for which it is by construction, and the shipped one.

python -m benchmarks.fine_tuning                # about a minute of one thread
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console
from torch.nn import functional as F

import iclkit
from iclkit.analysis.inside.activations import untrained
from iclkit.analysis.inside.descent_case import DescentCase
from iclkit.analysis.inside.fine_tuning import compare_fine_tuning
from iclkit.analysis.inside.fine_tuning_comparison import FineTuningComparison
from iclkit.analysis.inside.fine_tuning_scores import cosine, shuffled_sim_aou
from iclkit.analysis.inside.prompted import Prompted, Prompts, fine_tune, read
from iclkit.analysis.inside.prompted_networks import PromptedRegressor
from iclkit.analysis.table import Table
from iclkit.regression import InContextRegressor

EPISODES = 512
# Of the shipped model: right is a squared error up to a tenth of the targets' mean square, 8.
TOLERANCE = 0.8


def main() -> None:
    """Print what is found of both, and how long it takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=128, help="of the shipped model (default: 128)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _constructed()
    _shipped(given.episodes)


def _constructed() -> None:
    case = DescentCase()
    network, prompts = case.network(), case.prompts(EPISODES, torch.Generator().manual_seed(0))
    rate = 0.3
    found = compare_fine_tuning(network, prompts, rate)
    before, context, after = _attended(network, prompts, rate)
    generator = torch.Generator().manual_seed(1)
    shuffled = shuffled_sim_aou(before, context, after, generator)
    factor = rate * (case.demonstrations + 1)
    rows = [
        ["Rec2FTP", str(found.rec2ftp)],
        ["queries that fine-tuning sets right", str(_learned(found))],
        ["least SimAOU", f"1 - {1 - float(found.sim_aou.values.min()):.1g}"],
        ["mean SimAOU of shuffled updates", f"{float(shuffled.mean()):+.3f}"],
        ["mean SimAOU of random updates", f"{float(found.random_sim_aou.mean):+.3f}"],
        ["least SimAM after", f"{float(found.sim_am.values.min()):.6f}"],
        ["least Kendall", f"{float(found.kendall.values.min()):.6f}"],
        ["largest |update - η (n + 1) that of the context|", f"{(after - factor * context).abs().max():.1e}"],
    ]
    title = f"context is one step of descent by construction ({EPISODES} episodes)"
    Console().print(Table(["measure", "value"], rows).rich(title))


def _shipped(episodes: int) -> None:
    learner = iclkit.load("linear", kind="regression")
    assert learner.task is not None
    network = PromptedRegressor(learner.network, TOLERANCE)
    x, y = learner.task.sample(episodes, 41, torch.Generator().manual_seed(0))
    prompts = network.prompts(x, y)
    fresh = untrained(learner.network)
    assert isinstance(fresh, InContextRegressor)
    beside = PromptedRegressor(fresh, TOLERANCE)
    found = compare_fine_tuning(network, prompts, control=(beside, beside.prompts(x, y)))
    console = Console()
    console.print(f"\nlinear, 40 demonstrations, {episodes} episodes, learning rate {found.rate:g}")
    for title, table in found.tables().items():
        console.print(table.rich(title))
    for line in (found.verdict, *found.notes):
        console.print(line)
    console.print(f"SimAOU with updates drawn from U[0, 1), by layer: {_published_baseline(network, prompts)}")
    few = min(episodes, 32)
    together = _seconds(network, prompts.part(0, few))
    alone = sum(_seconds(network, prompts.part(i, i + 1)) for i in range(4)) / 4 * few
    console.print(
        f"{few} episodes side by side: {together:.1f} s; one after another: {alone:.1f} s (from 4 of them)"
    )


def _published_baseline(network: Prompted, prompts: Prompts) -> str:
    """What random updates of the published code give: numbers with the mean 1/2."""
    generator = torch.Generator().manual_seed(1)
    before = read(network, network.moved, prompts.alone, shared=True).attended
    context = read(network, network.moved, prompts.in_context, shared=True).attended
    means = []
    for one, other in zip(before, context, strict=True):
        update = F.normalize(other, dim=-1) - F.normalize(one, dim=-1)
        means.append(float(cosine(update, torch.rand(update.shape, generator=generator)).mean()))
    return " ".join(f"{mean:+.2f}" for mean in means)


def _learned(found: FineTuningComparison) -> int:
    return int((found.right["fine-tuned"] & ~found.right["zero-shot"]).sum())


def _attended(
    network: Prompted, prompts: Prompts, rate: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention outputs of the first layer: zero-shot, in context, fine-tuned."""
    tuned = fine_tune(network, prompts, rate).weights
    return (
        read(network, network.moved, prompts.alone, shared=True).attended[0],
        read(network, network.moved, prompts.in_context, shared=True).attended[0],
        read(network, tuned, prompts.alone, shared=False).attended[0],
    )


def _seconds(network: Prompted, prompts: Prompts) -> float:
    start = time.perf_counter()
    compare_fine_tuning(network, prompts, 0.1)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
