"""Predictive densities that are finite mixtures: of Gaussians, or of Student-t densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.learners.base import Predictive

# Densities evaluated at once: 2 MB in float32, so that the handful of passes over them stays in cache.
CHUNK = 2**19


@dataclass(frozen=True)
class MixturePredictive(Predictive):
    """One mixture of J elliptical densities for each prefix of each episode.

    Args:
        log_weights: Log mixture weights, which sum to one over J; `-inf` pads episodes with fewer components.
        means: Centres of the components.
        whiten: Inverse of each component's lower Cholesky factor of its scale matrix, or, for isotropic
            components, one over its standard deviation (no matrix axes).
        dof: Degrees of freedom of Student-t components; None for Gaussian ones.
    """

    log_weights: Float[Tensor, "B P J"]
    means: Float[Tensor, "B P J d"]
    whiten: Float[Tensor, "B P J"] | Float[Tensor, "B P J d d"]
    dof: Float[Tensor, "B P J"] | None = None

    @property
    def isotropic(self) -> bool:
        """Whether every component has one scale for all axes."""
        return self.whiten.ndim == self.log_weights.ndim

    @neutral()
    def log_prob(self, candidates: Float[Tensor, "B P K d"] | Any) -> Float[Tensor, "B P K"]:
        candidates = as_tensor(candidates, "candidates", allow="infinite")
        batch, prefixes, count, dim = candidates.shape
        if not candidates.numel():
            return candidates.new_zeros(batch, prefixes, count)
        flat = candidates.reshape(batch * prefixes, count, dim)
        constant, *parts = (
            part.reshape(batch * prefixes, *part.shape[2:])
            for part in (self._constant(), self.means, self.whiten, self.dof)
            if part is not None
        )
        components = constant.shape[-1]
        columns = max(1, min(count, CHUNK // components))
        rows = max(1, CHUNK // (components * columns))
        scored = [
            torch.cat(
                [
                    self._score(
                        flat[r : r + rows, c : c + columns],
                        constant[r : r + rows],
                        *(p[r : r + rows] for p in parts),
                    )
                    for c in range(0, count, columns)
                ],
                1,
            )
            for r in range(0, batch * prefixes, rows)
        ]
        return torch.cat(scored).view(batch, prefixes, count)

    @neutral()
    def sample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        batch, prefixes, _, dim = self.means.shape
        weights = self.log_weights.exp().flatten(0, 1)
        chosen = torch.multinomial(weights, size, replacement=True, generator=generator)
        chosen = chosen.view(batch, prefixes, size)

        def pick(values: Tensor) -> Tensor:
            index = chosen.view(*chosen.shape, *[1] * (values.ndim - 3))
            return torch.take_along_dim(values, index, 2)

        options = {"dtype": self.means.dtype, "device": self.means.device}
        noise = torch.randn(batch, prefixes, size, dim, generator=generator, **options)
        if self.dof is not None:
            # t_v = N(0, 1) / sqrt(chi²_v / v), and chi²_v / 2 is Gamma(v / 2).
            half = 0.5 * pick(self.dof)
            gamma = torch._standard_gamma(half, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
            noise = noise / (gamma / half).sqrt()[..., None]
        if self.isotropic:
            return pick(self.means) + noise / pick(self.whiten)[..., None]
        solved = torch.linalg.solve_triangular(pick(self.whiten), noise[..., None], upper=False)
        return pick(self.means) + solved.squeeze(-1)

    def _constant(self) -> Float[Tensor, "B P J"]:
        """Everything of a component's log density that does not depend on the point."""
        dim = self.means.shape[-1]
        if self.isotropic:
            log_det = dim * self.whiten.log()
        else:
            log_det = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self.dof is None:
            return self.log_weights + log_det - 0.5 * dim * math.log(2 * math.pi)
        half = 0.5 * self.dof
        gammas = torch.lgamma(half + 0.5 * dim) - torch.lgamma(half)
        return self.log_weights + log_det + gammas - 0.5 * dim * (self.dof * math.pi).log()

    def _score(
        self,
        x: Float[Tensor, "R K d"],
        constant: Float[Tensor, "R J"],
        means: Float[Tensor, "R J d"],
        whiten: Tensor,
        dof: Float[Tensor, "R J"] | None = None,
    ) -> Float[Tensor, "R K"]:
        if self.isotropic:
            # Differences first, squares after: the expanded quadratic would lose digits far from the origin.
            squares = sum((x[..., i, None] - means[:, None, :, i]).square() for i in range(x.shape[-1]))
            distance = squares * whiten.square()[:, None]
        else:
            centre = torch.einsum("rjab,rjb->raj", whiten, means)
            distance = sum(
                torch.baddbmm(-centre[:, a, None], x, whiten[:, :, a].mT).square() for a in range(x.shape[-1])
            )
        if dof is None:
            exponent = constant[:, None] - 0.5 * distance
        else:
            power = -0.5 * (dof + x.shape[-1])
            exponent = constant[:, None] + power[:, None] * torch.log1p(distance / dof[:, None])
        return torch.logsumexp(exponent, -1)


def stack_components(parts: Sequence[Tensor], fill: float) -> Tensor:
    """Stack along a new prefix axis, padding the axis of components."""
    width = max(part.shape[1] for part in parts)
    if all(part.shape[1] == width for part in parts):
        return torch.stack(list(parts), 1)
    stacked = parts[0].new_full((len(parts[0]), len(parts), width, *parts[0].shape[2:]), fill)
    if fill and stacked.ndim > 3:  # whitening matrices: pad with the identity
        stacked.copy_(torch.eye(stacked.shape[-1], dtype=stacked.dtype, device=stacked.device))
    for index, part in enumerate(parts):
        stacked[:, index, : part.shape[1]] = part
    return stacked
