"""What every task distribution offers, and what those over densities do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Law(Protocol):
    """The distribution that one batch of episodes was drawn from, one law per episode."""

    def log_prob(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]: ...

    def sample(self, points: int, generator: torch.Generator | None = None) -> Float[Tensor, "B N d"]: ...


@dataclass(frozen=True)
class Episodes:
    """A batch of datasets and, where the task can evaluate it, the law that each was drawn from.

    Args:
        x: The points.
        law: The episodes' true densities; None for a task (a user's array, say) that does not know them.
    """

    x: Float[Tensor, "B N d"]
    law: Law | None


class Task(ABC):
    """A distribution over episodes. Members are frozen dataclasses, so that a recipe can name them fully."""

    @abstractmethod
    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Any:
        """Draw a batch of episodes with all that is known of them; arguments as in `sample`."""


class DensityTask(Task):
    """A distribution over datasets of points.

    `rotation_invariant` tells whether a dataset turned or reflected about the origin is as likely as it was, or
    nearly so.
    """

    dim: int
    rotation_invariant: ClassVar[bool] = False

    @abstractmethod
    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        """Draw a batch of episodes together with their laws.

        Args:
            episodes: How many datasets (B).
            points: Points in each (N).
            generator: Source of randomness; the same state gives the same episodes.
        """

    def sample(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """Draw a batch of datasets; arguments as in `draw`."""
        return self.draw(episodes, points, generator).x
