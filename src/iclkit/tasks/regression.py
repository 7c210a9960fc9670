"""What every task distribution over functions offers: inputs, a function for each episode, noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.base import Task


@runtime_checkable
class Functions(Protocol):
    """The functions behind a batch of episodes, one each, without noise."""

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]: ...


@dataclass(frozen=True)
class Pairs:
    """A batch of regression episodes.

    Args:
        x: Inputs.
        y: Targets, with their noise.
        law: The functions that the targets were read from; None where nobody knows them (a user's array).
    """

    x: Float[Tensor, "B N d"]
    y: Float[Tensor, "B N"]
    law: Functions | None


class RegressionTask(Task):
    """A distribution over functions and the inputs that they are seen at; y = f(x) + N(0, noise_std²)."""

    noise_std: float = 0.0

    @abstractmethod
    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        """Draw one function for each episode: a dataclass of tensors whose first axis is the episode."""

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """Draw the inputs of a batch of episodes; N(0, I) unless the task says otherwise."""
        return torch.randn(episodes, points, self.dim, generator=generator)

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """The inputs that a learner is asked for after each prefix: the next point itself, unless the task says
        otherwise (queries from elsewhere than the context)."""
        return x

    def draw(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Pairs:
        """Draw a batch of episodes.

        Args:
            episodes: How many (B).
            points: Pairs in each (N).
            generator: Source of randomness; the same state gives the same episodes.
            active: Coordinates of the inputs that are used, the others being 0; all if None (for a curriculum).

        Raises:
            UserError: More active coordinates than there are, or none.
        """
        if active is not None and not 1 <= active <= self.dim:
            raise UserError(f"active must lie in 1..{self.dim}, given {active}")
        x = self.inputs(episodes, points, generator)
        if active is not None and active < self.dim:
            x = torch.cat([x[..., :active], torch.zeros_like(x[..., active:])], -1)
        law = self.functions(episodes, generator)
        y = law(x)
        if self.noise_std:
            y = y + self.noise_std * torch.randn(y.shape, generator=generator)
        return Pairs(x, y, law)

    def sample(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B N d"], Float[Tensor, "B N"]]:
        """Draw a batch of datasets (x, y); arguments as in `draw`."""
        pairs = self.draw(episodes, points, generator)
        return pairs.x, pairs.y
