"""Train one layer of linear attention by the recipe `lsa`; how near is it to the limit of its theory?

python -m benchmarks.attention_limit            # a minute of one thread
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console

from iclkit.analysis.attention_limit import LimitDistance, distance_to_limit
from iclkit.tasks import LinearRegression
from iclkit.training import recipe_named
from iclkit.training.trainer import Trainer


def trained_distance() -> tuple[LimitDistance, float]:
    """How far the trained layer is from the limit, and the processor seconds of its training."""
    recipe = recipe_named("lsa")
    assert isinstance(recipe.task, LinearRegression)
    trainer, start = Trainer(recipe), time.process_time()
    for _ in range(recipe.steps):
        trainer.update()
    seconds = time.process_time() - start
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    return distance_to_limit(trainer.network, recipe.task, recipe.points - 1, generator=generator), seconds


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    found, seconds = trained_distance()
    Console().print(found.table().rich(f"recipe lsa, {seconds:.0f} processor seconds"))


if __name__ == "__main__":
    main()
