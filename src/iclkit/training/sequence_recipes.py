"""Recipes of networks of tokens: functions that return a complete training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from iclkit.sequences import NextToken
from iclkit.tasks import Copying, RepeatedTokens
from iclkit.training.network_config import TokenConfig
from iclkit.training.recipe import OptimizerConfig, Recipe, Schedule


def induction() -> Recipe:
    """Random tokens that repeat, each sequence with a period of its own: where induction heads form.

    Attention alone, two layers of two heads. One layer cannot find what followed an earlier copy, whatever its
    width: set `--network.layers 1` to see. The published networks were trained on text; here the rate is
    constant, so that what the loss does at a step is not the schedule's doing.

    The loss on copies falls twice. Within a few dozen updates, when the heads form, to about 0.35 nats: a token
    that occurs twice in a period has several followers, which one token alone does not tell apart. Some 900
    updates later the network resolves these too. With `--task.distinct` there is one fall, below 0.01.

    Source: after Olsson et al. (2022), "In-context learning and induction heads".
    """
    return Recipe(
        name="induction",
        task=RepeatedTokens(vocabulary=32, shortest=8, longest=24),
        objective=NextToken(),
        network=TokenConfig(vocabulary=32, width=64, layers=2, heads=2, max_length=48),
        optimizer=OptimizerConfig(name="adam", rate=3e-3, clip=None),
        schedule=Schedule(warmup=0.0, shape="constant"),
        episodes=32,
        points=48,
        steps=1500,
        checkpoint_every=500,
        log_every=10,
    )


def copying() -> Recipe:
    """Random tokens, a separator, and the same tokens again: what was said once is to be said once more.

    The network and the optimiser of `induction`. After 800 updates, ten seconds of one core, the loss on copies
    is 0.08 to 0.12 nats (three seeds); of one layer, `--network.layers 1`, 2.1.
    """
    recipe = induction()
    return dataclasses.replace(
        recipe,
        name="copying",
        task=Copying(vocabulary=32, shortest=8, longest=20),
        network=dataclasses.replace(recipe.network, max_length=41),
        points=41,
        steps=800,
        checkpoint_every=400,
    )


def induction_sweep(recipe: Recipe, layers: Iterable[int], seeds: Iterable[int]) -> list[Recipe]:
    """A recipe of a network of tokens with each number of layers, from each seed.

    Args:
        recipe: What they have in common.
        layers: Numbers of layers.
        seeds: Seeds of the weights and the batches.

    Raises:
        UserError: Layers that no network has.
    """
    seeds = list(seeds)
    return [
        dataclasses.replace(
            recipe,
            name=f"{recipe.name}-layers-{count}-seed-{seed}",
            network=dataclasses.replace(recipe.network, layers=count),
            seed=seed,
        )
        for count in layers
        for seed in seeds
    ]
