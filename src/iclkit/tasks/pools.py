"""A finite pool of datasets: what a network is trained on that has seen only so many of a prior's datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from iclkit.errors import UserError
from iclkit.tasks.base import DensityTask, Episodes
from iclkit.tasks.gaussian_mixtures import GaussianMixtures
from iclkit.tasks.mixtures import Mixtures


@dataclass(frozen=True)
class FinitePool(DensityTask):
    """Each episode comes from a random member of a fixed pool of laws.

    A learner can be optimal on it by memorising the pool, or nearly so by learning the prior of its members;
    its reference, the posterior over members, tells the two apart.

    Args:
        task: The task distribution that the members are drawn from.
        size: Number of members.
        seed: Seed of their draw; the pool is the same wherever it is built.

    Raises:
        UserError: A size below one, or a task whose laws are not mixtures.
    """

    task: DensityTask = field(default_factory=GaussianMixtures)
    size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size must be at least 1, given {self.size}")

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.task.dim

    @cached_property
    def laws(self) -> Mixtures:
        """The pool's members, one to a row."""
        law = self.task.draw(self.size, 1, torch.Generator().manual_seed(self.seed)).law
        if not isinstance(law, Mixtures):
            raise UserError(f"a pool needs a task whose laws are mixtures, given {type(self.task).__name__}")
        return law

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        member = torch.randint(self.size, (episodes,), generator=generator)
        law = self.laws.take(member)
        return Episodes(law.sample(points, generator), law)
