"""The programs that all suites of the compiler run, with the learners that they must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iclkit.compiler import Aff, Loop, Mov, Mul, Pairs, Previous, Program, Raw, programs
from iclkit.learners import (
    Averaging,
    GradientDescent,
    NearestNeighbors,
    OnePassSGD,
    RegressionLearner,
    Ridge,
)


@dataclass(frozen=True)
class Case:
    """A program for every dimension and context length.

    Args:
        make: The program of (dim, points).
        learner: What it must equal, if there is a learner that does the same.
        choice: Whether it chooses by content, which the target "standard" lacks.
    """

    make: Callable[[int, int], Program]
    learner: RegressionLearner | None = None
    choice: bool = False


def centred_average(dim: int, points: int) -> Program:
    """Two raw operations, one of each star: (mean of y) + Σ_i (mean of (x, y))_i x_i / 2, registers reused."""
    joined = np.eye(dim)
    return Program(
        "raw",
        dim,
        points,
        [
            Raw("mean", "y", "y", "+", Pairs(), own_matrix=[[0.0]], to=()),
            Raw("product", "x", "x", "*", Pairs(), read_matrix=joined, out_matrix=np.ones((1, dim)) / 2, to=()),
            Aff("prediction", {"mean": 1, "product": 1}, 0.25),
        ],
    )


def nested_loops(dim: int, points: int) -> Program:
    """A loop within a loop, with a register that is there at first and one that dies."""
    inner = Loop(2, (Mul("twice", "w", "s", "i,->i"), Aff("w", {"twice": 0.5, "w": 0.5, "x": 0.1})))
    body = (Mov("w", "w", Previous()), inner, Aff("s", {"s": 0.9}, 0.05))
    return Program(
        "nested",
        dim,
        points,
        [Loop(3, body), Mul("wx", "w", "x", "i,i->"), Aff("prediction", {"wx": 1, "s": 1})],
        {"w": np.ones(dim), "s": 1.0},
    )


def unread_start(dim: int, points: int) -> Program:
    """A start value that is written over before anybody reads it, in rows that hold y until then."""
    return Program("unread", dim, points, [Mul("s", "y", "y", ",->"), Mov("s", "s", Pairs())], {"s": 3.0}, "s")


CASES: dict[str, Case] = {
    "averaging": Case(programs.averaging, Averaging()),
    "gradient-descent": Case(lambda d, n: programs.gradient_descent(d, n, 4, 0.3), GradientDescent(4, 0.3)),
    "ridge": Case(lambda d, n: programs.ridge(d, n, 0.5), Ridge(0.5)),
    "sgd": Case(lambda d, n: programs.sgd(d, n, 0.02), OnePassSGD(0.02)),
    "sgd-decay": Case(lambda d, n: programs.sgd(d, n, 0.02, weight_decay=0.3)),
    "sgd-one-step": Case(lambda d, n: programs.sgd(d, n, 0.02, steps=1)),
    "nearest-neighbor": Case(programs.nearest_neighbor, NearestNeighbors(1), choice=True),
    "raw": Case(centred_average),
    "nested": Case(nested_loops),
    "unread-start": Case(unread_start),
}
SMOOTH = [name for name, case in CASES.items() if not case.choice]


def episodes(dim: int, points: int, batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy linear targets of normal inputs: one point more than the longest context."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, w = normal(batch, points + 1, dim), normal(batch, dim, 1)
    return x, (x @ w)[..., 0] + 0.3 * normal(batch, points + 1)
