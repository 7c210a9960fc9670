"""Model folders for tests: networks that were never trained, one of which is a Gaussian in closed form."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iclkit.regression.objectives import MixtureLikelihood, SquaredError
from iclkit.tasks import GaussianMixtures, LinearRegression, RegressionTask
from iclkit.training import EnergyConfig, recipe_named
from iclkit.training.models import save_model
from iclkit.training.network_config import RegressorConfig

BASE_STD = 1.7
LIMIT = 16


def save_small_model(
    folder: Path, dim: int = 2, *, name: str = "small", readout: float = 0.0, standardise: bool = True
) -> Path:
    """Write a model folder.

    Args:
        folder: Where.
        dim: Dimension of the points.
        name: Name of the model.
        readout: Scale of the last layer's random weights. At 0 the network adds nothing to its base energy, and
            the density is that of `base_log_density`.
        standardise: Whether the model whitens its data.
    """
    network = EnergyConfig(dim=dim, width=8, layers=1, heads=2, max_points=LIMIT, base_std=BASE_STD)
    recipe = dataclasses.replace(
        recipe_named("energy-tiny"),
        name=name,
        task=GaussianMixtures(dim=dim),
        network=network,
        standardise=standardise,
    )
    weights = {key: value.detach().clone() for key, value in network.build(seed=dim).named_parameters()}
    generator = torch.Generator().manual_seed(dim)
    weights["readout.weight"] = readout * torch.randn(1, 8, generator=generator)
    return save_model(folder, recipe, weights)


def base_log_density(context: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """log N(x; m, S² C): m the context's mean, C its shrunken and widened covariance, for n up to 16."""
    n, dim = context.shape
    assert n <= 16
    variance = np.cov(context.T).reshape(dim, dim)
    shrunken = ((n - 1) * variance + np.diag(np.diag(variance))) / n
    covariance = BASE_STD**2 * (1 + (dim + 2) / n * min(1, 8 / n)) * shrunken
    offset = points - context.mean(0)
    distance = np.einsum("mi,ij,mj->m", offset, np.linalg.inv(covariance), offset)
    return -0.5 * (distance + np.linalg.slogdet(covariance)[1] + dim * np.log(2 * np.pi))


# Of the stand-in for a regressor: what it says of y in standard units, whatever it is shown.
SAID = {"logits": (0.0, 1.0), "means": (-0.5, 1.5), "log_stds": (-0.5, 0.25)}


def save_small_regressor(
    folder: Path,
    dim: int = 4,
    *,
    name: str = "small",
    readout: float = 0.0,
    components: int = 2,
    task: RegressionTask | None = None,
    **changes: Any,
) -> Path:
    """Write a model folder of a regressor that says a mixture of two Gaussians, with random weights.

    Args:
        folder: Where.
        dim: Most columns that it takes.
        name: Name of the model.
        readout: Scale of the last layer's random weights. At 0 the network says `SAID`.
        components: Components of the mixture; 0 for a number.
        task: What it was trained on; linear regression if None.
        changes: Other fields of the recipe.
    """
    network = RegressorConfig(
        dim=dim,
        width=8,
        layers=2,
        heads=2,
        mlp_ratio=1,
        max_points=LIMIT,
        tokens="joined",
        components=components,
    )
    fields: dict[str, Any] = {"standardise": True, "pads": True, **changes}
    recipe = dataclasses.replace(
        recipe_named("general"),
        name=name,
        task=LinearRegression(dim=dim) if task is None else task,
        objective=MixtureLikelihood(units="context") if components else SquaredError(),
        network=network,
        points=LIMIT + 1,
        **fields,
    )
    weights = {key: value.detach().clone() for key, value in network.build(seed=dim).named_parameters()}
    generator = torch.Generator().manual_seed(dim)
    weights["readout.weight"] = readout * torch.randn(weights["readout.weight"].shape, generator=generator)
    if components:
        weights["readout.bias"] = torch.tensor([value for part in SAID.values() for value in part])
    return save_model(folder, recipe, weights)
