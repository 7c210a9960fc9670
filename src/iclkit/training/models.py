"""Model folders: a trained learner as three files that hold nothing executable.

model.safetensors   the weights
model.json          what they are the weights of: format version, kind, network, task, SHA-256 of the weights,
                    recipe and training summary; kind is "energy", "regression" or "sequences", and task
                    and recipe are null for weights that were set by hand
card.md             the model card, written by a command; may be missing
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from iclkit import ambient, disk
from iclkit.errors import UserError, unknown
from iclkit.learners.trained import EnergyDensity
from iclkit.learners.trained_regression import TrainedRegressor, trained_regressor
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer
from iclkit.tasks import RegressionTask, SequenceTask
from iclkit.training import codec, files, run_folder
from iclkit.training.assembly import assemble, read_network
from iclkit.training.description import FORMAT, KINDS, read_description
from iclkit.training.network_config import NetworkConfig, RegressorConfig, TokenConfig
from iclkit.training.recipe import Recipe

# A card of half an hour of measuring takes 20 KB.
_LONGEST_CARD = 1 << 22
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
    # The weights must not be tensors of inference mode, of which no gradient could ever be taken.
    with ambient.neutral():
        return _load_run(folder) if _is_run(folder) else load_model(folder)


def recipe_of(name_or_path: str | Path) -> Recipe | None:
    """The recipe that trained a model, None of weights set by hand; arguments and errors as of `load`."""
    folder = _folder(name_or_path)
    return run_folder.read_recipe(folder) if _is_run(folder) else read_description(folder).recipe


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
    description = read_description(folder)
    network = description.network
    return _learner(
        network,
        read_network(network, folder / "model.safetensors", description.sha256, str(folder)),
        task=description.task,
        standardise=description.standardise,
        pads=description.pads,
        name=description.name,
        card=_card(folder / "card.md"),
    )


def _card(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        return disk.read(path, _LONGEST_CARD).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; delete it, or write it anew by: iclkit card") from None


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
    files.check_finite(weights, folder)
    content = files.tensor_bytes(weights)
    data = {"format": FORMAT, "sha256": files.digest(content), **data}
    written = {"model.safetensors": content, "model.json": files.json_bytes(data)}
    # A link is followed: the folder that it leads to is replaced, and the link stays.
    target = Path(os.path.realpath(folder))
    if not target.exists():
        files.write_folder(target, written)
        return folder
    if not target.is_dir():
        raise UserError(f"{folder} is a file; name a new folder for the model")
    inside = {path.name for path in target.iterdir() if not path.name.startswith(files.PARTIAL)}
    if inside and not (overwrite and "model.json" in inside):
        raise UserError(f"{folder} already exists; name a new folder for the model")
    others = sorted(inside - {*written, "card.md"})
    if others:
        raise UserError(
            f"{folder} holds {', '.join(others[:3])} besides a model, which would be lost; move that, or "
            "name a new folder"
        )
    files.replace_folder(target, written)
    return folder


def export(run: str | Path, out: str | Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Make a model folder of a run's last checkpoint: the averaged weights where the recipe keeps them.

    Args:
        run: The run's folder.
        out: Folder to make. Of a link, the folder that it leads to.
        name: Name of the model; the recipe's own by default.
        overwrite: Replace a model folder that is there, its card included, once the new one is on the disk.

    Returns:
        The model folder.

    Raises:
        UserError: No run there, no checkpoint yet, or a folder that holds something.
        OSError: The folder cannot be written; what was there is as it was.
    """
    with ambient.neutral():
        run = Path(run)
        recipe, weights, last = run_folder.last_weights(run)
        assemble(recipe.network, weights, str(run))
        training: dict[str, Any] = {"steps": last.step, "seconds": last.info.get("seconds")}
        starts = run_folder.read_starts(run)
        if starts:
            training["starts"] = starts
        line = run_folder.last_metrics(run, last.step)
        if line:
            training["last_metrics"] = line
        return save_model(out, recipe, weights, training, name=name, overwrite=overwrite)


def _load_run(run: Path) -> Learner:
    recipe, weights, _ = run_folder.last_weights(run)
    return _learner(
        recipe.network,
        assemble(recipe.network, weights, str(run)),
        task=recipe.task,
        standardise=recipe.standardise,
        pads=recipe.pads,
        name=recipe.name,
    )
