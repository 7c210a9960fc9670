"""Annealed importance sampling: the normalising constant of exp(-E) in any dimension.

Particles start as draws from a Gaussian of known constant and follow the energies
    U_b = (1 - b) U_0 + b E,    b from 0 to 1,
by Hamiltonian Monte Carlo. Each rise of b multiplies a particle's weight by exp(U_b - U_b'), and the mean
weight at b = 1 is an unbiased estimate of Z. How far b rises is chosen per context, so that no rise strains
the weights.

Shape letters: B contexts, C particles, d coordinates.
Source: Neal (2001), "Annealed importance sampling"; the rise follows the conditional effective sample size of
Zhou, Johansen and Aston (2016), "Toward automatic model comparison".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.chains import Energy
from iclkit.energy.samplers import HMC
from iclkit.errors import UserError


@dataclass(frozen=True)
class Annealed:
    """Weighted particles at the end of the path.

    Args:
        particles: Where they are.
        log_weights: Log importance weights; their exponentials average to Z.
        evaluations: Gradients evaluated per context.
    """

    particles: Float[Tensor, "B C d"]
    log_weights: Float[Tensor, "B C"]
    evaluations: int

    @property
    def log_integral(self) -> Float[Tensor, " B"]:
        """Estimate of log Z."""
        return self.log_weights.logsumexp(-1) - math.log(self.log_weights.shape[-1])

    @property
    def error(self) -> Float[Tensor, " B"]:
        """Standard error of `log_integral`, in nats: that of the mean weight over the mean weight."""
        ratio = (self.log_weights - self.log_integral[:, None]).exp()
        return ratio.std(-1) / math.sqrt(ratio.shape[-1])

    def resample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B S d"]:
        """Particles in proportion to their weights; systematically, so that none is off by more than one."""
        cumulative = torch.softmax(self.log_weights, -1).cumsum(-1)
        first = torch.rand(
            len(cumulative), 1, generator=generator, dtype=cumulative.dtype, device=cumulative.device
        )
        wanted = (first + torch.arange(size, device=cumulative.device)) / size
        index = torch.searchsorted(cumulative, wanted).clamp_max(cumulative.shape[1] - 1)
        return self.particles.gather(1, index[..., None].expand(-1, -1, self.particles.shape[-1]))


def anneal(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    generator: torch.Generator | None = None,
    particles: int = 512,
    strain: float = 0.02,
    leapfrog: int = 4,
    max_stages: int = 500,
) -> Annealed:
    """Anneal from N(centre, A A') to exp(-E), for each of B energies at once.

    Args:
        energy: [B, C, d] -> [B, C].
        centre: Mean of the first Gaussian.
        scale: Its square root A; it should be at least as wide as exp(-E).
        generator: Source of randomness.
        particles: C. The error falls as its square root.
        strain: Share of the effective sample size that one rise may cost; smaller takes more stages.
        leapfrog: Leapfrog steps per stage.
        max_stages: A context that has not arrived by then takes the rest of the path at once (and its error
            shows it).
    """
    batch, dim = centre.shape
    noise = torch.randn(batch, particles, dim, generator=generator, dtype=centre.dtype, device=centre.device)
    x = centre[:, None] + noise @ scale.mT
    inverse = torch.linalg.inv(scale)
    constant = torch.linalg.slogdet(scale).logabsdet + 0.5 * dim * math.log(2 * math.pi)

    def first(points: Tensor) -> Tensor:
        return 0.5 * ((points - centre[:, None]) @ inverse.mT).square().sum(-1) + constant[:, None]

    sampler = HMC(steps=1, warmup=0, leapfrog=leapfrog)
    step_size = centre.new_full((batch,), sampler.first_step_size(dim))
    at = centre.new_zeros(batch)
    log_weights = centre.new_zeros(batch, particles)
    stages = 0
    while (at < 1).any():
        with torch.no_grad():
            drop = first(x) - energy(x)  # log of the weight that a rise from 0 to 1 would bring
        if not (drop < math.inf).all():
            raise UserError("the energy is undefined (NaN or -inf) at some points, so it cannot be normalised")
        rise = _rise(drop, log_weights, strain).minimum(1 - at) if stages < max_stages else 1 - at
        log_weights = log_weights + rise[:, None] * drop
        at = torch.where(rise >= 1 - at, 1.0, at + rise)
        bridge = _bridge(first, energy, at)
        state, info = sampler.step(bridge, sampler.init(bridge, x), step_size, scale, generator)
        x = state.x
        step_size = step_size * (0.5 * (info.acceptance.mean(-1) - sampler.target)).exp()
        stages += 1
    return Annealed(x, log_weights, particles * stages * (leapfrog + 1))


def _bridge(first: Energy, last: Energy, at: Float[Tensor, " B"]) -> Energy:
    """The energy on the path between two."""
    return lambda points: (1 - at[:, None]) * first(points) + at[:, None] * last(points)


def _rise(drop: Float[Tensor, "B C"], log_weights: Float[Tensor, "B C"], strain: float) -> Float[Tensor, " B"]:
    """The largest rise whose conditional effective sample size stays above (1 - strain) C, by bisection."""
    weights = torch.softmax(log_weights, -1)
    low, high = torch.zeros_like(drop[:, 0]), torch.ones_like(drop[:, 0])
    for _ in range(30):
        middle = (low + high) / 2
        step = middle[:, None] * drop
        step = (step - step.amax(-1, keepdim=True)).exp()
        share = (weights * step).sum(-1).square() / (weights * step.square()).sum(-1)
        enough = share > 1 - strain
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low.clamp_min(1e-6)
