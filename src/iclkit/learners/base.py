"""What every density learner offers: a context in, a conditional density out, at every prefix at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.arrays import as_tensor
from iclkit.errors import UserError


class Predictive(ABC):
    """The conditional densities p(· | x_<n) of P prefixes of each of B episodes."""

    @abstractmethod
    def log_prob(self, candidates: Float[Tensor, "B P K d"] | Any) -> Float[Tensor, "B P K"]:
        """Log density, in nats, of K points under each prefix of each episode.

        Args:
            candidates: Points to score, a tensor or an array; those of [b, p] are scored under prefix p of
                episode b.
        """

    @abstractmethod
    def sample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        """Independent draws from each prefix's density.

        Args:
            size: Draws for each prefix of each episode (K).
            generator: Source of randomness.
        """


class DensityLearner(ABC):
    """A map from a context to a normalised density of the next point.

    What a learner says of a prefix depends on that prefix alone, never on the points after it.
    """

    dim: int

    @abstractmethod
    def predictives(self, x: Float[Tensor, "B N d"] | Any, prefixes: Sequence[int] | None = None) -> Predictive:
        """Conditional densities after prefixes of each episode, in one batched pass.

        Args:
            x: Episodes: a tensor, or an array or lists of the same shape; N may be 0.
            prefixes: Context lengths P, each in 0..N; all of 0, 1, ..., N if None.

        Returns:
            The densities, whose prefix axis is in the order asked for.

        Raises:
            UserError: Points of another dimension, or a prefix that is not in 0..N.
        """

    def log_prob(self, x: Float[Tensor, "B N d"] | Any) -> Float[Tensor, "B N"]:
        """Log density of every point given the points before it: log p(x_n | x_<n), in nats.

        Args:
            x: Episodes: a tensor, or an array or lists of the same shape.

        Raises:
            UserError: Points of another dimension, or not finite.
        """
        x, _ = self._given(x, None)
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[:2])
        return self.predictives(x, range(x.shape[1])).log_prob(x[:, :, None]).squeeze(-1)

    def _check(self, x: Any, prefixes: Sequence[int] | None) -> list[int]:
        """The prefixes as a list, after checking both arguments of `predictives`."""
        return self._given(x, prefixes)[1]

    def _given(
        self, x: Any, prefixes: Sequence[int] | None, first: int = 0
    ) -> tuple[Float[Tensor, "B N d"], list[int]]:
        """Both arguments of `predictives`, checked: a tensor, and a list (if None, all from `first` on)."""
        if isinstance(x, Tensor) and not x.is_floating_point():
            raise UserError(f"x must be a floating point tensor, given {x.dtype}; convert it with x.float()")
        x = as_tensor(x, "x")
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise UserError(
                f"x must have shape [episodes, points, {self.dim}], given {list(x.shape)}; "
                f"add an axis for a single episode: x[None]"
            )
        points = x.shape[1]
        chosen = list(range(first, points + 1)) if prefixes is None else [int(n) for n in prefixes]
        if not chosen:
            raise UserError("prefixes must name at least one context length, given none")
        outside = [n for n in chosen if not 0 <= n <= points]
        if outside:
            raise UserError(
                f"prefixes must lie in 0..{points} for episodes of {points} points, given {outside}"
            )
        return x, chosen
