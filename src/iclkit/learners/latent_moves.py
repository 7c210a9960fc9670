"""Metropolis-Hastings moves on the latent vectors of `BroadMixtures`, for many episodes and particles at once.

Almost all coordinates are standard normal under the prior. A proposal that keeps the prior invariant (pCN,
z' = sqrt(1 - β²) z + β ξ, or a fresh draw) is accepted by its likelihood ratio alone; only the log-Gamma
weights, which take plain steps, add their prior's ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclkit.tasks import BroadMixtures

# A move's kind decides whose step size it adapts: one component, the shared coordinates, all of them.
KINDS = 3
# Moves of one sweep: twice one component, shared, all, and the two jumps, whose sizes are fixed.
SWEEP = ("component", "shared", "component", "all", "refresh", "count")


@dataclass(frozen=True)
class LatentMoves:
    """Moves that leave prior × likelihood invariant.

    Args:
        task: The prior.
        generator: Source of randomness, on the latents' device.
    """

    task: BroadMixtures
    generator: torch.Generator

    def sweep(
        self,
        latent: Float[Tensor, "A S L"],
        log_likelihood: Callable[[Tensor], Float[Tensor, "A S"]],
        log_step: Float[Tensor, "A 3"],
    ) -> tuple[Float[Tensor, "A S L"], Float[Tensor, "A 3"]]:
        """One move of every sort.

        Args:
            latent: Particles of each episode.
            log_likelihood: Their log likelihood, up to a constant.
            log_step: Log step sizes of the kinds of moves.

        Returns:
            The moved particles, and step sizes adapted towards 30% acceptance.
        """
        current = log_likelihood(latent)
        log_step = log_step.clone()
        for move in SWEEP:
            if move == "refresh":
                proposal, log_ratio, kind = self._refresh(latent), 0.0, None
            elif move == "count":
                # Neither touches the likelihood: active components are exchangeable, so that a random one may
                # be put last; those beyond the count are dormant, follow the prior, and may be redrawn.
                latent = self._redraw_dormant(self._put_last(latent))
                proposal, inside = self._change_count(latent)
                log_ratio, kind = torch.where(inside, 0.0, -torch.inf), None
            else:
                kind = ("component", "shared", "all").index(move)
                proposal, log_ratio = self._step(latent, self._coordinates(latent, move), log_step[:, kind])
            proposed = log_likelihood(proposal)
            uniform = torch.rand(
                current.shape, generator=self.generator, dtype=latent.dtype, device=latent.device
            )
            # A proposal whose likelihood is not a number compares false: rejected.
            accept = uniform.log() < proposed - current + log_ratio
            latent = torch.where(accept[..., None], proposal, latent)
            current = torch.where(accept, proposed, current)
            if kind is not None:
                rate = accept.to(latent).mean(-1)
                log_step[:, kind] = (log_step[:, kind] + rate - 0.3).clamp(-6.0, 0.0)
        return latent, log_step

    def _count(self, latent: Float[Tensor, "A S L"]) -> Int[Tensor, "A S 1"]:
        k = self.task.max_components
        return (latent[..., :1] * k).long().clamp(0, k - 1) + 1

    def _random_active(self, latent: Float[Tensor, "A S L"]) -> Int[Tensor, "A S 1"]:
        count = self._count(latent)
        uniform = torch.rand(count.shape, generator=self.generator, dtype=latent.dtype, device=latent.device)
        return torch.minimum((uniform * count).long(), count - 1)

    def _component(self, latent: Float[Tensor, "A S L"], which: Int[Tensor, "A S 1"]) -> Int[Tensor, "A S c"]:
        return self.task.component_coordinates().to(latent.device)[which.squeeze(-1)]

    def _coordinates(self, latent: Float[Tensor, "A S L"], move: str) -> Int[Tensor, "A S c"]:
        if move == "component":
            return self._component(latent, self._random_active(latent))
        size = self.task.latent_size
        if move == "all":
            chosen = torch.arange(1, size)
        else:
            shared = torch.ones(size, dtype=torch.bool)
            shared[self.task.component_coordinates().flatten()] = False
            shared[0] = False  # the number of components has its own move
            chosen = shared.nonzero().squeeze(1)
        return chosen.to(latent.device).expand(*latent.shape[:-1], -1)

    def _normal(self, latent: Tensor, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=latent.dtype, device=latent.device)

    def _log_gamma(self, latent: Tensor, *shape: int) -> Tensor:
        alpha = torch.full(shape, self.task.concentration, dtype=latent.dtype, device=latent.device)
        draws = torch._standard_gamma(alpha, generator=self.generator)  # pyright: ignore[reportPrivateImportUsage]
        return draws.clamp_min(1e-30).log()

    def _step(
        self, latent: Float[Tensor, "A S L"], where: Int[Tensor, "A S c"], log_step: Float[Tensor, " A"]
    ) -> tuple[Float[Tensor, "A S L"], Float[Tensor, "A S"]]:
        """pCN on normal coordinates, plain steps on log-Gamma ones; and the log ratio of the latters' prior."""
        # A random size for each particle suits narrow and wide directions alike.
        spread = self._normal(latent, *latent.shape[:2], 1)
        beta = (log_step[:, None, None] + 0.7 * spread).exp().clamp_max(1.0)
        old, noise = latent.gather(-1, where), self._normal(latent, *where.shape)
        gamma = (where >= 1) & (where <= self.task.max_components)
        keep = torch.where(gamma, 1.0, (1 - beta.square()).sqrt())
        new = keep * old + beta * noise
        ratio = self.task.concentration * (new - old) - (new.exp() - old.exp())
        return latent.scatter(-1, where, new), torch.where(gamma, ratio, 0.0).sum(-1)

    def _refresh(self, latent: Float[Tensor, "A S L"]) -> Float[Tensor, "A S L"]:
        """A random active component drawn anew from the prior."""
        return self._redraw(latent, self._random_active(latent))

    def _redraw(self, latent: Float[Tensor, "A S L"], which: Int[Tensor, "A S 1"]) -> Float[Tensor, "A S L"]:
        where = self._component(latent, which)
        fresh = self._normal(latent, *where.shape)
        fresh[..., 0] = self._log_gamma(latent, *where.shape[:2])
        return latent.scatter(-1, where, fresh)

    def _put_last(self, latent: Float[Tensor, "A S L"]) -> Float[Tensor, "A S L"]:
        first = self._component(latent, self._random_active(latent))
        last = self._component(latent, self._count(latent) - 1)
        swapped = latent.scatter(-1, first, latent.gather(-1, last))
        return swapped.scatter(-1, last, latent.gather(-1, first))

    def _redraw_dormant(self, latent: Float[Tensor, "A S L"]) -> Float[Tensor, "A S L"]:
        count, k = self._count(latent), self.task.max_components
        return torch.where(count < k, self._redraw(latent, count.clamp_max(k - 1)), latent)

    def _change_count(
        self, latent: Float[Tensor, "A S L"]
    ) -> tuple[Float[Tensor, "A S L"], Bool[Tensor, "A S"]]:
        """One component more or fewer; and whether that many are allowed."""
        k = self.task.max_components
        count, proposal = self._count(latent), latent.clone()
        up = torch.rand(count.shape, generator=self.generator, device=latent.device) < 0.5
        new = torch.where(up, count + 1, count - 1)
        uniform = torch.rand(count.shape, generator=self.generator, dtype=latent.dtype, device=latent.device)
        # Off the cell's ends, lest rounding put it into the next.
        proposal[..., :1] = (new.clamp(1, k) - 1 + uniform.clamp(1e-3, 1 - 1e-3)) / k
        return proposal, ((new >= 1) & (new <= k)).squeeze(-1)
