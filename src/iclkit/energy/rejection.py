"""Independent draws from exp(-E) by rejection, from the cells of its quadrature.

The quadrature leaves a piecewise constant picture of the density: each node's value on the box around it whose
volume is the node's weight. Draws x from that picture q are accepted with probability min(1, w / c), where
w = exp(-E(x)) / q(x). Accepted draws have density min(exp(-E), c q): with c at the largest w they are exact.
A few boxes in the far tail would make c useless, so c is the smallest bound that loses at most a share `loss`
of the mass; that share bounds the total variation distance of the draws from exp(-E).

Shape letters: B contexts, C cells of all contexts, Q nodes of a cell, S draws, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.box import to_data
from iclkit.energy.cells import Cells, Rule
from iclkit.energy.chains import Chains, Energy
from iclkit.energy.quadrature import Quadrature
from iclkit.errors import UserError

_PILOT = 2048
_ROUNDS = 200


@dataclass(frozen=True)
class _Picture:
    """The piecewise constant density, and how to draw from it."""

    cells: Cells
    rule: Rule
    batch: int
    cumulative: Float[Tensor, " CQ"]

    @classmethod
    def of(cls, cells: Cells, batch: int) -> _Picture:
        cells = cells[cells.owner.argsort(stable=True)]
        rule = Rule(cells.corner.shape[1])
        log_volume = rule.log_weights + cells.corner.shape[1] * cells.width[:, None].log()
        mass = cells.log_density + log_volume
        highest = mass.new_full((batch,), -math.inf).scatter_reduce(0, cells.owner, mass.amax(1), "amax")
        mass = (mass - highest[cells.owner, None]).exp()
        total = mass.new_zeros(batch).index_add(0, cells.owner, mass.sum(1))
        # One running sum for all: context b owns the interval [b, b + 1).
        return cls(cells, rule, batch, (mass / total[cells.owner, None]).flatten().cumsum(0))

    def draw(
        self, count: int, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "B S d"], Float[Tensor, "B S"]]:
        """Draws in z, and the log density (unnormalised, as exp(-E) is) of the picture there."""
        device = generator.device if generator is not None else None
        uniform = torch.rand(self.batch, count, generator=generator, device=device, dtype=torch.float64).cpu()
        dim = self.cells.corner.shape[1]
        inside = torch.rand(
            self.batch, count, dim, generator=generator, device=device, dtype=torch.float64
        ).cpu()
        wanted = uniform + torch.arange(self.batch)[:, None]
        index = torch.searchsorted(self.cumulative, wanted, right=True).clamp_max(len(self.cumulative) - 1)
        cell, node = index // len(self.rule.nodes), index % len(self.rule.nodes)
        unit = self.rule.box_corner[node] + inside * self.rule.box_size[node]
        z = self.cells.corner[cell] + self.cells.width[cell, None] * unit
        return z, self.cells.log_density[cell, node]


def draw(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    quadrature: Quadrature,
    size: int,
    generator: torch.Generator | None = None,
    loss: float = 1e-3,
) -> Chains:
    """Draw independently from exp(-E) within the box of its quadrature.

    Args:
        energy: What was integrated.
        centre: As it was.
        scale: As it was.
        quadrature: The result.
        size: Draws per context (S).
        generator: Source of randomness.
        loss: Largest share of the mass that the acceptance rule may cut off.

    Returns:
        The draws as one chain of S steps, with their acceptance rate: being independent, they have an effective
        sample size near S and an R-hat near 1.
    """
    batch = len(centre)
    picture = _Picture.of(quadrature.cells, batch)
    kept = centre.new_zeros(batch, size, centre.shape[1])
    filled = torch.zeros(batch, dtype=torch.long)
    accepted, proposed, log_bound = torch.zeros(batch, dtype=torch.float64), 0, None
    count = max(_PILOT, size)
    for _ in range(_ROUNDS):
        z, log_picture = picture.draw(count, generator)
        x = to_data(z, centre, scale)
        with torch.no_grad():
            log_ratio = -energy(x).double().cpu() - log_picture
        if log_bound is None:
            log_bound = _bound(log_ratio, loss)
        device = generator.device if generator is not None else None
        uniform = torch.rand(batch, count, generator=generator, device=device, dtype=torch.float64).cpu()
        accept = uniform.log() < log_ratio - log_bound[:, None]
        proposed += count
        accepted += accept.sum(1)
        place = filled[:, None] + accept.cumsum(1) - 1
        owner, which = (accept & (place < size)).nonzero(as_tuple=True)
        kept[owner, place[owner, which]] = x[owner, which]
        filled = (filled + accept.sum(1)).clamp_max(size)
        if (filled == size).all():
            rate = (accepted / proposed).to(centre)
            return Chains(kept[:, :, None], rate, torch.zeros_like(rate))
        rate = (accepted / proposed).clamp_min(1e-3)
        count = min(int((1.1 * (size - filled) / rate).max()) + 64, 4 * max(_PILOT, size))
    raise UserError("rejection sampling accepts too few draws; give a sampler, or a finer tolerance")


def _bound(log_ratio: Float[Tensor, "B S"], loss: float) -> Float[Tensor, " B"]:
    """The smallest log c for which the excess of w over c is at most `loss` of the sum of w."""
    highest = log_ratio.amax(1, keepdim=True)
    ratio = (log_ratio - highest).exp().sort(1, descending=True).values
    # Excess over the j-th largest ratio: the sum of those above it, less j times it.
    above = ratio.cumsum(1) - ratio
    excess = above - torch.arange(ratio.shape[1]) * ratio
    last = (excess <= loss * ratio.sum(1, keepdim=True)).sum(1, keepdim=True) - 1
    return (ratio.gather(1, last).log() + highest)[:, 0]
