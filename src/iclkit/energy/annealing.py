"""Annealed importance sampling: the normalising constant of exp(-E) in any dimension.

Particles start as draws from a Student density (its energy U_0, its constant known) and follow the energies
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

from iclkit.energy.chains import Energy, State, energy_and_gradient
from iclkit.energy.samplers import HMC
from iclkit.energy.student import Student
from iclkit.errors import UserError


@dataclass(frozen=True)
class Annealed:
    """Weighted particles at the end of the path, in parts whose integrals add up (one part, if it is not cut).

    Args:
        particles: Where they are.
        log_weights: Log importance weights; their exponentials average to the integral of each part.
        evaluations: Gradients evaluated per context.
    """

    particles: Float[Tensor, "*B K C d"]
    log_weights: Float[Tensor, "*B K C"]
    evaluations: int

    @property
    def log_parts(self) -> Float[Tensor, "*B K"]:
        """Log integrals of the parts."""
        return self.log_weights.logsumexp(-1) - math.log(self.log_weights.shape[-1])

    @property
    def log_integral(self) -> Float[Tensor, "*B"]:
        """Estimate of log Z."""
        return self.log_parts.logsumexp(-1)

    @property
    def error(self) -> Float[Tensor, "*B"]:
        """Standard error of `log_integral`, in nats: that of the sum of mean weights over the sum."""
        ratio = (self.log_weights - self.log_integral[..., None, None]).exp()
        return (ratio.var(-1) / ratio.shape[-1]).sum(-1).sqrt()

    def resample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B S d"]:
        """Particles in proportion to their weights; systematically, so that none is off by more than one."""
        cumulative = torch.softmax(self.log_weights.flatten(-2), -1).cumsum(-1)
        first = torch.rand(
            len(cumulative), 1, generator=generator, dtype=cumulative.dtype, device=cumulative.device
        )
        wanted = (first + torch.arange(size, device=cumulative.device)) / size
        index = torch.searchsorted(cumulative, wanted).clamp_max(cumulative.shape[1] - 1)
        points = self.particles.flatten(-3, -2)
        return points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))


def anneal(
    energy: Energy,
    start: Student,
    generator: torch.Generator | None = None,
    particles: int = 512,
    strain: float = 0.02,
    leapfrog: int = 4,
    max_stages: int = 500,
) -> Annealed:
    """Anneal from densities that can be drawn from to exp(-E), for every part of every context at once.

    Args:
        energy: [*B, K, C, d] -> [*B, K, C].
        start: The densities; each should be at least as wide as its exp(-E).
        generator: Source of randomness.
        particles: C. The error falls as its square root.
        strain: Share of the effective sample size that one rise may cost; smaller takes more stages.
        leapfrog: Leapfrog steps per stage.
        max_stages: A part that has not arrived by then takes the rest of the path at once (and its error shows
            it).
    """
    batch, dim = start.centre.shape[:-1], start.centre.shape[-1]
    x = start.draw(particles, generator)

    def first(points: Tensor) -> Tensor:
        return -start.log_prob(points)

    sampler = HMC(steps=1, warmup=0, leapfrog=leapfrog)
    step_size = start.centre.new_full(batch, sampler.first_step_size(dim))
    at = start.centre.new_zeros(batch)
    log_weights = start.centre.new_zeros(*batch, particles)
    stages = 0
    while (at < 1).any():
        with torch.no_grad():
            drop = first(x) - energy(x)  # log of the weight that a rise from 0 to 1 would bring
        if not (drop < math.inf).all():
            raise UserError("the energy is undefined (NaN or -inf) at some points, so it cannot be normalised")
        rise = _rise(drop, log_weights, strain).minimum(1 - at) if stages < max_stages else 1 - at
        rise = torch.where((drop == -math.inf).all(-1), 1 - at, rise)  # all are where there is no density
        log_weights = log_weights + (rise[..., None] * drop).masked_fill(rise[..., None] == 0, 0.0)
        at = torch.where(rise >= 1 - at, 1.0, at + rise)
        bridge = _bridge(first, energy, at)
        state, info = sampler.step(
            bridge, State(x, *energy_and_gradient(bridge, x)), step_size, start.factor, generator
        )
        x = state.x
        step_size = step_size * (0.5 * (info.acceptance.mean(-1) - sampler.target)).exp()
        stages += 1
    return Annealed(x, log_weights, batch[-1] * particles * stages * (leapfrog + 1))


def _bridge(first: Energy, last: Energy, at: Float[Tensor, "*B"]) -> Energy:
    """The energy on the path between two."""
    return lambda points: (1 - at[..., None]) * first(points) + at[..., None] * last(points)


def _rise(
    drop: Float[Tensor, "*B C"], log_weights: Float[Tensor, "*B C"], strain: float
) -> Float[Tensor, "*B"]:
    """The largest rise whose conditional effective sample size stays above (1 - strain) C, by bisection."""
    weights = torch.softmax(log_weights, -1)
    low, high = torch.zeros_like(drop[..., 0]), torch.ones_like(drop[..., 0])
    for _ in range(30):
        middle = (low + high) / 2
        step = middle[..., None] * drop
        step = (step - step.amax(-1, keepdim=True)).exp()
        share = (weights * step).sum(-1).square() / (weights * step.square()).sum(-1)
        enough = share > 1 - strain
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low.clamp_min(1e-6)
