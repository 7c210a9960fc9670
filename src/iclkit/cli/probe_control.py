"""The control of `iclkit probe`: a network of the model's own shape, trained now where no context is needed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.cli import output

if TYPE_CHECKING:
    from iclkit.training import Recipe


def trained_control(model: Any, name: str) -> Any:
    """Train the control of a model.

    Args:
        model: What is probed.
        name: The name or path that it was loaded by, which leads to its recipe.

    Returns:
        A model; None for a compiled program, or weights of which nobody knows how they were trained.
    """
    from iclkit.training import train
    from iclkit.training.models import load

    recipe, made = _recipe(model, name)
    if recipe is None:
        output.note("no control is known for this model; the untrained network stands beside it alone")
        return None
    output.note(
        f"training the control, {recipe.steps} updates: a network of this shape on {made} (to keep the one of "
        f"recipe {recipe.name}: iclkit train {recipe.name} --out DIR, then --control DIR)"
    )
    with tempfile.TemporaryDirectory() as folder:
        return load(train(recipe, Path(folder) / "control"))


def _recipe(model: Any, name: str) -> tuple[Recipe | None, str]:
    """How the control is trained, and that in words."""
    from iclkit.analysis.naming import written
    from iclkit.energy import EnergyTransformer
    from iclkit.regression import InContextRegressor
    from iclkit.training import energy_recipes, regression_recipes
    from iclkit.training.models import recipe_of
    from iclkit.training.network_config import RegressorConfig

    network = model.network
    if isinstance(network, InContextRegressor) and network.arguments["layout"] is None:
        config = RegressorConfig(**network.arguments)
        return regression_recipes.control(config), "one linear function, the same in all episodes"
    if isinstance(network, EnergyTransformer) and (own := recipe_of(name)) is not None:
        objective = type(own.objective).__name__
        law = f"one law of {written(own.task)}, the same in all episodes, by {objective} as the model"
        return energy_recipes.control(own), law
    return None, ""
