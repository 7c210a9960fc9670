"""One training step of the in-context regressor, beside its matrix products alone and plain implementations.

    python -m benchmarks.regression_step              # one thread; about a minute
    python -m benchmarks.regression_step --repeats 30 --threads 2

The network has d = 8, 20 points, 6 layers, width 64, 4 heads, batches of 64. A step draws the batch and does
the forward pass, the loss, the backward pass and the update. Everything runs in one process by turns, the large
product too. Times are the process's own, not the clock's; a ratio is the median over the turns.

A step's products are those of the plain network over all 40 tokens of every sequence: each linear map once
forward and twice backward (the embedding's input needs no gradient), and the two products of attention, scores
and weighted values, over all 40 x 40 pairs, once forward and twice backward. Norms, softmax, activations,
additions and the update are not counted. A ratio is the step's time over the time that these products would
take at the rate of a large one (2048³, float32): that of `a @ b`, or that of oneDNN, which torch carries too.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.networks.products import linear
from iclkit.regression.objectives import SquaredError
from iclkit.tasks import LinearRegression
from iclkit.training.network_config import RegressorConfig
from iclkit.training.recipe import OptimizerConfig, Recipe
from iclkit.training.trainer import Trainer

DIM, POINTS, LAYERS, WIDTH, HEADS, EPISODES = 8, 20, 6, 64, 4, 64
TASK = LinearRegression(dim=DIM)


def operations() -> float:
    """Operations of the plain network's products in one step, as said above."""
    tokens = EPISODES * 2 * POINTS
    embedding = 2 * 2 * tokens * (DIM + 1) * WIDTH
    blocks = 3 * LAYERS * 2 * tokens * 12 * WIDTH**2
    attention = 3 * LAYERS * 2 * 2 * tokens * 2 * POINTS * WIDTH
    readout = 3 * 2 * tokens * WIDTH
    return float(embedding + blocks + attention + readout)


class PlainBlock(nn.Module):
    """A pre-norm block as one writes it down: torch's modules and its attention function."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).mT.mT.transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class GPT2Block(nn.Module):
    """A block of the GPT-2 that Garg et al. use: attention and the tanh form of GELU in separate operations."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.mlp_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        q, k, v = (part.view(*part.shape[:2], HEADS, -1).permute(0, 2, 1, 3) for part in (q, k, v))
        weights = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(v.shape[-1])
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        weights = torch.where(seen, weights, torch.finfo(x.dtype).min)
        weights = self.drop(nn.functional.softmax(weights, dim=-1))
        merged = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous().view(x.shape)
        x = x + self.drop(self.c_proj(merged))
        h = self.c_fc(self.ln_2(x))
        h = 0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * torch.pow(h, 3.0))))
        return x + self.drop(self.mlp_proj(h))


class Sequence(nn.Module):
    """Interleaved tokens x_1, y_1, ..., y_N through a stack of blocks; reads after every x."""

    def __init__(self, block: type[nn.Module], positions: bool) -> None:
        super().__init__()
        # Garg et al. pad y to the d numbers of x; here tokens have d + 1, one of them for y.
        self.inputs = DIM if positions else DIM + 1
        self.read_in, self.read_out = nn.Linear(self.inputs, WIDTH), nn.Linear(WIDTH, 1)
        self.positions = nn.Embedding(2 * POINTS, WIDTH) if positions else None
        self.blocks = nn.Sequential(*(block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        wide_y = torch.cat([torch.zeros(*y.shape, self.inputs - 1), y[..., None]], -1)
        if self.positions is not None:
            wide_y = wide_y.flip(-1)
        wide_x = F.pad(x, (0, self.inputs - DIM))
        tokens = self.read_in(torch.stack([wide_x, wide_y], 2).flatten(1, 2))
        if self.positions is not None:
            tokens = tokens + self.positions(torch.arange(tokens.shape[1]))
        return self.read_out(self.norm(self.blocks(tokens)))[:, ::2, 0]


def plain_step(network: Sequence, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        pairs = TASK.draw(EPISODES, POINTS, generator)
        loss = F.mse_loss(network(pairs.x, pairs.y), pairs.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def own_step(
    optimizer: Literal["adamw", "muon"], tokens: Literal["interleaved", "joined"]
) -> Callable[[], object]:
    recipe = Recipe(
        name="step",
        task=TASK,
        points=POINTS,
        episodes=EPISODES,
        objective=SquaredError(),
        network=RegressorConfig(
            dim=DIM, width=WIDTH, layers=LAYERS, heads=HEADS, max_points=POINTS, tokens=tokens
        ),
        optimizer=OptimizerConfig(name=optimizer),
    )
    return Trainer(recipe).update


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Processor time of one run."""
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    plain, garg = Sequence(PlainBlock, False), Sequence(GPT2Block, True)
    steps = {
        "iclkit, AdamW": own_step("adamw", "interleaved"),
        "iclkit, Muon": own_step("muon", "interleaved"),
        "iclkit, joined tokens, AdamW": own_step("adamw", "joined"),
        "iclkit, joined tokens, Muon": own_step("muon", "joined"),
        "plain (torch modules, AdamW)": plain_step(plain, torch.optim.AdamW(plain.parameters())),
        "as Garg et al. (GPT-2, Adam)": plain_step(garg, torch.optim.Adam(garg.parameters())),
    }
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rates = {"a @ b": lambda: a @ b, "oneDNN": lambda: linear(a, b)}
    times: dict[str, list[float]] = {name: [] for name in [*steps, *rates]}
    for _ in range(options.repeats):
        for name, run in {**rates, **steps}.items():
            # The first of a pair finds its data in cache.
            run()
            times[name].append(seconds(run, 2))
    work = operations()
    speeds = {name: [2 * 2048**3 / t for t in times[name]] for name in rates}
    title = ", ".join(f"{name} {median(s) / 1e9:.0f} GFLOP/s" for name, s in speeds.items())
    table = Table(title=f"{work / 1e9:.2f} GFLOP of products a step; a large one: {title}")
    for column in ("step", "median", "best", "over a @ b", "over oneDNN"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name in steps:
        ratios = [median(t * s / work for t, s in zip(times[name], speeds[r], strict=True)) for r in rates]
        row = [f"{1e3 * median(times[name]):.1f} ms", f"{1e3 * min(times[name]):.1f} ms"]
        table.add_row(name, *row, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
