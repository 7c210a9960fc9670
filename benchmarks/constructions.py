"""How exact are gradient descent, GD++ and the others as weights of linear attention?

python -m benchmarks.constructions              # a few seconds of one thread
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from rich.console import Console
from torch import nn

from iclkit import compiler
from iclkit.analysis.table import Table
from iclkit.learners import GradientDescent, GradientDescentPlusPlus, OnFeatures, RegressionLearner
from iclkit.regression import InContextRegressor
from iclkit.tasks import LinearRegression

DIM, POINTS, EPISODES = 12, 45, 4
# Below 2/|x|², which is at least 2/3: the steps converge after a single pair too.
RATE = 0.6
TITLE = f"linear attention: largest difference to the learner, d = {DIM}, contexts of 0 to {POINTS} pairs"


def pairs() -> Iterator[tuple[str, InContextRegressor, RegressionLearner]]:
    """What is made by hand, and the learner that it must equal after every prefix."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        features = nn.Sequential(nn.Linear(DIM, 24), nn.GELU(), nn.Linear(24, 16)).double()
    features.requires_grad_(False)
    for steps in (1, 5, 100):
        made = compiler.gradient_descent(DIM, POINTS, steps, RATE, tied=True)
        yield f"gradient descent, {steps} steps", made, GradientDescent(steps, RATE)
    made = compiler.gradient_descent_plus_plus(DIM, POINTS, 5, RATE, 0.4)
    yield "GD++, 5 steps", made, GradientDescentPlusPlus(5, RATE, 0.4, curvature="mean")
    yield "separate tokens, 1 step", compiler.copying(DIM, POINTS, RATE), GradientDescent(1, RATE)
    made = compiler.feature_descent(features, POINTS, 5, RATE)
    yield "on features, 5 steps", made, OnFeatures(GradientDescent(5, RATE), features)


def table() -> Table:
    """The largest difference of predictions over all prefixes."""
    task = LinearRegression(dim=DIM, inputs_law="uniform", half_width=0.5)
    x, y = task.sample(EPISODES, POINTS + 1, torch.Generator().manual_seed(0))
    x, y = x.double(), y.double()
    rows = []
    for name, made, learner in pairs():
        expected = learner.predict(x, y)
        exact = float((made(x, y)[..., 0] - expected).abs().max())
        single = float((made.float()(x.float(), y.float())[..., 0] - expected).abs().max())
        rows.append([name, f"{exact:.1e}", f"{single:.1e}"])
    return Table(["construction", "float64", "float32"], rows)


def main() -> None:
    """Print them."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    Console().print(table().rich(TITLE))


if __name__ == "__main__":
    main()
