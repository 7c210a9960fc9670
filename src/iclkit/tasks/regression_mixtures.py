"""Mixtures of regression tasks: each episode from one of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.linear import LinearRegression, SparseLinearRegression
from iclkit.tasks.regression import Functions, RegressionTask, Setting


@dataclass(frozen=True)
class MixedFunctions:
    """The functions of several batches as those of one.

    Args:
        members: The batches.
        places: For each of them, the episodes that it is of.
    """

    members: tuple[Functions, ...]
    places: tuple[Int[Tensor, " b"], ...]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        values = x.new_empty(x.shape[:-1])
        for member, places in zip(self.members, self.places, strict=True):
            values[places] = member(x[places])
        return values


@dataclass(frozen=True)
class TaskMixture(RegressionTask):
    """Each episode from a random one of several tasks: its inputs, its function and its noise.

    Queries are the points themselves; those of the members are not asked.

    Args:
        tasks: The tasks, all of one dimension (see `Padded` for those that have fewer).
        weights: How often each is drawn, up to a common factor; equally often if None.

    Raises:
        UserError: No tasks, tasks of different dimensions, or weights that do not fit them.
    """

    tasks: tuple[RegressionTask, ...] = (LinearRegression(), SparseLinearRegression(dim=8))
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        dims = [task.dim for task in self.tasks]
        if len(set(dims)) != 1:
            given = f"those of dimensions {', '.join(map(str, dims))}" if dims else "none"
            raise UserError(f"tasks must be at least one, all of one dimension, given {given}; see Padded")
        if self.weights is not None:
            if len(self.weights) != len(dims):
                raise UserError(f"weights must be {len(dims)}, one a task, given {len(self.weights)}")
            if not all(weight > 0 and math.isfinite(weight) for weight in self.weights):
                raise UserError(f"weights must be finite and positive, given {self.weights}")

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tasks[0].dim

    @property
    def noise_std(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of all episodes together, that is, the root of the mean variance."""
        weights = self._probabilities().tolist()
        return math.sqrt(sum(w * task.noise_std**2 for w, task in zip(weights, self.tasks, strict=True)))

    def _probabilities(self) -> Float[Tensor, " k"]:
        given = [1.0] * len(self.tasks) if self.weights is None else self.weights
        weights = torch.as_tensor(given, dtype=torch.float64)
        return weights / weights.sum()

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """Of other members than `functions` would have; `setting` draws both together."""
        return self.setting(episodes, points, generator).x

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        """Of other members than `inputs` would have; `setting` draws both together."""
        return self.setting(episodes, 1, generator).law

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        drawn = torch.multinomial(self._probabilities(), episodes, replacement=True, generator=generator)
        x = torch.empty(episodes, points, self.dim)
        noise_std = torch.empty(episodes)
        members, shares = [], []
        for i, task in enumerate(self.tasks):
            places = (drawn == i).nonzero()[:, 0]
            if len(places):
                part = task.setting(len(places), points, generator, active)
                x[places], noise_std[places] = part.x, torch.as_tensor(part.noise_std)
                members.append(part.law)
                shares.append(places)
        return Setting(x, MixedFunctions(tuple(members), tuple(shares)), noise_std)
