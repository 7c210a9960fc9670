"""The recipe: a frozen description that fixes a training run completely, seed included."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from iclkit.energy.objectives import Objective
from iclkit.errors import UserError
from iclkit.regression.objectives import RegressionObjective
from iclkit.sequences.objectives import SequenceObjective
from iclkit.tasks import DensityTask, RegressionTask, SequenceTask, Task
from iclkit.training import codec
from iclkit.training.curriculum import Curriculum
from iclkit.training.json_files import parse_json
from iclkit.training.network_config import NETWORKS, EnergyConfig, NetworkConfig
from iclkit.training.recipe_bounds import check_bounds

# The tasks and objectives that go with each kind of network.
_KINDS: dict[str, tuple[type[Task], type]] = {
    "energy": (DensityTask, Objective),
    "regression": (RegressionTask, RegressionObjective),
    "sequences": (SequenceTask, SequenceObjective),
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients become steps.

    Args:
        name: "adamw"; "adam" (weight decay added to the gradient, as published); or "muon" (Muon for the weight
            matrices of the transformer's blocks, but for merged ones; AdamW for everything else).
        rate: Learning rate of Adam or AdamW.
        matrix_rate: Learning rate of Muon.
        weight_decay: Weight decay of Adam and AdamW. AdamW decays matrices alone; Adam, as published, all.
        matrix_weight_decay: Decoupled weight decay of Muon.
        betas: Averaging rates of Adam and AdamW.
        eps: Denominator constant of Adam and AdamW.
        momentum: Averaging rate of Muon.
        clip: Largest norm of the whole gradient, which is scaled down to it; None for no clipping.
    """

    name: Literal["adamw", "adam", "muon"] = "adamw"
    rate: float = 1e-3
    matrix_rate: float = 2e-2
    weight_decay: float = 0.0
    matrix_weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.95
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "adam", "muon"):
            raise UserError(f"optimizer.name must be adamw, adam or muon, given {self.name!r}")
        for name in ("rate", "matrix_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"optimizer.{name} must be positive and finite, given {getattr(self, name)}")
        for name in ("weight_decay", "matrix_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(
                    f"optimizer.{name} must be finite and not negative, given {getattr(self, name)}"
                )
        for name, values in (("betas", self.betas), ("momentum", (self.momentum,))):
            if not all(0 <= value < 1 for value in values):
                given = " and ".join(map(str, values))
                raise UserError(f"optimizer.{name} must lie in [0, 1), given {given}")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"optimizer.clip must be positive or None, given {self.clip}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The factor on all learning rates over a run; in fractions of the run, so that it rescales with `steps`.

    Args:
        warmup: Share of the run over which the factor rises linearly from 0 to 1.
        decay: Share of the run, at its end, over which the factor falls to `final`.
        shape: How it falls: "constant" (it does not), "linear" or "cosine".
        final: The factor at the end.
    """

    warmup: float = 0.02
    decay: float = 1.0
    shape: Literal["constant", "linear", "cosine"] = "linear"
    final: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and 0 <= self.final <= 1):
            raise UserError(
                "schedule.warmup, decay and final must lie in [0, 1], "
                f"given {self.warmup}, {self.decay} and {self.final}"
            )
        if self.shape not in ("constant", "linear", "cosine"):
            raise UserError(f"schedule.shape must be constant, linear or cosine, given {self.shape!r}")

    @property
    def falls(self) -> bool:
        """Whether the factor depends on how far the end is, once the warm-up is over."""
        return self.shape != "constant" and self.decay > 0 and self.final < 1

    def factor(self, step: int, steps: int) -> float:
        """The factor on the rates of update number `step` (0 is the first) of `steps`."""
        warmup = self.warmup * steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        if self.shape == "constant":
            return rise
        # Decay never starts before the warm-up has ended.
        start = max((1 - self.decay) * steps, warmup)
        progress = min(1.0, max(0.0, (step - start) / max(steps - start, 1)))
        level = 1 - progress if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return rise * (self.final + (1 - self.final) * level)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights at the end of a training run.

    Args:
        name: Name of the recipe, and of the model that it trains.
        task: What is learned from.
        objective: What is minimised.
        network: What learns.
        optimizer: How gradients become steps.
        schedule: Course of the learning rates.
        episodes: Datasets in one micro-batch, over all processes; each process draws an equal share.
        accumulate: Micro-batches whose gradients are averaged into one update.
        points: Points in each dataset (N), tokens in each sequence.
        steps: Updates of the weights.
        seed: Seed of the initial weights and of every batch.
        ema: Decay of the moving average of the weights, which is then what is exported; None for none.
        start: Shipped model, model folder or run folder whose weights the run starts from; None for fresh ones.
        standardise: Whether the trained model brings a user's data into standard units by the context's own
            moments.
        curriculum: Functions and contexts that grow over the run (regression alone); None for full size always.
        pads: Whether the trained model takes inputs with fewer columns than its network (regression alone).
        checkpoint_every: Updates between checkpoints.
        log_every: Updates between lines of `metrics.jsonl`.

    Raises:
        UserError: Numbers that make no run.
    """

    name: str
    task: Task
    objective: Objective | RegressionObjective | SequenceObjective
    network: NetworkConfig = field(default_factory=EnergyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: Schedule = field(default_factory=Schedule)
    episodes: int = 32
    accumulate: int = 1
    points: int = 32
    steps: int = 1000
    seed: int = 0
    ema: float | None = None
    start: str | None = None
    standardise: bool = False
    checkpoint_every: int = 500
    log_every: int = 20
    curriculum: Curriculum | None = None
    pads: bool = False

    def __post_init__(self) -> None:
        for name in ("episodes", "accumulate", "points", "steps", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"ema must lie strictly between 0 and 1, or be None, given {self.ema}")
        self._check_kinds()
        self.network.check(self.task, self.points)
        self.network.check_size()
        check_bounds(self)

    @property
    def kind(self) -> str:
        """What is learned: "energy" (densities), "regression" or "sequences"."""
        return self.network.kind

    def _check_kinds(self) -> None:
        """Densities and regression have tasks, networks and objectives of their own."""
        name = type(self.network).__name__
        task, objective = _KINDS[self.kind]
        if not isinstance(self.task, task):
            other = " or ".join(
                network for network, c in NETWORKS.items() if isinstance(self.task, _KINDS[c.kind][0])
            )
            raise UserError(
                f"{type(self.task).__name__} is no task for a network of kind {self.kind!r} ({name}); "
                f"give a {task.__name__}, or a network of type {other}"
            )
        if not isinstance(self.objective, objective):
            raise UserError(
                f"{type(self.objective).__name__} is no objective for a network of kind {self.kind!r} "
                f"({name}); give a {objective.__name__}"
            )
        if isinstance(self.objective, RegressionObjective):
            components = getattr(self.network, "components", 0)
            if self.objective.density != (components > 0):
                raise UserError(
                    f"{type(self.objective).__name__} needs network.components "
                    f"{'of at least 1' if self.objective.density else '= 0'}, given {components}"
                )
        elif self.curriculum is not None or self.pads:
            raise UserError("curriculum and pads are for regression alone; leave them out")
        if self.standardise and isinstance(self.task, SequenceTask):
            raise UserError("standardise is for data with units, which tokens have not; leave it out")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON data."""
        return codec.encode(self)

    def to_json(self) -> str:
        """The recipe as JSON text; `from_json` gives an equal recipe back."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @staticmethod
    def from_dict(data: Any, where: str = "recipe") -> Recipe:
        """The recipe that `to_dict` was called on; errors name `where` it stands."""
        return codec.decode(Recipe, data, where)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """The recipe that `to_json` was called on.

        Raises:
            UserError: No JSON, or no recipe.
        """
        return Recipe.from_dict(parse_json(text, "the recipe"))
