"""The published training step written out literally: what the fast one must equal, and is measured against.

`Literal` follows the published pseudocode: for every index and every confabulated point it copies the prefix,
puts the point last, runs the whole transformer and keeps the last output; in every Langevin step too. `Padded`
runs the same copies as one padded batch. Both draw exactly what `ContrastiveDivergence` draws from the same
generator.

Source: Schaeffer, Khona and Koyejo (2024), Figure 2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.network import EnergyTransformer
from iclkit.energy.objectives import ContrastiveDivergence


class ReferenceStep(ABC):
    """The loss of one published training step, by re-encoding every prefix for every candidate."""

    @abstractmethod
    def candidate_energies(
        self, network: EnergyTransformer, x: Float[Tensor, "B N d"], candidates: Float[Tensor, "B N K d"]
    ) -> Float[Tensor, "B N K"]:
        """E(c_nk | x_<n), each from a run of its own over the whole prefix."""

    def loss(
        self,
        network: EnergyTransformer,
        x: Float[Tensor, "B N d"],
        objective: ContrastiveDivergence,
        generator: torch.Generator,
    ) -> Tensor:
        """The published loss; call `backward` on it for the training step's gradients."""
        shape = (*x.shape[:2], objective.negatives, x.shape[2])
        chains = objective.start * (2 * torch.rand(shape, generator=generator, dtype=x.dtype) - 1)
        for _ in range(objective.steps):
            noise = torch.randn(shape, generator=generator, dtype=x.dtype)
            chains = chains.detach().requires_grad_()
            energy = self.candidate_energies(network, x, chains).sum()
            (gradient,) = torch.autograd.grad(energy, chains)
            chains = chains.detach() - objective.step_size * gradient + objective.noise_std * noise
        real = self.candidate_energies(network, x, x[:, :, None])
        negative = self.candidate_energies(network, x, chains)
        penalty = objective.penalty * (real.square().mean() + negative.square().mean())
        return real.mean() - negative.mean() + penalty


class Literal(ReferenceStep):
    """One run of the transformer for each index and each confabulated point, batched over episodes alone."""

    def candidate_energies(
        self, network: EnergyTransformer, x: Float[Tensor, "B N d"], candidates: Float[Tensor, "B N K d"]
    ) -> Float[Tensor, "B N K"]:
        _, points, count, _ = candidates.shape
        rows = []
        for n in range(points):
            columns = []
            for k in range(count):
                sequence = torch.cat([x[:, :n], candidates[:, n, k, None]], 1)
                columns.append(network.energies(sequence)[:, -1])
            rows.append(torch.stack(columns, -1))
        return torch.stack(rows, 1)


class Padded(ReferenceStep):
    """All copies in one batch, each padded by the points that follow (causal attention never sees them)."""

    def candidate_energies(
        self, network: EnergyTransformer, x: Float[Tensor, "B N d"], candidates: Float[Tensor, "B N K d"]
    ) -> Float[Tensor, "B N K"]:
        batch, points, count, dim = candidates.shape
        last = torch.eye(points, dtype=torch.bool, device=x.device)[None, :, None, :, None]
        copies = torch.where(last, candidates[:, :, :, None], x[:, None, None])  # [B, N, K, N, d]
        energies = network.energies(copies.reshape(-1, points, dim)).view(batch, points, count, points)
        return energies.diagonal(dim1=1, dim2=3).transpose(1, 2)  # [B, K, N] -> [B, N, K]
