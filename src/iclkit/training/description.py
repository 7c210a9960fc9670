"""model.json: what the weights of a model folder are the weights of. The one place that reads and writes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iclkit.errors import UserError
from iclkit.tasks import DensityTask, RegressionTask, SequenceTask, Task
from iclkit.training import codec, files
from iclkit.training.json_files import brief
from iclkit.training.network_config import NetworkConfig
from iclkit.training.recipe import Recipe

FORMAT = 1
# What a model of each kind is, and the task distributions that it may have been trained on.
KINDS: dict[str, tuple[str, type[Task]]] = {
    "energy": ("densities", DensityTask),
    "regression": ("regression", RegressionTask),
    "sequences": ("sequences", SequenceTask),
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run ran on, as `environment.json` has it for every start of the run."""

    step: int = 0
    packages: dict[str, str] = field(default_factory=dict)
    python: str = "unknown"
    system: str = "unknown"
    processor: str = "unknown"
    processor_count: int | None = None
    threads: int = 1
    processes: int = 1
    device: str = "unknown"
    date: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Summary of a training: updates, seconds, starts of the run, and the last line of its metrics."""

    steps: int | None = None
    seconds: float | None = None
    starts: tuple[Start, ...] = ()
    last_metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of model.json, checked.

    Args:
        kind: "energy", "regression" or "sequences".
        name: Name of the model.
        network: What the weights belong to.
        task: What it was trained on; None if unknown.
        standardise: Whether data are brought into standard units.
        pads: Whether inputs may have fewer columns.
        sha256: Digest of the weights.
        training: Summary of the training.
        recipe_data: The recipe as it stands there; None of weights that were set by hand.
        where: The file, for errors.
    """

    kind: str
    name: str
    network: NetworkConfig
    task: Task | None
    standardise: bool
    pads: bool
    sha256: str
    training: Training
    recipe_data: Any
    where: str

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the training; read only when it is asked for, for a model works without."""
        if self.recipe_data is None:
            return None
        return codec.decode(Recipe, self.recipe_data, f"{self.where}: recipe")

    def to_dict(self) -> dict[str, Any]:
        """The description with every default written out, of a network, task and recipe that are known."""
        recipe = self.recipe
        return {
            "kind": self.kind,
            "name": self.name,
            "network": codec.encode(self.network),
            "task": None if self.task is None else codec.encode(self.task),
            "standardise": self.standardise,
            "pads": self.pads,
            "sha256": self.sha256,
            "recipe": None if recipe is None else recipe.to_dict(),
            "training": dataclasses.asdict(self.training),
        }


def read_description(folder: Path) -> Description:
    """Read the description in a model folder.

    Raises:
        UserError: Missing, truncated, altered, or of another version.
    """
    where = folder / "model.json"
    data = files.read_json(where)
    if data.get("format") != FORMAT:
        raise UserError(
            f"{where} has model format {brief(data.get('format'))}, this iclkit reads format {FORMAT}; "
            "use the iclkit that wrote it"
        )
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where} is of kind {brief(kind)}; this iclkit knows {', '.join(map(repr, KINDS))}")
    missing = {"name", "network", "task", "standardise", "sha256"} - data.keys()
    if missing:
        raise UserError(f"{where} lacks {', '.join(sorted(missing))}: truncated or altered; get a fresh copy")
    network = codec.decode(NetworkConfig, data["network"], f"{where}: network")
    if network.kind != kind:
        raise UserError(f"{where} is of kind {kind!r}, but its network is of kind {network.kind!r}: altered")
    task = data["task"]
    training = data.get("training", {})
    if not isinstance(training, dict):
        raise UserError(f"{where}: training must be an object, given {brief(training)}")
    found = Description(
        kind=kind,
        name=codec.decode(str, data["name"], f"{where}: name"),
        network=network,
        task=None if task is None else codec.decode(KINDS[kind][1], task, f"{where}: task"),
        standardise=codec.decode(bool, data["standardise"], f"{where}: standardise"),
        pads=codec.decode(bool, data.get("pads", False), f"{where}: pads"),
        sha256=codec.decode(str, data["sha256"], f"{where}: sha256"),
        training=read_training(training, f"{where}: training"),
        recipe_data=data.get("recipe"),
        where=str(where),
    )
    if found.task is not None:
        try:
            network.check(found.task, 2)
        except UserError as error:
            raise UserError(f"{where}: {error}: altered") from None
    return found


def read_training(data: dict[str, Any], where: str) -> Training:
    """A summary of a training from JSON data, whose unknown fields are left alone."""
    starts = data.get("starts", [])
    last = data.get("last_metrics", {})
    if not isinstance(last, dict):
        raise UserError(f"{where}.last_metrics must be an object, given {brief(last)}")
    return dataclasses.replace(
        codec.decode_known(Training, {k: v for k, v in data.items() if k in ("steps", "seconds")}, where),
        starts=read_starts(starts, f"{where}.starts"),
        last_metrics=last,
    )


def read_starts(data: Any, where: str) -> tuple[Start, ...]:
    """The starts of a run from JSON data, whose unknown fields are left alone."""
    if not isinstance(data, list) or not all(isinstance(start, dict) for start in data):
        raise UserError(f"{where} must be a list of objects, given {brief(data)}")
    return tuple(codec.decode_known(Start, start, f"{where}[{i}]") for i, start in enumerate(data))
