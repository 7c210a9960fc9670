"""The Langevin chains of training: every context and prefix at once, the context encoded beforehand."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Queryable(Protocol):
    """Anything that scores candidates under prefixes of a context that it encoded before."""

    def query(
        self, context: Any, candidates: Float[Tensor, "B P K d"], prefixes: Tensor
    ) -> Float[Tensor, "B P K"]: ...


def langevin(
    network: Queryable,
    context: Any,
    chains: Float[Tensor, "B N K d"],
    steps: int,
    step_size: float,
    noise_std: float,
    generator: torch.Generator,
) -> Float[Tensor, "B N K d"]:
    """Run x ← x - step_size ∇E(x | x_<n) + noise_std ξ for chains at every prefix; the result is detached.

    The chains sample exp(-E/τ) at τ = noise_std² / (2 step_size), up to the bias of a finite step.

    Args:
        network: Anything that scores candidates under an encoded context.
        context: What it encoded; constant throughout.
        chains: Where the chains start.
        steps: How many steps.
        step_size: α.
        noise_std: σ.
        generator: Source of the noise.
    """
    prefixes = torch.arange(chains.shape[1], device=chains.device)
    score = getattr(network, "energy_gradient", None) or _autograd_gradient(network)
    chains = chains.detach()
    for _ in range(steps):
        noise = torch.randn(chains.shape, generator=generator, dtype=chains.dtype, device=chains.device)
        chains = chains - step_size * score(context, chains, prefixes) + noise_std * noise
    return chains


def _autograd_gradient(network: Queryable):
    def gradient(context: Any, chains: Tensor, prefixes: Tensor) -> Tensor:
        with torch.enable_grad():
            chains = chains.detach().requires_grad_()
            energy = network.query(context, chains, prefixes).sum()
        return torch.autograd.grad(energy, chains)[0]

    return gradient
