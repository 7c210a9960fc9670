"""The Langevin chains of training: every context and prefix at once, the context encoded beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.frozen_queries import FrozenQueries
from iclkit.energy.network import EnergyTransformer


def langevin(
    network: Any,
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
        network: Anything that scores candidates under an encoded context (`EnergyNetwork` of the objectives).
        context: What it encoded; constant throughout.
        chains: Where the chains start.
        steps: How many steps.
        step_size: α.
        noise_std: σ.
        generator: Source of the noise.
    """
    chains = chains.detach()
    gradient = _gradient(network, context, chains)
    for _ in range(steps):
        noise = torch.randn(chains.shape, generator=generator, dtype=chains.dtype, device=chains.device)
        chains = chains - step_size * gradient(chains) + noise_std * noise
    return chains


def _gradient(network: Any, context: Any, chains: Float[Tensor, "B N K d"]) -> Callable[[Tensor], Tensor]:
    """∇E with respect to the candidates: written out where that exists, else by automatic differentiation."""
    prefixes = torch.arange(chains.shape[1], device=chains.device)
    if isinstance(network, EnergyTransformer) and FrozenQueries.supports(network, context):
        return FrozenQueries(network, context, prefixes, chains.shape[2]).gradient

    def gradient(candidates: Tensor) -> Tensor:
        with torch.enable_grad():
            candidates = candidates.detach().requires_grad_()
            energy = network.query(context, candidates, prefixes).sum()
        return torch.autograd.grad(energy, candidates)[0]

    return gradient
