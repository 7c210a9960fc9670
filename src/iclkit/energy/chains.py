"""What all samplers share: the energy they are given, the state of their chains, and what they hand back.

Every sampler runs many chains under many contexts in one batch: the energy is a function from [*B, C, d] to
[*B, C], one energy function per context. A sampler is a frozen dataclass of settings; `init` and `step` are its
functional core (state in, state and information out), `run` loops over them and hands back `Chains`.

A matrix A per context (`scale`) preconditions: moves are made in coordinates z with x = A z, that is, with
noise of covariance A A' and drift A A' times the gradient.

Shape letters: B contexts (any leading axes), C chains, d coordinates, T kept draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.arrays import as_tensor, transforming
from iclkit.energy.border import Energy, check_energy, check_values, evaluating, without_gradient
from iclkit.energy.diagnostics import effective_sample_size, split_rhat
from iclkit.errors import UserError
from iclkit.threads import one_thread, small

__all__ = [
    "Chains",
    "Energy",
    "Info",
    "Sampler",
    "State",
    "energy_and_gradient",
    "require",
    "require_finite_start",
]


def energy_and_gradient(
    energy: Energy, x: Float[Tensor, "*B C d"]
) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B C d"]]:
    """Energies of points and their gradients with respect to the points alone, both detached.

    No gradient of any other tensor (a network's weights) is computed, and no `.grad` is touched.

    Raises:
        UserError: Not one energy for each point, or none that can be differentiated.
    """
    if transforming():
        return _transformed(energy, x)
    with evaluating(energy, grad=True):
        # A copy: an inference tensor becomes an ordinary one, and the caller's flags stay as they are.
        x = x.detach().clone().requires_grad_()
        with one_thread(where=small(x[..., 0].numel(), x.device)):
            value = energy(x)
            check_values(value, x)
            if not value.requires_grad:
                raise without_gradient()
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        if gradient is None:
            raise without_gradient()
    return value.detach(), gradient


def _transformed(energy: Energy, x: Float[Tensor, "*B C d"]) -> tuple[Tensor, Tensor]:
    """The same under torch.func's transforms, which know no `requires_grad_`; both can be differentiated on."""
    value, pull_back = torch.func.vjp(energy, x)[:2]
    return value, pull_back(torch.ones_like(value))[0]


@dataclass(frozen=True)
class State:
    """Where the chains are."""

    x: Float[Tensor, "*B C d"]
    energy: Float[Tensor, "*B C"]
    gradient: Float[Tensor, "*B C d"]

    def where(self, accept: Bool[Tensor, "*B C"], other: State) -> State:
        """This state where `accept` holds, the other elsewhere."""
        return State(
            torch.where(accept[..., None], self.x, other.x),
            torch.where(accept, self.energy, other.energy),
            torch.where(accept[..., None], self.gradient, other.gradient),
        )


@dataclass(frozen=True)
class Info:
    """What one step did: the probability that each chain's move was to be accepted."""

    acceptance: Float[Tensor, "*B C"]


@dataclass(frozen=True)
class Chains:
    """The kept states of the chains and how good they are.

    Args:
        draws: Kept states, oldest first.
        acceptance: Mean acceptance probability of the kept steps (1 for a sampler that accepts everything).
        step_size: Step size that the kept steps used.
    """

    draws: Float[Tensor, "*B T C d"]
    acceptance: Float[Tensor, "*B"]
    step_size: Float[Tensor, "*B"]

    @property
    def last(self) -> Float[Tensor, "*B C d"]:
        """Where the chains ended."""
        return self.draws[..., -1, :, :]

    @property
    def points(self) -> Float[Tensor, "*B TC d"]:
        """All kept draws of all chains in one axis."""
        return self.draws.flatten(-3, -2)

    @cached_property
    def ess(self) -> Float[Tensor, "*B d"]:
        """Bulk effective sample size of each coordinate; see `diagnostics`."""
        return effective_sample_size(self.draws)

    @cached_property
    def rhat(self) -> Float[Tensor, "*B d"]:
        """Rank-normalised split R-hat of each coordinate; see `diagnostics`."""
        return split_rhat(self.draws)


@dataclass(frozen=True)
class Sampler(ABC):
    """What all samplers share. Members differ in `step`.

    Args:
        steps: Steps after the warm-up.

    Raises:
        UserError: No steps.
    """

    steps: int

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be at least 1, given {self.steps}")

    @abstractmethod
    def step(
        self,
        energy: Energy,
        state: State,
        step_size: Float[Tensor, "*B"],
        scale: Float[Tensor, "*B d d"] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[State, Info]:
        """Advance every chain by one step."""

    @abstractmethod
    def run(
        self,
        energy: Energy,
        start: Float[Tensor, "*B C d"],
        generator: torch.Generator | None = None,
        scale: Float[Tensor, "*B d d"] | None = None,
    ) -> Chains:
        """Run the chains.

        Args:
            energy: Energies of C points under each context: a function of each point alone. That is checked,
                by a few evaluations.
            start: Where the chains start.
            generator: Source of randomness; the same state gives the same chains.
            scale: A preconditioning matrix A per context (or one for all); None for the identity.

        Returns:
            The states after every kept step.

        Raises:
            UserError: The energy of a starting point is not finite, the chains run away to infinity, or what
                was given is no energy.
        """

    def check(
        self, energy: Energy, start: Any, scale: Any = None, random: bool = False
    ) -> tuple[Float[Tensor, "*B C d"], Float[Tensor, "*B d d"] | None]:
        """The start and the scale of a run as tensors, after checking them and the energy; see `run`."""
        start = as_tensor(start, "start").detach()
        require(
            start.ndim >= 2 and start.numel() > 0,
            f"chains start at points [..., chains, dim], at least one, given {list(start.shape)}",
        )
        if scale is not None:
            scale, dim = as_tensor(scale, "scale").detach().to(start), start.shape[-1]
            fits = scale.shape[-2:] == (dim, dim) and scale.shape[:-2] in ((), start.shape[:-2])
            require(fits, f"scale is a matrix [..., {dim}, {dim}], given {list(scale.shape)}")
        check_energy(energy, start, scale, random)
        return start, scale

    def init(self, energy: Energy, start: Float[Tensor, "*B C d"]) -> State:
        """The state of chains that stand at `start`."""
        value, gradient = energy_and_gradient(energy, start)
        require_finite_start(value)
        return State(start.detach(), value, gradient)


def require_finite_start(energy: Float[Tensor, "*B C"]) -> None:
    """Refuse chains that start where exp(-E) is nothing or unknown."""
    require(
        bool(energy.isfinite().all()),
        "the energy of a starting point is not finite; start the chains inside the support",
    )


def require(holds: bool, message: str) -> None:
    """Refuse a setting with a one-line message."""
    if not holds:
        raise UserError(message)
