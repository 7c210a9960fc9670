"""A finite pool of linear functions: few make a learner memorise them, many make it learn their prior."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.linear import LinearFunctions
from iclkit.tasks.regression import RegressionTask, check_task, check_whole

LARGEST = 2**20
"""The most members that a pool may have."""


@dataclass(frozen=True)
class LinearPool(RegressionTask):
    """y = wᵀx + noise with x ~ N(0, I) and w a random member of a fixed pool, drawn once from N(0, I).

    The members are made from the seed when they are first needed (4 bytes a number: 32 MiB for 2²⁰ members of
    dimension 8). A pool is the beginning of every larger pool of the same seed and dimension.

    Args:
        size: Number of members (M), at most 2²⁰.
        dim: Dimension of the inputs.
        noise_std: Standard deviation of the noise (σ).
        seed: Seed of the members.

    Raises:
        UserError: A size outside of 1..2²⁰, a dimension below one, or a negative standard deviation.

    Source: Raventós et al. (2023), section 2: d = 8, σ² = 0.25, 16 pairs.
    """

    size: int = 64
    dim: int = 8
    noise_std: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std)
        check_whole(1, LARGEST, size=self.size)
        check_whole(0, seed=self.seed)

    @cached_property
    def _members(self) -> Float[Tensor, "M d"]:
        # torch draws normal numbers in groups of 16, of which an incomplete one comes out differently. So whole
        # groups are drawn: with them, a pool does begin a larger one.
        rows = -(-self.size // 16) * 16
        return torch.randn(rows, self.dim, generator=torch.Generator().manual_seed(self.seed))[: self.size]

    def weights(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "m d"]:
        """Members start..stop - 1, all by default; a view of the pool, to be read only.

        Raises:
            UserError: A range that does not lie within the pool.
        """
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise UserError(f"members must lie in 0..{self.size}, given {start} to {stop}")
        return self._members[start:stop]

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> LinearFunctions:
        return LinearFunctions(self._members[torch.randint(self.size, (episodes,), generator=generator)])
