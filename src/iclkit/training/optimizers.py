"""The optimisers of a recipe, their rates and their state as named tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.networks import MergedAttention
from iclkit.training.json_files import brief
from iclkit.training.muon import Muon
from iclkit.training.recipe import OptimizerConfig

# What the state of an optimiser holds for each parameter.
_ADAM, _MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)


@dataclass(frozen=True)
class _Part:
    """One optimiser, the names of its parameters in order, and its rate before the schedule's factor."""

    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]
    rate: float


class Optimizers:
    """The optimisers of one network, stepped together.

    Args:
        network: Its parameters are updated in place.
        config: Which optimisers, and their rates.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        parameters = dict(network.named_parameters())
        # The merged matrices of linear attention are coefficients of e e', of which most stay zero: to level
        # their singular values would fill them.
        merged = {p for m in network.modules() if isinstance(m, MergedAttention) for p in m.parameters()}
        inner = {
            name
            for name, p in parameters.items()
            if p.ndim == 2 and ".blocks." in f".{name}" and p not in merged
        }
        parts: list[_Part] = []

        def add(kind: Callable[..., Any], names: list[str], rate: float, **arguments: Any) -> None:
            if names:
                made = kind([parameters[name] for name in names], lr=rate, **arguments)
                parts.append(_Part(made, tuple(names), rate))

        # fused: one kernel over all parameters, three times faster than the default on a CPU.
        adam = {"betas": config.betas, "eps": config.eps, "fused": True}
        if config.name == "adam":
            add(torch.optim.Adam, list(parameters), config.rate, weight_decay=config.weight_decay, **adam)
        else:
            if config.name == "muon":
                decay, momentum = config.matrix_weight_decay, config.momentum
                matrices = [name for name in parameters if name in inner]
                add(Muon, matrices, config.matrix_rate, momentum=momentum, weight_decay=decay)
            rest = [name for name in parameters if config.name == "adamw" or name not in inner]
            # Biases, gains and positions are not decayed: they multiply nothing that decay should keep small.
            decayed = [name for name in rest if name.endswith("weight") and parameters[name].ndim == 2]
            plain = [name for name in rest if name not in decayed]
            add(torch.optim.AdamW, decayed, config.rate, weight_decay=config.weight_decay, **adam)
            add(torch.optim.AdamW, plain, config.rate, weight_decay=0.0, **adam)
        self._parts = parts

    def step(self, factor: float) -> None:
        """Update the parameters from their gradients, at the given factor of every learning rate."""
        for part in self._parts:
            for group in part.optimizer.param_groups:
                group["lr"] = part.rate * factor
            part.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state of all optimisers; keys are "parameter name:state name"."""
        return {
            f"{name}:{key}": value
            for part in self._parts
            for name, parameter in zip(part.names, part.optimizer.param_groups[0]["params"], strict=True)
            for key, value in part.optimizer.state[parameter].items()
        }

    def check(self, tensors: dict[str, Tensor]) -> None:
        """Refuse a state that is not one of these optimisers after at least one update.

        Raises:
            UserError: What is missing, too many or of another shape.
        """
        expected: dict[str, tuple[torch.Size, torch.dtype]] = {}
        for part in self._parts:
            for name, p in zip(part.names, part.optimizer.param_groups[0]["params"], strict=True):
                for key in _MUON if isinstance(part.optimizer, Muon) else _ADAM:
                    counts = key == "step"
                    expected[f"{name}:{key}"] = (torch.Size(), torch.float32) if counts else (p.shape, p.dtype)
        given = {key: (value.shape, value.dtype) for key, value in tensors.items()}
        for key in sorted(expected.keys() | given.keys()):
            if expected.get(key) != given.get(key):
                raise UserError(f"optimizer.safetensors has no state of these optimisers: {brief(key)} differs")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, state = key.rpartition(":")
            by_name.setdefault(name, {})[state] = value
        for part in self._parts:
            for name, parameter in zip(part.names, part.optimizer.param_groups[0]["params"], strict=True):
                part.optimizer.state[parameter] = {
                    key: value.to(parameter.device, copy=True) for key, value in by_name.get(name, {}).items()
                }
