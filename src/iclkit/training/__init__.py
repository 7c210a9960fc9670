"""From a recipe to a checkpoint, in one process or many."""

from iclkit.training.models import export
from iclkit.training.recipe import NetworkConfig, OptimizerConfig, Recipe, Schedule
from iclkit.training.recipes import RECIPES, recipe_named
from iclkit.training.run import train
from iclkit.training.trainer import Trainer, TrainingError, draw_batch

__all__ = [
    "RECIPES",
    "NetworkConfig",
    "OptimizerConfig",
    "Recipe",
    "Schedule",
    "Trainer",
    "TrainingError",
    "draw_batch",
    "export",
    "recipe_named",
    "train",
]
