"""From a network and a context to the landscape that the context makes of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.energy.border import OwnEnergy
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.samplers import PUBLISHED_START
from iclkit.errors import UserError
from iclkit.networks import within_reach
from iclkit.networks.hooks import copy_with_hooks
from iclkit.threads import one_thread, small

if TYPE_CHECKING:
    from iclkit.energy.network import EncodedContext, EnergyTransformer

# Queries of one forward pass: bounds its memory, and stays in cache.
_CHUNK = 1024
# 4 scales make the half-width of the box in which the published chains start.
_PUBLISHED_SCALE = PUBLISHED_START / 4


def condition(
    network: EnergyTransformer,
    context: Float[Tensor, "*B n d"],
    allow_longer: bool = False,
    scale: float | Tensor | None = None,
) -> EnergyLandscape:
    """What `EnergyTransformer.condition` does; see there."""
    context = as_tensor(context, "the context")
    batch = _check(network, context, allow_longer)
    # What is stored takes part in scores later, whatever mode holds now.
    with neutral(grad=False):
        frozen = _frozen(network)
        weights = frozen.readout.weight
        points = within_reach(context.detach().to(weights).clone().view(batch or 1, *context.shape[-2:]))
        with one_thread(where=small(points.shape[0] * points.shape[1], points.device)):
            encoded = frozen.encode(points)
        prefix = torch.tensor([points.shape[1]], device=weights.device)
        matrix = (
            as_tensor((network.base_std or _PUBLISHED_SCALE) if scale is None else scale, "scale")
            .to(weights)
            .clone()
        )
        if matrix.ndim == 0:
            matrix = matrix * torch.eye(network.dim, dtype=weights.dtype, device=weights.device)
        centre = weights.new_zeros(network.dim)

    energy = _Conditioned(frozen, encoded, prefix)
    return EnergyLandscape(energy, network.dim, batch, centre, matrix, points[0] if batch is None else points)


@dataclass(frozen=True, eq=False)
class _Conditioned(OwnEnergy):
    """The network's energies of points after an encoded context."""

    network: EnergyTransformer
    context: EncodedContext
    prefix: Tensor

    def __call__(self, x: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        with one_thread(where=small(x.shape[0] * x.shape[1], x.device)):
            return self._energies(x.to(self.network.readout.weight)).to(x)

    def _energies(self, x: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        chunk = max(1, _CHUNK // len(x))
        near, network = within_reach(x), self.network
        parts = (network.query(self.context, part[:, None], self.prefix)[:, 0] for part in near.split(chunk, 1))
        energies = torch.cat(list(parts), 1)
        if network.base_std is None:
            return energies
        # The network's own part no longer changes beyond its reach, the base energy does: x² - near².
        return energies + ((x - near) * (x + near)).sum(-1) / (2 * network.base_std**2)


def _check(network: EnergyTransformer, context: Tensor, allow_longer: bool) -> int | None:
    """Refuse what the network cannot take; the batch size, or None for an unbatched context."""
    if (
        context.ndim not in (2, 3)
        or context.shape[-1] != network.dim
        or (context.ndim == 3 and not len(context))
    ):
        raise UserError(
            f"a context of this network is [n, {network.dim}] or [B, n, {network.dim}] with B >= 1, "
            f"given {list(context.shape)}"
        )
    length = context.shape[-2]
    if length > network.max_points:
        words = f"the context has {length} points, the network was trained on at most {network.max_points}"
        if network.positions is not None:
            raise UserError(f"{words}, and has no positions for more; give fewer")
        if not allow_longer:
            raise UserError(f"{words}; give fewer, or allow_longer=True to go on")
        warnings.warn(f"{words}: nothing is known of the quality beyond", stacklevel=4)
    return None if context.ndim == 2 else len(context)


def _frozen(network: EnergyTransformer) -> EnergyTransformer:
    """The network itself if nothing in it can be trained; else a copy whose weights training leaves alone.

    The context is encoded with the weights of this moment, so its landscape must keep them. And weights that
    need no gradient leave nothing of theirs in the graphs of the samplers. Weights that were made in inference
    mode could not take part in a score at all.
    """
    if not network.training and not any(p.requires_grad or p.is_inference() for p in network.parameters()):
        return network
    memo = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in network.parameters()}
    return copy_with_hooks(network, memo).eval()
