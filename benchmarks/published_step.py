"""The published training step: how much faster the exact two-stream evaluation makes it.

    python -m benchmarks.published_step            # N = 16 and 64, two threads
    python -m benchmarks.published_step --threads 1 --points 16

Prints, for each N, the time of a step, its ratio to the literal implementation of the published pseudocode and
to a padded batch of the same copies (same weights, data and draws; gradients compared), and the share of the
machine's own matrix-product rate that the fast step reaches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from iclkit.energy.network import EnergyTransformer
from iclkit.energy.objectives import ContrastiveDivergence
from iclkit.energy.reference import Literal, Padded, ReferenceStep
from iclkit.tasks import Episodes, GaussianMixtures


def product_rate(repeats: int = 20) -> float:
    """Operations per second of a large float32 matrix product; the best of a few runs."""
    a, b = torch.randn(4096, 1024), torch.randn(1024, 1024)
    return max(2 * a.numel() * b.shape[1] / _seconds(lambda: a @ b) for _ in range(repeats))


def operations(network: EnergyTransformer, x: Tensor, objective: ContrastiveDivergence) -> float:
    """Operations of the matrix products that the exact step must do.

    Two for each weight of a block in a forward pass, two in the pass back to the inputs, two in the pass to the
    weights. Chains need the first two, the real points and the final candidates all three. Attention, norms and
    activations are not counted.
    """
    weights = sum(p.numel() for p in network.transformer.parameters() if p.ndim == 2)
    points = x.shape[0] * x.shape[1]
    chained = points * objective.negatives * objective.steps
    trained = points * (objective.negatives + 1)
    return weights * (4.0 * chained + 6.0 * trained)


def measure(network: EnergyTransformer, x: Tensor, repeats: int) -> list[str]:
    """One row of the table."""
    objective = ContrastiveDivergence()
    episodes = Episodes(x, None)
    work = operations(network, x, objective)

    def fast(generator: torch.Generator) -> Tensor:
        return objective(network, episodes, generator, {})[0]

    gradient = _step(network, fast)
    times, shares = [], []
    for _ in range(repeats):
        times.append(_seconds(lambda: _step(network, fast)))
        # The rate just after each step, for a machine's speed drifts.
        shares.append(work / times[-1] / product_rate(5))
    seconds = sorted(times)[repeats // 2]
    row = [str(x.shape[1]), f"{seconds:.3f} s"]
    worst = 0.0
    for reference in (Literal(), Padded()):
        start = time.perf_counter()
        other = _step(network, _loss_of(reference, network, x, objective))
        slow = time.perf_counter() - start
        worst = max(worst, float((other - gradient).norm() / other.norm()))
        row += [f"{slow:.1f} s", f"{slow / seconds:.1f}x"]
    return [*row, f"{worst:.1e}", f"{sorted(shares)[repeats // 2]:.0%}"]


def _loss_of(
    reference: ReferenceStep, network: EnergyTransformer, x: Tensor, objective: ContrastiveDivergence
) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: reference.loss(network, x, objective, generator)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _step(network: EnergyTransformer, loss: Callable[[torch.Generator], Tensor]) -> Tensor:
    """One training step up to its gradients, which it returns."""
    network.zero_grad()
    loss(torch.Generator().manual_seed(1)).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[16, 64], help="points per episode (N)")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="runs of the fast step; the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = EnergyTransformer()
    title = f"published step: 6 layers, width 128, K = 3, T = 15, {options.episodes} episodes"
    table = Table(title=f"{title}, {options.threads} threads")
    columns = ("N", "fast", "literal", "ratio", "padded", "ratio", "gradients differ", "of product rate")
    for column in columns:
        table.add_column(column, justify="right")
    for points in options.points:
        x = GaussianMixtures().sample(options.episodes, points, torch.Generator().manual_seed(0))
        table.add_row(*measure(network, x, options.repeats))
    Console().print(table)


if __name__ == "__main__":
    main()
