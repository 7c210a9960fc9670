"""Model folders: a trained learner as three files that hold nothing executable.

model.safetensors   the weights
model.json          what they are the weights of: format version, kind, network, task, SHA-256 of the weights,
                    recipe and training summary
card.md             the model card, written by a command; may be missing
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError, unknown
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import DensityTask
from iclkit.training import checkpoint as checkpoints
from iclkit.training import codec, files
from iclkit.training.recipe import NetworkConfig, Recipe

FORMAT = 1
SHIPPED = Path(__file__).parent.parent / "models"


def shipped() -> dict[str, Path]:
    """The folders of the models that come with the package, by name."""
    if not SHIPPED.is_dir():
        return {}
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/model.json"))}


def load(name_or_path: str | Path) -> EnergyDensity:
    """Load a trained learner, frozen.

    Args:
        name_or_path: Name of a shipped model, a model folder, or a run folder (its last checkpoint).

    Returns:
        The learner.

    Raises:
        UserError: No such model; or one that is truncated, altered or of another version.
    """
    known = shipped()
    if isinstance(name_or_path, str) and name_or_path in known:
        return load_model(known[name_or_path])
    path = Path(name_or_path)
    if (path / "model.json").exists() or (path / "model.safetensors").exists():
        return load_model(path)
    if (path / "recipe.json").exists():
        return _load_run(path)
    if path.is_dir():
        raise UserError(f"{path} holds neither a model (model.json) nor a run (recipe.json)")
    if path.exists():
        raise UserError(f"{path} is a file; name the folder of a model or of a run")
    if isinstance(name_or_path, Path) or len(path.parts) > 1:
        raise UserError(
            f"there is no folder {path}; name a model folder, a run folder or one of {sorted(known)}"
        )
    raise unknown("model", name_or_path, known)


def load_model(folder: Path) -> EnergyDensity:
    """Load a model folder; raises as `load`."""
    where = folder / "model.json"
    data = files.read_json(where)
    if data.get("format") != FORMAT:
        raise UserError(
            f"{where} has model format {data.get('format')!r}, this iclkit reads format {FORMAT}; "
            "use the iclkit that wrote it"
        )
    if data.get("kind") != "energy":
        raise UserError(f"{where} is of kind {data.get('kind')!r}; this iclkit knows 'energy' alone")
    missing = {"name", "network", "task", "standardise", "sha256"} - data.keys()
    if missing:
        raise UserError(f"{where} lacks {', '.join(sorted(missing))}: truncated or altered; get a fresh copy")
    weights = files.read_tensors(folder / "model.safetensors", data["sha256"])
    card = folder / "card.md"
    return EnergyDensity(
        network=_assemble(codec.decode(NetworkConfig, data["network"], f"{where}: network"), weights, folder),
        task=codec.decode(DensityTask, data["task"], f"{where}: task"),
        standardise=codec.decode(bool, data["standardise"], f"{where}: standardise"),
        name=codec.decode(str, data["name"], f"{where}: name"),
        card=card.read_text(encoding="utf-8") if card.exists() else "",
    )


def save_model(
    folder: str | Path,
    recipe: Recipe,
    weights: dict[str, Tensor],
    training: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder atomically.

    Args:
        folder: Where; must not exist or be empty, unless `overwrite`.
        recipe: What the weights were trained by.
        weights: The network's named parameters.
        training: Summary of the training for the model card (steps, seconds, environment).
        name: Name of the model; the recipe's own by default.
        overwrite: Replace a model folder that is there.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds something.
    """
    folder = Path(folder)
    content = files.tensor_bytes(weights)
    data = {
        "format": FORMAT,
        "kind": "energy",
        "name": name or recipe.name,
        "network": dataclasses.asdict(recipe.network),
        "task": recipe.to_dict()["task"],
        "standardise": recipe.standardise,
        "sha256": files.digest(content),
        "recipe": recipe.to_dict(),
        "training": training or {},
    }
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        if not (overwrite and (folder / "model.json").exists()):
            raise UserError(f"{folder} already exists; name a new folder for the model")
        files.remove_folder(folder)
    files.write_folder(folder, {"model.safetensors": content, "model.json": files.json_bytes(data)})
    return folder


def export(run: str | Path, out: str | Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Make a model folder of a run's last checkpoint: the averaged weights where the recipe keeps them.

    Args:
        run: The run's folder.
        out: Folder to make.
        name: Name of the model; the recipe's own by default.
        overwrite: Replace a model folder that is there.

    Returns:
        The model folder.

    Raises:
        UserError: No run there, no checkpoint yet, or a folder that holds something.
    """
    run = Path(run)
    recipe, weights, last = _last_weights(run)
    training: dict[str, Any] = {"steps": last.step, "seconds": last.info.get("seconds")}
    if (run / "environment.json").exists():
        training["starts"] = files.read_json(run / "environment.json").get("starts", [])
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines() if metrics.exists() else []
    if lines:
        training["last_metrics"] = json.loads(lines[-1])
    return save_model(out, recipe, weights, training, name=name, overwrite=overwrite)


def _last_weights(run: Path) -> tuple[Recipe, dict[str, Tensor], checkpoints.Checkpoint]:
    if not (run / "recipe.json").exists():
        raise UserError(f"{run} holds no run (recipe.json is missing)")
    recipe = Recipe.from_dict(files.read_json(run / "recipe.json"))
    found = checkpoints.found(run)
    if not found:
        raise UserError(f"{run} has no checkpoint yet; train on with --resume")
    last = checkpoints.load(found[-1])
    kind = "average" if recipe.ema is not None else "weights"
    if kind not in last.tensors:
        raise UserError(f"{found[-1]} has no {kind}.safetensors: altered; train on with --resume")
    return recipe, last.tensors[kind], last


def _load_run(run: Path) -> EnergyDensity:
    recipe, weights, _ = _last_weights(run)
    network = _assemble(recipe.network, weights, run)
    return EnergyDensity(network=network, task=recipe.task, standardise=recipe.standardise, name=recipe.name)


def _assemble(config: NetworkConfig, weights: dict[str, Tensor], where: Path) -> EnergyTransformer:
    """The network of a configuration with the given weights, frozen."""
    # On the meta device nothing is allocated or drawn before the shapes are known to agree.
    with torch.device("meta"):
        network = EnergyTransformer(**dataclasses.asdict(config))
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise UserError(
                f"{where}: weight {name} has shape {given.get(name, 'none')}, its network needs "
                f"{expected.get(name, 'none')}; weights and description do not belong together"
            )
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()
