"""The exact reference of a finite pool: its members' densities, weighted by their posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.learners.base import DensityLearner, Predictive
from iclkit.tasks import FinitePool, Mixtures
from iclkit.tasks.mixtures import CHUNK


@dataclass(frozen=True)
class PoolPredictive(Predictive):
    """Posterior-weighted mixtures of the densities of a pool's M members.

    Args:
        log_posterior: Log posterior weights, which sum to one over M.
        laws: The members.
    """

    log_posterior: Float[Tensor, "B P M"]
    laws: Mixtures

    def log_prob(self, candidates: Float[Tensor, "B P K d"] | Any) -> Float[Tensor, "B P K"]:
        candidates = as_tensor(candidates, "candidates", allow="infinite")
        total = candidates.new_full(candidates.shape[:3], -math.inf)
        for members, scored in _scored(self.laws, candidates):
            weighted = scored + self.log_posterior[..., members].movedim(-1, 0)[..., None]
            total = torch.logaddexp(total, torch.logsumexp(weighted, 0))
        return total

    def sample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        weights = self.log_posterior.exp().flatten(0, 1)
        chosen = torch.multinomial(weights, size, replacement=True, generator=generator)
        draws = self.laws.take(chosen).sample(1, generator)
        return draws.view(*self.log_posterior.shape[:2], size, -1)


@dataclass(frozen=True)
class PoolBayes(DensityLearner):
    """Bayes' predictive for episodes from a random member of a known pool, at every prefix.

    Large pools are streamed: memory grows with members × points, not with their densities' intermediate terms.

    Args:
        pool: The pool.
    """

    pool: FinitePool

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pool.dim

    @neutral()
    def predictives(self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None) -> PoolPredictive:
        x, lengths = self._given(x, prefixes)
        joint = self._joint(x[:, : max(lengths)])
        return PoolPredictive(joint[:, lengths].log_softmax(-1), self.pool.laws.to(x))

    def log_prob(self, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N"]:
        x, _ = self._given(x, None)
        return torch.logsumexp(self._joint(x), -1).diff(dim=1)

    def _joint(self, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N_plus_1 M"]:
        """log p(member, x_1..x_n) for n = 0..N."""
        laws = self.pool.laws.to(x)
        scored = [part for _, part in _scored(laws, x)] if x.numel() else []
        each = torch.cat(scored).movedim(0, -1) if scored else x.new_zeros(*x.shape[:2], self.pool.size)
        start = x.new_zeros(len(x), 1, self.pool.size)
        return torch.cat((start, each.cumsum(1)), 1) - math.log(self.pool.size)


def _scored(laws: Mixtures, x: Float[Tensor, "*points d"]) -> Iterator[tuple[slice, Tensor]]:
    """Log densities [members, *points] of all points, a slice of members at a time."""
    size, components = laws.log_weights.shape
    flat = x.reshape(1, -1, x.shape[-1])
    step = max(1, CHUNK // max(1, flat.shape[1] * components))
    for start in range(0, size, step):
        members = slice(start, min(start + step, size))
        part = Mixtures(laws.log_weights[members], laws.means[members], laws.scale_tril[members])
        scored = part.log_prob(flat.expand(members.stop - start, -1, -1))
        yield members, scored.view(members.stop - start, *x.shape[:-1])
