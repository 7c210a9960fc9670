"""Model folders: a trained learner as three files that hold nothing executable.

model.safetensors   the weights
model.json          what they are the weights of: format version, kind, network, task, SHA-256 of the weights,
                    recipe and training summary; kind is "energy", "regression" or "sequences", and task
                    and recipe are null for weights that were set by hand
card.md             the model card, written by a command; may be missing
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from iclkit.errors import UserError, unknown
from iclkit.learners.trained import EnergyDensity
from iclkit.learners.trained_regression import TrainedRegressor, trained_regressor
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer
from iclkit.tasks import DensityTask, RegressionTask, SequenceTask, Task
from iclkit.training import checkpoint as checkpoints
from iclkit.training import codec, files
from iclkit.training.network_config import NetworkConfig, RegressorConfig, TokenConfig
from iclkit.training.recipe import Recipe

FORMAT = 1
# What a model of each kind is, and the task distributions that it may have been trained on.
KINDS: dict[str, tuple[str, type[Task]]] = {
    "energy": ("densities", DensityTask),
    "regression": ("regression", RegressionTask),
    "sequences": ("sequences", SequenceTask),
}
Learner = EnergyDensity | TrainedRegressor | TokenPredictor
SHIPPED = Path(__file__).parent.parent / "models"


def shipped(kind: str | None = None) -> dict[str, Path]:
    """The folders of the models that come with the package, by name; of one kind alone if it is given."""
    if not SHIPPED.is_dir():
        return {}
    found = {path.parent.name: path for path in sorted(SHIPPED.glob("*/model.json"))}
    return {
        name: path.parent
        for name, path in found.items()
        if kind is None or files.read_json(path).get("kind") == kind
    }


@overload
def load(name_or_path: str | Path, kind: Literal["energy"]) -> EnergyDensity: ...
@overload
def load(name_or_path: str | Path, kind: Literal["regression"]) -> TrainedRegressor: ...
@overload
def load(name_or_path: str | Path, kind: Literal["sequences"]) -> TokenPredictor: ...
@overload
def load(name_or_path: str | Path, kind: str | None = None) -> Any: ...


def load(name_or_path: str | Path, kind: str | None = None) -> Learner:
    """Load a trained learner, frozen.

    Args:
        name_or_path: Name of a shipped model, a model folder, or a run folder (its last checkpoint).
        kind: The kind that is needed: "energy" (densities), "regression" or "sequences"; any if None.

    Returns:
        The learner: an `EnergyDensity`, a `TrainedRegressor` (with distributions if its network says them) or
        a `TokenPredictor`.

    Raises:
        UserError: No such model; one that is truncated, altered or of another version; or of another kind.
    """
    learner = _load(name_or_path)
    given = _kind(learner)
    if kind is not None and given != kind:
        known = ", ".join(shipped(kind)) or "none is shipped"
        raise UserError(
            f"{name_or_path} is a model of {KINDS[given][0]}, but one of {KINDS[kind][0]} is needed ({known})"
        )
    return learner


def _kind(learner: Learner) -> str:
    if isinstance(learner, EnergyDensity):
        return "energy"
    return "regression" if isinstance(learner, TrainedRegressor) else "sequences"


def _load(name_or_path: str | Path) -> Learner:
    folder = _folder(name_or_path)
    return _load_run(folder) if _is_run(folder) else load_model(folder)


def recipe_of(name_or_path: str | Path) -> Recipe | None:
    """The recipe that trained a model, None of weights set by hand; arguments and errors as of `load`."""
    folder = _folder(name_or_path)
    if _is_run(folder):
        return Recipe.from_dict(files.read_json(folder / "recipe.json"))
    data = files.read_json(folder / "model.json").get("recipe")
    return None if data is None else Recipe.from_dict(data)


def _is_run(folder: Path) -> bool:
    return not any((folder / name).exists() for name in ("model.json", "model.safetensors"))


def _folder(name_or_path: str | Path) -> Path:
    """The folder of a model or of a run."""
    known = shipped()
    if isinstance(name_or_path, str) and name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if not _is_run(path) or (path / "recipe.json").exists():
        return path
    if path.is_dir():
        raise UserError(f"{path} holds neither a model (model.json) nor a run (recipe.json)")
    if path.exists():
        raise UserError(f"{path} is a file; name the folder of a model or of a run")
    if isinstance(name_or_path, Path) or len(path.parts) > 1:
        raise UserError(
            f"there is no folder {path}; name a model folder, a run folder or one of {sorted(known)}"
        )
    raise unknown("model", name_or_path, known)


def load_model(folder: Path) -> Learner:
    """Load a model folder; raises as `load`."""
    where = folder / "model.json"
    data = files.read_json(where)
    if data.get("format") != FORMAT:
        raise UserError(
            f"{where} has model format {data.get('format')!r}, this iclkit reads format {FORMAT}; "
            "use the iclkit that wrote it"
        )
    kind = data.get("kind")
    if kind not in KINDS:
        raise UserError(f"{where} is of kind {kind!r}; this iclkit knows {', '.join(map(repr, KINDS))}")
    missing = {"name", "network", "task", "standardise", "sha256"} - data.keys()
    if missing:
        raise UserError(f"{where} lacks {', '.join(sorted(missing))}: truncated or altered; get a fresh copy")
    config = codec.decode(NetworkConfig, data["network"], f"{where}: network")
    if config.kind != kind:
        raise UserError(f"{where} is of kind {kind!r}, but its network is of kind {config.kind!r}: altered")
    weights = files.read_tensors(folder / "model.safetensors", data["sha256"])
    card, task = folder / "card.md", data["task"]
    return _learner(
        config,
        _assemble(config, weights, folder),
        task=None if task is None else codec.decode(KINDS[kind][1], task, f"{where}: task"),
        standardise=codec.decode(bool, data["standardise"], f"{where}: standardise"),
        pads=codec.decode(bool, data.get("pads", False), f"{where}: pads"),
        name=codec.decode(str, data["name"], f"{where}: name"),
        card=card.read_text(encoding="utf-8") if card.exists() else "",
    )


def _learner(config: NetworkConfig, network: Any, *, standardise: bool, pads: bool, **fields: Any) -> Learner:
    """The learner of a network, by its kind."""
    if config.kind == "sequences":
        return TokenPredictor(network, **fields)
    if config.kind == "energy":
        return EnergyDensity(network=network, standardise=standardise, **fields)
    return trained_regressor(network, standardise=standardise, pads=pads, **fields)


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
    data = {
        "kind": recipe.kind,
        "name": name or recipe.name,
        "network": codec.encode(recipe.network),
        "task": codec.encode(recipe.task),
        "standardise": recipe.standardise,
        "pads": recipe.pads,
        "recipe": recipe.to_dict(),
        "training": training or {},
    }
    return _write(Path(folder), data, weights, overwrite)


def save(
    network: InContextRegressor | TokenTransformer,
    folder: str | Path,
    task: RegressionTask | SequenceTask | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder of a network that no recipe trained: one whose weights were set by hand, say.

    Args:
        network: The network; its weights keep their type.
        folder: Where; must not exist or be empty, unless `overwrite`.
        task: What it is for; None for nothing in particular.
        name: Name of the model; the folder's by default.
        overwrite: Replace a model folder that is there.

    Returns:
        The folder, which `load` reads and a recipe may start from.

    Raises:
        UserError: The folder holds something, or the task is of another kind or dimension.
    """
    folder = Path(folder)
    made = TokenConfig if isinstance(network, TokenTransformer) else RegressorConfig
    config = made(**network.arguments)
    accepted = KINDS[config.kind][1]
    if task is not None and not isinstance(task, accepted):
        raise UserError(f"{type(task).__name__} is no task of this network; give a {accepted.__name__}")
    if isinstance(task, RegressionTask) and task.dim != network.dim:
        raise UserError(f"the task's inputs have dim {task.dim}, the network takes {network.dim}")
    if isinstance(task, SequenceTask):
        config.check(task, 2)
    data = {
        "kind": config.kind,
        "name": name or folder.name,
        "network": codec.encode(config),
        "task": None if task is None else codec.encode(task),
        "standardise": False,
        "pads": False,
        "recipe": None,
        "training": {},
    }
    return _write(folder, data, network.state_dict(), overwrite)


def _write(folder: Path, data: dict[str, Any], weights: dict[str, Tensor], overwrite: bool) -> Path:
    content = files.tensor_bytes(weights)
    data = {"format": FORMAT, "sha256": files.digest(content), **data}
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


def _load_run(run: Path) -> Learner:
    recipe, weights, _ = _last_weights(run)
    return _learner(
        recipe.network,
        _assemble(recipe.network, weights, run),
        task=recipe.task,
        standardise=recipe.standardise,
        pads=recipe.pads,
        name=recipe.name,
    )


def _assemble(config: NetworkConfig, weights: dict[str, Tensor], where: Path) -> nn.Module:
    """The network of a configuration with the given weights, frozen."""
    # On the meta device nothing is allocated or drawn before the shapes are known to agree.
    with torch.device("meta"):
        network = config.make()
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
