"""Markov chains whose stationary density is exp(-E / temperature): Langevin, MALA and HMC.

All keep Langevin's convention for the temperature tau: drift alpha grad E goes with noise of variance
2 alpha tau. Conventions and shape letters are those of `chains.py`. A new sampler is one class here and one
line in `SAMPLERS`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.adaptation import DualAveraging
from iclkit.energy.border import evaluated
from iclkit.energy.chains import (
    Chains,
    Energy,
    Info,
    Sampler,
    State,
    energy_and_gradient,
    require,
    require_finite_start,
)

__all__ = ["HMC", "MALA", "PUBLISHED_START", "SAMPLERS", "Adjusted", "Chains", "Langevin", "Sampler"]

PUBLISHED_START = 15.0
"""The published chains start from the uniform distribution on the box of this half-width."""


@dataclass(frozen=True)
class Langevin(Sampler):
    """Unadjusted Langevin steps x <- x - alpha grad E + sigma xi, xi ~ N(0, I): every move is accepted.

    As alpha -> 0 the chain samples exp(-E / tau) with tau = sigma² / (2 alpha). At a finite step it is
    biased: under E = k x² / 2 its stationary variance is (tau / k) / (1 - alpha k / 2), and it diverges for
    alpha k >= 2.

    Args:
        steps: Number of steps; the state after each is kept.
        step_size: alpha, in squared units of x per unit of energy.
        temperature: tau; 1 samples exp(-E).
        noise_std: sigma, given in place of the temperature.
        max_move: Longest drift |alpha grad E| of one step, in units of x; longer ones are shortened. A
            stabiliser for training on samples of an unfinished network; where it acts, the chain samples no
            known density.
        literal: The settings are in units of x as they stand: no landscape rescales them, and chains start from
            U(-15, 15)^d unless told otherwise. So it is with the published ones.

    Raises:
        UserError: Settings out of range, or both a temperature and a noise.
    """

    step_size: float
    temperature: float = 1.0
    noise_std: float | None = None
    max_move: float | None = None
    literal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step_size > 0, f"step_size must be positive, given {self.step_size}")
        require(self.temperature >= 0, f"temperature must not be negative, given {self.temperature}")
        require(self.noise_std is None or self.noise_std >= 0, f"noise_std is negative: {self.noise_std}")
        require(self.max_move is None or self.max_move > 0, f"max_move must be positive, given {self.max_move}")
        require(
            self.noise_std is None or self.temperature == 1.0,
            f"give temperature or noise_std, not both (given {self.temperature} and {self.noise_std})",
        )

    @classmethod
    def published(cls) -> Langevin:
        """The published setting: alpha = 3.16, sigma = 0.01, 15 steps from U(-15, 15)^d, never rescaled.

        Its temperature is tau = 1.6e-5: gradient descent in effect, not a sampler of exp(-E).

        Source: Schaeffer, Khona and Koyejo (2024), equation 5; the start is from their code.
        """
        return cls(steps=15, step_size=3.16, noise_std=0.01, literal=True)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise of one step."""
        return math.sqrt(2 * self.step_size * self.temperature) if self.noise_std is None else self.noise_std

    @property
    def tau(self) -> float:
        """The temperature in effect, sigma² / (2 alpha)."""
        return self.sigma**2 / (2 * self.step_size)

    def move(
        self,
        x: Float[Tensor, "*B C d"],
        gradient: Float[Tensor, "*B C d"],
        step_size: Float[Tensor, "*B"],
        scale: Float[Tensor, "*B d d"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*B C d"]:
        """Where one step leads. Another alpha than the sampler's own keeps its temperature, not its sigma."""
        drift = step_size[..., None, None] * _apply(_apply_transposed(gradient, scale), scale)
        if self.max_move is not None:
            drift = drift * (self.max_move / drift.norm(dim=-1, keepdim=True).clamp_min(self.max_move))
        # With the sampler's own alpha the factor is exactly 1, and the noise exactly sigma.
        sigma = self.sigma * (step_size / step_size.new_tensor(self.step_size)).sqrt()
        noise = sigma[..., None, None] * _normal_like(x, generator)
        return x - drift + _apply(noise, scale)

    def step(self, energy, state, step_size, scale=None, generator=None):
        x = self.move(state.x, state.gradient, step_size, scale, generator)
        value, gradient = energy_and_gradient(energy, x)
        return State(x, value, gradient), Info(torch.ones_like(value))

    @evaluated
    def run(self, energy, start, generator=None, scale=None):
        # Without acceptance no step needs the energy it arrives at: one gradient a step, none after the last.
        # The energy of a mini-batch will do: its noise adds to the chain's own.
        x, scale = self.check(energy, start, scale, random=True)
        step_size = x.new_full(x.shape[:-2], self.step_size)
        draws = []
        for step in range(self.steps):
            value, gradient = energy_and_gradient(energy, x)
            if not step:
                require_finite_start(value)
            x = self.move(x, gradient, step_size, scale, generator)
            draws.append(x)
        require(
            bool(x.isfinite().all()),
            f"the chains ran away to infinity: a step_size of {self.step_size} is too large for this energy, "
            "whose curvature times it must stay below 2; give a smaller one, or points in larger units",
        )
        return Chains(torch.stack(draws, -3), torch.ones_like(step_size), step_size)


@dataclass(frozen=True)
class Adjusted(Sampler):
    """What the Metropolis-adjusted samplers share: exp(-E / temperature) is invariant at any step size.

    During the warm-up each context finds the step size at which its chains, on average, accept `target` of
    their moves; it is frozen before the first kept step, so that the kept chain is a Markov chain.

    Args:
        steps: Steps after the warm-up.
        warmup: Steps of the warm-up, discarded. With none, `step_size` is used as it is.
        step_size: First step size; None for one that suits a target of unit scale (in the coordinates of
            `scale`).
        temperature: tau; 1 samples exp(-E).
        thin: Keep every `thin`-th step.

    Raises:
        UserError: Settings out of range.
    """

    warmup: int = 200
    step_size: float | None = None
    temperature: float = 1.0
    thin: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warmup >= 0, f"warmup must not be negative, given {self.warmup}")
        require(
            self.step_size is None or self.step_size > 0, f"step_size must be positive, given {self.step_size}"
        )
        require(self.temperature > 0, f"temperature must be positive, given {self.temperature}")
        require(1 <= self.thin <= self.steps, f"thin must lie in 1..steps, given {self.thin}")

    @property
    @abstractmethod
    def target(self) -> float:
        """The mean acceptance at which the sampler mixes fastest on high-dimensional targets."""

    @abstractmethod
    def first_step_size(self, dim: int) -> float:
        """A step size that suits N(0, I) at this temperature."""

    @evaluated
    def run(self, energy, start, generator=None, scale=None):
        start, scale = self.check(energy, start, scale)
        state = self.init(energy, start)
        first = self.first_step_size(start.shape[-1]) if self.step_size is None else self.step_size
        step_size = start.new_full(start.shape[:-2], first)
        averaging = DualAveraging(step_size.log(), self.target)
        for _ in range(self.warmup):
            state, info = self.step(energy, state, averaging.step_size, scale, generator)
            averaging.update(info.acceptance.mean(-1))
        if self.warmup:
            step_size = averaging.final
        draws, acceptance = [], torch.zeros_like(step_size)
        for index in range(1, self.steps + 1):
            state, info = self.step(energy, state, step_size, scale, generator)
            acceptance += info.acceptance.mean(-1) / self.steps
            if index % self.thin == 0:
                draws.append(state.x)
        return Chains(torch.stack(draws, -3), acceptance, step_size)


@dataclass(frozen=True)
class MALA(Adjusted):
    """Metropolis-adjusted Langevin: a Langevin step is proposed, and accepted or refused.

    Arguments as in `Adjusted`.

    Source: Roberts and Tweedie (1996); the target acceptance is Roberts and Rosenthal's (1998) 0.574.
    """

    @property
    def target(self) -> float:
        return 0.574

    def first_step_size(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 3)

    def step(self, energy, state, step_size, scale=None, generator=None):
        alpha = step_size[..., None, None]
        xi = _normal_like(state.x, generator)
        slope = _apply_transposed(state.gradient, scale)
        x = state.x + _apply((2 * self.temperature * alpha).sqrt() * xi - alpha * slope, scale)
        proposal = State(x, *energy_and_gradient(energy, x))
        # The noise that would lead back is -xi + sqrt(alpha / 2 tau) (g + g'), g the gradients in z; both
        # proposal densities are normal in their noise, with the same constant.
        back = (alpha / (2 * self.temperature)).sqrt() * (
            slope + _apply_transposed(proposal.gradient, scale)
        ) - xi
        log_ratio = 0.5 * (xi.square() - back.square()).sum(-1)
        return _accept(
            (state.energy - proposal.energy) / self.temperature + log_ratio, proposal, state, generator
        )


@dataclass(frozen=True)
class HMC(Adjusted):
    """Hamiltonian Monte Carlo with the leapfrog integrator. Arguments as in `Adjusted`, and

    Args:
        leapfrog: Leapfrog steps of one trajectory. Each trajectory's step size is that of its context times a
            number drawn from U(0.8, 1.2), so that none of the target's periods is hit for ever.

    Source: Neal (2011), "MCMC using Hamiltonian dynamics".
    """

    leapfrog: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.leapfrog >= 1, f"leapfrog must be at least 1, given {self.leapfrog}")

    @property
    def target(self) -> float:
        return 0.8

    def first_step_size(self, dim: int) -> float:
        return 0.5 * math.sqrt(self.temperature) * dim ** (-1 / 4)

    def step(self, energy, state, step_size, scale=None, generator=None):
        momentum = _normal_like(state.x, generator)
        jitter = 0.8 + 0.4 * torch.rand(
            state.energy.shape, generator=generator, dtype=state.x.dtype, device=state.x.device
        )
        proposal, final = self.trajectory(energy, state, momentum, step_size[..., None] * jitter, scale)
        kinetic = 0.5 * (momentum.square() - final.square()).sum(-1)
        return _accept(
            (state.energy - proposal.energy) / self.temperature + kinetic, proposal, state, generator
        )

    def trajectory(
        self,
        energy: Energy,
        state: State,
        momentum: Float[Tensor, "*B C d"],
        step_size: Float[Tensor, "*B C"],
        scale: Float[Tensor, "*B d d"] | None = None,
    ) -> tuple[State, Float[Tensor, "*B C d"]]:
        """Leapfrog steps of the Hamiltonian E(x) / tau + |p|² / 2, reversible by negating the momentum."""
        epsilon = step_size[..., None]
        for _ in range(self.leapfrog):
            momentum = momentum - epsilon / (2 * self.temperature) * _apply_transposed(state.gradient, scale)
            x = state.x + epsilon * _apply(momentum, scale)
            state = State(x, *energy_and_gradient(energy, x))
            momentum = momentum - epsilon / (2 * self.temperature) * _apply_transposed(state.gradient, scale)
        return state, momentum


SAMPLERS: dict[str, type[Sampler]] = {sampler.__name__: sampler for sampler in (Langevin, MALA, HMC)}


def _accept(
    log_ratio: Float[Tensor, "*B C"], proposal: State, state: State, generator: torch.Generator | None
) -> tuple[State, Info]:
    """The Metropolis rule; a proposal of infinite or undefined energy is refused."""
    probability = log_ratio.nan_to_num(nan=-math.inf).clamp_max(0).exp()
    uniform = torch.rand(
        probability.shape, generator=generator, dtype=probability.dtype, device=probability.device
    )
    return proposal.where(uniform < probability, state), Info(probability)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _apply(z: Float[Tensor, "*B C d"], scale: Float[Tensor, "*B d d"] | None) -> Float[Tensor, "*B C d"]:
    """A z for every point."""
    return z if scale is None else z @ scale.mT


def _apply_transposed(
    gradient: Float[Tensor, "*B C d"], scale: Float[Tensor, "*B d d"] | None
) -> Float[Tensor, "*B C d"]:
    """A' g for every point: the gradient with respect to z of x = A z."""
    return gradient if scale is None else gradient @ scale
