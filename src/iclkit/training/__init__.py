"""From a recipe to a checkpoint, in one process or many."""

from iclkit.training.curriculum import Curriculum
from iclkit.training.models import export, save
from iclkit.training.network_config import EnergyConfig, NetworkConfig, RegressorConfig, TokenConfig
from iclkit.training.recipe import OptimizerConfig, Recipe, Schedule
from iclkit.training.recipes import RECIPES, recipe_named
from iclkit.training.run import train
from iclkit.training.trainer import Trainer, TrainingError, draw_batch

__all__ = [
    "RECIPES",
    "Curriculum",
    "EnergyConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Recipe",
    "RegressorConfig",
    "Schedule",
    "TokenConfig",
    "Trainer",
    "TrainingError",
    "draw_batch",
    "export",
    "recipe_named",
    "save",
    "train",
]
