"""Closed forms of a collapsed filter: priors of assignments, components with parameters integrated out.

Points are assigned to slots labelled in order of first appearance, so that slots 0..m-1 are occupied, slot m is
the first empty one, and no two assignments differ by a relabelling only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Density(NamedTuple):
    """Parameters of components' predictive densities, as in `MixturePredictive`."""

    means: Float[Tensor, "*batch d"]
    whiten: Tensor
    dof: Float[Tensor, "*batch"] | None


class AssignmentPrior(ABC):
    """Prior of the next point's slot given the slots of the points so far; the weights are integrated out."""

    slots: int

    @abstractmethod
    def log_assign(self, counts: Float[Tensor, "*batch k"], seen: int) -> Float[Tensor, "*batch k"]:
        """Log probability of each slot for the next point; `-inf` for slots after the first empty one.

        Args:
            counts: Points in each slot.
            seen: Their sum, the number of points so far.
        """


def _first_empty(counts: Float[Tensor, "*batch k"]) -> tuple[Tensor, Bool[Tensor, "*batch k"]]:
    """The number of occupied slots (keeping its axis), and a mask of the slot that follows them."""
    occupied = (counts > 0).sum(-1, keepdim=True)
    return occupied, torch.arange(counts.shape[-1], device=counts.device) == occupied


@dataclass(frozen=True)
class UniformWeights(AssignmentPrior):
    """Exactly `slots` components of equal weight: 1/k for an occupied slot, (k - m)/k for the first empty."""

    slots: int

    def log_assign(self, counts: Float[Tensor, "*batch k"], seen: int) -> Float[Tensor, "*batch k"]:
        occupied, first = _first_empty(counts)
        free = (self.slots - occupied).to(counts).log()
        return torch.where(counts > 0, 0.0, free.expand_as(counts).masked_fill(~first, -math.inf)) - math.log(
            self.slots
        )


@dataclass(frozen=True)
class DirichletWeights(AssignmentPrior):
    """1..`slots` components, uniformly, with symmetric Dirichlet weights; their number is summed out exactly.

    A partition of n points into m groups of sizes n_j has probability
    V_n(m) Π_j Γ(n_j + α)/Γ(α),  V_n(m) = Σ_K p(K) K!/(K - m)! Γ(Kα)/Γ(Kα + n),
    for K!/(K - m)! labellings give the same partition. The ratio of two such is the rule for the next point.

    Args:
        slots: Largest number of components.
        concentration: The Dirichlet's α, the same for every number of components.

    Source: Miller and Harrison (2018), Mixture models with a prior on the number of components, section 3.
    """

    slots: int
    concentration: float

    def log_assign(self, counts: Float[Tensor, "*batch k"], seen: int) -> Float[Tensor, "*batch k"]:
        occupied, first = _first_empty(counts)
        now, after = self._log_v(seen), self._log_v(seen + 1)
        same, new = (after[:-1] - now[:-1]).to(counts), (after[1:] - now[:-1]).to(counts)
        old_slot = same[occupied] + (counts + self.concentration).log()
        new_slot = (new[occupied] + math.log(self.concentration)).expand_as(counts)
        return torch.where(counts > 0, old_slot, new_slot.masked_fill(~first, -math.inf))

    def _log_v(self, seen: int) -> Float[Tensor, " k_plus_2"]:
        """log V_n(m) for m = 0..slots + 1; `-inf` at the last. Impossible m > n are finite but never used."""
        alpha = self.concentration
        rows = []
        for occupied in range(self.slots + 2):
            terms = [
                math.lgamma(k + 1)
                - math.lgamma(k - occupied + 1)
                + math.lgamma(k * alpha)
                - math.lgamma(k * alpha + seen)
                for k in range(max(occupied, 1), self.slots + 1)
            ]
            rows.append(torch.logsumexp(torch.tensor(terms or [-math.inf], dtype=torch.float64), 0))
        return torch.stack(rows) - math.log(self.slots)


State = TypeVar("State", bound=tuple)


class ComponentFamily(ABC, Generic[State]):
    """A component whose parameters are integrated out; what is left are sufficient statistics."""

    @abstractmethod
    def empty(self, like: Float[Tensor, "B N d"], slots: int) -> State:
        """Statistics of `slots` components without points, each tensor of shape [1, 1, slots, ...]."""

    @abstractmethod
    def density(self, state: State) -> Density:
        """The predictive density of each component."""

    @abstractmethod
    def log_density(self, state: State, x: Float[Tensor, "B d"]) -> Float[Tensor, "B S k"]:
        """Log predictive density of one point per episode under each component of each particle."""

    @abstractmethod
    def add(self, state: State, x: Float[Tensor, "B d"]) -> State:
        """Statistics of components, one per particle, after each has received the point.

        Args:
            state: Statistics without a slot axis, [B, S, ...].
        """


class Sums(NamedTuple):
    """Number and sum of a component's points."""

    counts: Float[Tensor, "*batch"]
    sums: Float[Tensor, "*batch d"]


@dataclass(frozen=True)
class KnownIsotropic(ComponentFamily[Sums]):
    """Gaussians of known variance s² I with means N(0, τ² I) integrated out.

    The predictive is N(m, (s² + v) I) with v = (1/τ² + n/s²)⁻¹ and m = v Σ x / s².

    Args:
        mean_std: Standard deviation τ of the means.
        std: Standard deviation s of the components.
    """

    mean_std: float
    std: float

    def empty(self, like: Float[Tensor, "B N d"], slots: int) -> Sums:
        return Sums(like.new_zeros(1, 1, slots), like.new_zeros(1, 1, slots, like.shape[-1]))

    def _moments(self, state: Sums) -> tuple[Tensor, Tensor]:
        variance = 1 / (self.mean_std**-2 + state.counts / self.std**2)
        return state.sums * (variance / self.std**2)[..., None], variance + self.std**2

    def density(self, state: Sums) -> Density:
        means, variance = self._moments(state)
        return Density(means, variance.rsqrt(), None)

    def log_density(self, state: Sums, x: Float[Tensor, "B d"]) -> Float[Tensor, "B S k"]:
        means, variance = self._moments(state)
        squares = (x[:, None, None] - means).square().sum(-1)
        return -0.5 * (squares / variance + x.shape[-1] * (2 * math.pi * variance).log())

    def add(self, state: Sums, x: Float[Tensor, "B d"]) -> Sums:
        return Sums(state.counts + 1, state.sums + x[:, None])


class Whitened(NamedTuple):
    """Number of a component's points, posterior mean m, and W = L⁻¹ where L Lᵀ = Ψ, the posterior scale."""

    counts: Float[Tensor, "*batch"]
    means: Float[Tensor, "*batch d"]
    whiten: Float[Tensor, "*batch d d"]


@dataclass(frozen=True)
class NormalInverseWishart(ComponentFamily[Whitened]):
    """Gaussians whose means and covariances are integrated out: Σ ~ IW(ν, Ψ), μ | Σ ~ N(0, Σ/κ).

    The predictive is Student-t with ν_n - d + 1 degrees of freedom around m_n and scale matrix
    Ψ_n (κ_n + 1) / (κ_n (ν_n - d + 1)); and Ψ_{n+1} = Ψ_n + κ_n/(κ_n + 1) (x - m_n)(x - m_n)ᵀ.

    Args:
        strength: κ, in points.
        dof: ν > d - 1.
        scale: ψ, with Ψ = ψ I.

    Source: Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 9.
    """

    strength: float
    dof: float
    scale: float

    def empty(self, like: Float[Tensor, "B N d"], slots: int) -> Whitened:
        dim = like.shape[-1]
        whiten = torch.eye(dim, dtype=like.dtype, device=like.device) / math.sqrt(self.scale)
        counts, means = like.new_zeros(1, 1, slots), like.new_zeros(1, 1, slots, dim)
        return Whitened(counts, means, whiten.expand(1, 1, slots, dim, dim))

    def _student(self, state: Whitened) -> tuple[Tensor, Tensor]:
        """Degrees of freedom of the predictive, and the square of the factor that turns W into its whitener."""
        dof = self.dof + state.counts - state.means.shape[-1] + 1
        strength = self.strength + state.counts
        return dof, dof * strength / (strength + 1)

    def density(self, state: Whitened) -> Density:
        dof, factor = self._student(state)
        return Density(state.means, state.whiten * factor.sqrt()[..., None, None], dof)

    def log_density(self, state: Whitened, x: Float[Tensor, "B d"]) -> Float[Tensor, "B S k"]:
        dim = x.shape[-1]
        dof, factor = self._student(state)
        squares = self._residual(state, x[:, None, None]).square().sum(-1)
        log_det = state.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * dim * factor.log()
        half = 0.5 * dof
        gammas = torch.lgamma(half + 0.5 * dim) - torch.lgamma(half) - 0.5 * dim * (dof * math.pi).log()
        return gammas + log_det - (half + 0.5 * dim) * torch.log1p(squares * factor / dof)

    def add(self, state: Whitened, x: Float[Tensor, "B d"]) -> Whitened:
        # Ψ + u uᵀ = L (I + v vᵀ) Lᵀ with v = W u. Whitening I + v vᵀ coordinate by coordinate, each given those
        # before it, with s_i = 1 + Σ_{j <= i} v_j²: row i of the new W is
        # (W_i - v_i/s_{i-1} Σ_{j < i} v_j W_j) sqrt(s_{i-1}/s_i).
        strength = self.strength + state.counts
        v = self._residual(state, x[:, None]) * (strength / (strength + 1)).sqrt()[..., None]
        after = 1 + v.square().cumsum(-1)
        before = after - v.square()
        weighted = v[..., None] * state.whiten
        earlier = weighted.cumsum(-2) - weighted
        whiten = (state.whiten - (v / before)[..., None] * earlier) * (before / after).sqrt()[..., None]
        means = state.means + (x[:, None] - state.means) / (strength + 1)[..., None]
        return Whitened(state.counts + 1, means, whiten)

    @staticmethod
    def _residual(state: Whitened, x: Tensor) -> Tensor:
        return (state.whiten * (x - state.means)[..., None, :]).sum(-1)
