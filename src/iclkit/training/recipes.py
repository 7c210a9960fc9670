"""The registered recipes: functions that return a complete training run, by name."""

from __future__ import annotations

from collections.abc import Callable

from iclkit.errors import unknown
from iclkit.training import energy_recipes as energy
from iclkit.training import published_recipes as published
from iclkit.training import regression_recipes as regression
from iclkit.training import sequence_recipes as sequences
from iclkit.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "energy-published": energy.energy_published,
    "energy-mixtures": energy.energy_mixtures,
    "energy-2d": energy.energy_2d,
    "energy-tiny": energy.energy_tiny,
    "energy-control": energy.energy_control,
    "linear": regression.linear,
    "linear-noise-1-16": regression.linear_noise_1_16,
    "linear-noise-1-9": regression.linear_noise_1_9,
    "linear-noise-1-4": regression.linear_noise_1_4,
    "linear-noise-4-9": regression.linear_noise_4_9,
    "linear-garg": regression.linear_garg,
    "linear-control": regression.linear_control,
    "sparse": regression.sparse,
    "relu-network": regression.relu_network,
    "decision-tree": regression.decision_tree,
    "sine": regression.sine,
    "lsa": regression.lsa,
    "lsa-recurrent": regression.lsa_recurrent,
    "pool": regression.pool,
    "general": regression.general,
    "induction": sequences.induction,
    "copying": sequences.copying,
    "garg-published": published.garg_published,
    "sparse-published": published.sparse_published,
    "relu-network-published": published.relu_network_published,
    "decision-tree-published": published.decision_tree_published,
    "akyurek-published": published.akyurek_published,
    "lsa-published": published.lsa_published,
    "lsa-recurrent-published": published.lsa_recurrent_published,
    "sine-published": published.sine_published,
    "pool-published": published.pool_published,
    "pool-small-published": published.pool_small_published,
}


def recipe_named(name: str) -> Recipe:
    """The registered recipe of that name.

    Raises:
        UserError: No such recipe; says the nearest name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
