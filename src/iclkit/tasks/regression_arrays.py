"""A user's table of inputs and targets as a task: episodes are random rows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.arrays import as_tensor
from iclkit.errors import UserError
from iclkit.tasks.regression import Pairs, RegressionTask, check_draw, first_coordinates


@dataclass(frozen=True, eq=False)
class PairsTask(RegressionTask):
    """Each episode is a random sequence of distinct rows of one table; its function is unknown.

    Args:
        x: The inputs, one point to a row: a tensor, an array, a DataFrame or a list.
            Integers and lists become float32.
        y: The targets, one to a row.

    Raises:
        UserError: Arrays that are not finite numbers, do not fit each other, or are too short for the episodes
            asked for; or a question for the functions.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]

    def __post_init__(self) -> None:
        x, y = (as_tensor(value, name, default=torch.float32) for value, name in ((self.x, "x"), (self.y, "y")))
        if x.ndim != 2 or 0 in x.shape:
            hint = "; use x[:, None] for a single column" if x.ndim == 1 else ""
            raise UserError(f"x must have shape [points, dim], given {list(x.shape)}{hint}")
        if y.shape != x.shape[:1]:
            hint = "; use y[:, 0] for a single column" if list(y.shape) == [len(x), 1] else ""
            raise UserError(
                f"y must have shape [{len(x)}], one target for each row of x, given {list(y.shape)}{hint}"
            )
        if x.device != y.device:
            raise UserError(f"x and y must be on one device, given {x.device} and {y.device}")
        dtype = torch.promote_types(x.dtype, y.dtype)
        object.__setattr__(self, "x", x.to(dtype))
        object.__setattr__(self, "y", y.to(dtype))

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.x.shape[1]

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> NoReturn:
        raise UserError("the function behind a table of pairs is unknown; use draw or sample")

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.draw(episodes, points, generator).x

    def draw(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Pairs:
        check_draw(self, episodes, points, generator, active)
        if points > len(self.x):
            raise UserError(
                f"episodes of {points} points need as many rows, given {len(self.x)}; ask for fewer points"
            )
        # The places of the largest of n random keys are a random sequence of distinct rows.
        keys = torch.rand(episodes, len(self.x), generator=generator)
        rows = keys.topk(points, 1).indices.to(self.x.device)
        return Pairs(first_coordinates(self.x[rows], active), self.y[rows], None)
