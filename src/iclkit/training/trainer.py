"""The training step: everything that changes from update to update, and nothing of files or screens."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from iclkit import ambient
from iclkit.errors import UserError
from iclkit.learners.regression_bayes import regression_bayes
from iclkit.regression.objectives import SquaredError
from iclkit.tasks import Episodes, Pairs, RegressionTask, Sequences
from iclkit.training import seeds
from iclkit.training.distributed import World
from iclkit.training.json_files import brief
from iclkit.training.models import load
from iclkit.training.optimizers import Optimizers
from iclkit.training.recipe import Recipe

T = TypeVar("T")


class TrainingError(UserError):
    """A run that cannot go on. Names the step, the seeds of its batches and the last good checkpoint."""


@ambient.neutral()
def draw_batch(recipe: Recipe, step: int, slot: int = 0, processes: int = 1) -> Episodes | Pairs | Sequences:
    """The data of one micro-batch, as training draws it: to look at the batch that an error names.

    Args:
        recipe: The run.
        step: Number of the update; the first is 0.
        slot: Number of the micro-batch within the step, over all processes.
        processes: How many processes share the recipe's episodes.
    """
    generator = seeds.generator(seeds.batch_seed(recipe.seed, step, slot))
    return _draw(recipe, step, recipe.episodes // processes, generator)


def _draw(recipe: Recipe, step: int, episodes: int, generator: torch.Generator) -> Episodes | Pairs | Sequences:
    task = recipe.task
    if not isinstance(task, RegressionTask):
        return task.draw(episodes, recipe.points, generator)
    active, points = None, recipe.points
    if recipe.curriculum is not None:
        active, points = recipe.curriculum.at(step, task.dim, recipe.points)
    pairs = task.draw(episodes, points, generator, active=active)
    if isinstance(recipe.objective, SquaredError) and recipe.objective.labels == "bayes":
        pairs = dataclasses.replace(pairs, best=regression_bayes(task).predict(pairs.x, pairs.y))
    return pairs


def _move(value: T, device: torch.device) -> T:
    """Move every tensor inside a dataclass (an episode batch with its law, or laws)."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # pyright: ignore[reportReturnType]
    if isinstance(value, tuple):
        return tuple(_move(member, device) for member in value)  # pyright: ignore[reportReturnType]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: _move(getattr(value, name), device) for name in fields})
    return value


def _initial(recipe: Recipe) -> nn.Module:
    """The network before the first update: fresh, or with the weights that the recipe starts from."""
    network = recipe.network.build(recipe.seed)
    if recipe.start is None:
        return network
    start = load(recipe.start, recipe.kind).network
    weights = start.state_dict()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if shapes != {name: tuple(value.shape) for name, value in weights.items()}:
        raise UserError(
            f"the network of {recipe.start} is of another shape than the recipe's; "
            "make the recipe's network the same, or start from fresh weights (start = None)"
        )
    if getattr(start, "negated", False) != getattr(network, "negated", False):
        raise UserError(
            f"the network of {recipe.start} reads its last entry with the other sign than the recipe's; set "
            f"network.negated to {start.negated}"
        )
    network.load_state_dict(weights)
    return network


def _keep_freed_memory() -> None:
    """Have the C library keep what one update frees for the next.

    By default it soon returns it, and the kernel clears every page anew: a quarter of an update of a small
    network. glibc learns otherwise by itself, up to twice the largest block that it has seen freed, if at most
    32 MiB; this frees one such block, which is never touched. Elsewhere it does nothing.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class Trainer:
    """The state of a training run, and the update that carries it one step further.

    Args:
        recipe: The run.
        world: The processes that share it; by default this one alone, on the CPU.

    Raises:
        UserError: Episodes that the processes cannot share equally.
    """

    @ambient.neutral(grad=True)
    def __init__(self, recipe: Recipe, world: World | None = None) -> None:
        self.recipe = recipe
        self.world = world or World(0, 1, torch.device("cpu"))
        if recipe.episodes % self.world.size:
            raise UserError(
                f"{recipe.episodes} episodes cannot be shared equally by {self.world.size} processes; "
                "make episodes a multiple of them"
            )
        self.step = 0
        _keep_freed_memory()
        self.network = _initial(recipe).to(self.world.device)
        self.optimizers = Optimizers(self.network, recipe.optimizer)
        self.average: dict[str, Tensor] | None = None
        if recipe.ema is not None:
            self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        # One state for each micro-batch of this process: a chain that persists stays in its own place.
        self.objective_states: list[dict[str, Tensor]] = [{} for _ in range(recipe.accumulate)]

    @ambient.neutral(grad=True)
    def update(self) -> dict[str, float]:
        """Do one update.

        Returns:
            "loss", "gradient_norm" (before clipping), "rate_factor" and the objective's own metrics, averaged
            over the step's micro-batches in all processes.

        Raises:
            TrainingError: The loss or the gradient is not finite; the weights are as before.
        """
        recipe, world = self.recipe, self.world
        parameters = list(self.network.parameters())
        for parameter in parameters:
            parameter.grad = None
        totals: dict[str, Tensor] = {}
        slots = []
        for micro in range(recipe.accumulate):
            slots.append(world.rank * recipe.accumulate + micro)
            metrics = self._accumulate(micro, slots[-1])
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value / recipe.accumulate
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        names = list(totals)
        values = torch.stack([totals[name] for name in names])
        world.mean_([*gradients, values])

        norm = torch.nn.utils.get_total_norm(gradients)
        # One exchange with the device for everything that the host must know.
        *numbers, size = torch.cat([values, norm[None]]).tolist()
        if not (math.isfinite(size) and all(map(math.isfinite, numbers))):
            self._stop({**dict(zip(names, numbers, strict=True)), "gradient norm": size})
        if recipe.optimizer.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, recipe.optimizer.clip, norm)
        factor = recipe.schedule.factor(self.step, recipe.steps)
        self.optimizers.step(factor)
        self._update_average(parameters)
        self.step += 1
        return {**dict(zip(names, numbers, strict=True)), "gradient_norm": size, "rate_factor": factor}

    def _accumulate(self, micro: int, slot: int) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch; return its loss and metrics."""
        recipe, device = self.recipe, self.world.device
        seed = seeds.batch_seed(recipe.seed, self.step, slot)
        generator = seeds.generator(seed)
        episodes = _draw(recipe, self.step, recipe.episodes // self.world.size, generator)
        if device.type != "cpu":
            # Tasks draw on the CPU, so that data do not depend on the device; an objective's own draws are made
            # where it computes.
            episodes = _move(episodes, device)
            generator = seeds.generator(seeds.mix(seed, "objective"), device)
        # The recipe has seen to it that network, task and objective are of one kind.
        objective: Any = recipe.objective
        loss, metrics, state = objective(self.network, episodes, generator, self.objective_states[micro])
        self.objective_states[micro] = {name: value.detach() for name, value in state.items()}
        (loss / recipe.accumulate).backward()
        return {name: value.detach().float() for name, value in {"loss": loss, **metrics}.items()}

    def _update_average(self, parameters: list[torch.nn.Parameter]) -> None:
        if self.average is not None and self.recipe.ema is not None:
            # Early on the average follows closely, so that it never holds the initial weights for long.
            decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for average, parameter in zip(self.average.values(), parameters, strict=True):
                    average.lerp_(parameter, 1 - decay)

    def _stop(self, values: dict[str, float]) -> None:
        wrong = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        slots = range(self.recipe.accumulate * self.world.size)
        drawn = ", ".join(str(seeds.batch_seed(self.recipe.seed, self.step, slot)) for slot in slots)
        raise TrainingError(f"step {self.step}: {wrong}; batch seed {drawn}")

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the moving average where the recipe asks for one."""
        return self.average if self.average is not None else dict(self.network.named_parameters())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a resumed run needs, by file. A collective call: every process must make it."""
        states = {
            f"{micro}.{name}": value
            for micro, state in enumerate(self.objective_states)
            for name, value in state.items()
        }
        files = {
            "weights": dict(self.network.named_parameters()),
            "optimizer": self.optimizers.tensors(),
            "objective": {
                f"{rank}.{name}": value
                for rank, member in enumerate(self.world.gather(states))
                for name, value in member.items()
            },
        }
        if self.average is not None:
            files["average"] = self.average
        return files  # pyright: ignore[reportReturnType]

    @ambient.neutral(grad=False)
    def load(self, step: int, files: dict[str, dict[str, Tensor]]) -> None:
        """Put back what `tensors` returned after `step` updates.

        Raises:
            UserError: Tensors that are not those of this recipe; nothing is put back then.
        """
        parameters = dict(self.network.named_parameters())
        expected = {"weights": parameters} | ({} if self.average is None else {"average": self.average})
        for kind, own in expected.items():
            _check_tensors(kind, own, files.get(kind))
        self.optimizers.check(files.get("optimizer", {}))
        states = [{} for _ in range(self.recipe.accumulate)]
        for key, value in files.get("objective", {}).items():
            rank, micro, name = _place(key, self.recipe.accumulate)
            if rank == self.world.rank:
                states[micro][name] = value.to(self.world.device)
        for kind, own in expected.items():
            for name, value in own.items():
                value.copy_(files[kind][name])
        self.optimizers.load(files.get("optimizer", {}))
        self.objective_states, self.step = states, step


def _check_tensors(kind: str, own: dict[str, Any], given: dict[str, Tensor] | None) -> None:
    """Refuse tensors whose names, shapes or types are others."""
    if given is None:
        raise UserError(f"{kind}.safetensors is missing")
    for name in sorted(own.keys() | given.keys()):
        if name not in own or name not in given:
            raise UserError(f"{kind}.safetensors {'has' if name in given else 'lacks'} {brief(name)}")
        if (own[name].shape, own[name].dtype) != (given[name].shape, given[name].dtype):
            raise UserError(
                f"{name} in {kind}.safetensors is {given[name].dtype} {list(given[name].shape)}, "
                f"its recipe needs {own[name].dtype} {list(own[name].shape)}"
            )


def _place(key: str, accumulate: int) -> tuple[int, int, str]:
    """Process, micro-batch and name of a tensor of the objective's state."""
    rank, micro, name = [*key.split(".", 2), "", ""][:3]
    if not (rank.isdecimal() and micro.isdecimal() and name and len(micro) < 9 and int(micro) < accumulate):
        raise UserError(f"objective.safetensors has {brief(key)}, which is no state of the objective")
    return int(rank), int(micro), name
