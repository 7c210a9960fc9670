"""A user's array as a task: episodes are random rows of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.arrays import as_tensor
from iclkit.errors import UserError
from iclkit.tasks.base import DensityTask, Episodes


@dataclass(frozen=True, eq=False)
class ArrayTask(DensityTask):
    """Each episode is a random sequence of distinct rows of one array; its law is unknown.

    Args:
        array: The data, one point to a row: a tensor, an array, a
            DataFrame or a list. Integers and lists become float32.

    Raises:
        UserError: An array that is not a table of finite numbers, or too short for the episodes asked for.
    """

    array: Float[Tensor, "n d"]

    def __post_init__(self) -> None:
        array = as_tensor(self.array, "array", default=torch.float32)
        if array.ndim != 2 or 0 in array.shape:
            hint = "; use array[:, None] for a single column" if array.ndim == 1 else ""
            raise UserError(f"array must have shape [points, dim], given {list(array.shape)}{hint}")
        object.__setattr__(self, "array", array)

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.array.shape[1]

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        if points > len(self.array):
            raise UserError(
                f"episodes of {points} points need as many rows, given {len(self.array)}; ask for fewer points"
            )
        # The places of the largest of n random keys are a random sequence of distinct rows.
        keys = torch.rand(episodes, len(self.array), generator=generator)
        rows = keys.topk(points, 1).indices.to(self.array.device)
        return Episodes(self.array[rows], None)
