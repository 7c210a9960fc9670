"""Adaptive quadrature of exp(-E) in up to three dimensions, for a batch of energies at once.

The domain is a box in the coordinates z of x = centre + A z. It is cut into cells with a tensor Gauss-
Legendre rule in each; a cell is cut into 2^d children until cutting changes its integral no more. That
resolves a mode of any width where it is, and leaves the empty space between modes at a handful of
evaluations. Two things guard against a mode that lies between the nodes of a coarse cell: every cell that is
not negligible is cut at least once, and a cell that contains an anchor (a point of the context: modes sit at
data) is cut until its nodes see the anchor's density.

All contexts refine together, in one flat list of cells with their owners.

Shape letters: B contexts, C cells of all contexts, Q = n^d nodes of a cell, d coordinates.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclkit.energy.box import HALF_WIDTH, Box, to_data, to_standard
from iclkit.energy.cells import DEPTH, PER_AXIS, Cells, Rule, first_cells, grid, owner_logsumexp
from iclkit.energy.chains import Energy
from iclkit.errors import UserError
from iclkit.threads import one_thread

# Contexts that are integrated by one thread: their cells are too few to be shared.
_FEW = 16

_STEEP = 6.0  # nats between the nodes of a cell that holds much of the mass: too many for so few nodes


@dataclass(frozen=True)
class Quadrature:
    """The integral of exp(-E) over the box, and the cells that it was found with.

    Args:
        log_integral: Log integral over the box, in the units of x.
        error: Estimated error of it, in nats: what the last cut of each cell changed.
        boundary: Share of the mass that lies in the cells at the boundary of the box: small when the box holds
            (nearly) everything, large when the energy does not decay.
        half_width: The box is |z_i| <= half_width.
        evaluations: Energies evaluated per context (contexts are padded to the neediest).
        cells: The cells.
    """

    log_integral: Float[Tensor, " B"]
    error: Float[Tensor, " B"]
    boundary: Float[Tensor, " B"]
    half_width: Float[Tensor, " B"]
    evaluations: int
    cells: Cells


def integrate(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    anchors: Float[Tensor, "B n d"] | None = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 500_000,
    half_width: Float[Tensor, " B"] | None = None,
) -> Quadrature:
    """Integrate exp(-E) over a box for each of B energies.

    Args:
        energy: [B, M, d] -> [B, M]; evaluated without gradients.
        centre: Centre of each box.
        scale: A matrix A such that most mass lies where |A^-1 (x - centre)| < 4.
        anchors: Points at which narrow modes may sit; the box is widened to hold them.
        tolerance: Relative error at which a context's refinement stops.
        max_evaluations: Refinement also stops before a context would take more than this.
        half_width: That of the boxes, if it is not to depend on the anchors.

    Returns:
        The integral with its error; the error exceeds `tolerance` where `max_evaluations` stopped the
        refinement.
    """
    with one_thread(where=len(centre) <= _FEW and centre.device.type == "cpu"):
        return _integrate(energy, centre, scale, anchors, tolerance, max_evaluations, half_width)


def _integrate(
    energy: Energy,
    centre: Tensor,
    scale: Tensor,
    anchors: Tensor | None,
    tolerance: float,
    max_evaluations: int,
    half_width: Tensor | None,
) -> Quadrature:
    batch, dim = centre.shape
    evaluate = _Evaluator(energy, centre, scale)
    half_width = (Box.around(centre, scale, anchors).half_width if half_width is None else half_width).cpu()
    anchor_z = torch.zeros(batch, 0, dim, dtype=torch.float64)
    if anchors is not None and anchors.shape[1]:
        anchor_z = to_standard(anchors, centre, scale).cpu()
    cells = evaluate.cells(*first_cells(half_width, dim))
    seen = _Anchors(anchor_z, half_width, evaluate)

    cut = torch.ones(len(cells), dtype=torch.bool)
    for _ in range(DEPTH[dim]):
        largest = int(torch.bincount(cells.owner[cut], minlength=batch).max())
        if not largest or evaluate.count + largest * cells.log_density.shape[1] * 2**dim > max_evaluations:
            break
        children = _children(cells[cut], evaluate)
        seen.follow(cells, cut)
        cells = cells[~cut].join(children)
        cut = _to_cut(cells, seen, half_width, tolerance)

    log_integral = owner_logsumexp(cells.log_mass, cells.owner, batch)
    log_error = owner_logsumexp(seen.doubt(cells), cells.owner, batch)
    edge = 0.999 * half_width[cells.owner, None]
    at_boundary = ((cells.corner < -edge) | (cells.corner + cells.width[:, None] > edge)).any(1)
    log_boundary = owner_logsumexp(cells.log_mass[at_boundary], cells.owner[at_boundary], batch)
    return Quadrature(
        log_integral + torch.linalg.slogdet(scale.double()).logabsdet.cpu(),
        (log_error - log_integral).exp(),
        (log_boundary - log_integral).exp(),
        half_width,
        evaluate.count,
        cells,
    )


class _Evaluator:
    """Measures cells, and counts the evaluations that a context has paid for."""

    def __init__(self, energy: Energy, centre: Tensor, scale: Tensor) -> None:
        self._energy, self._centre, self._scale = energy, centre, scale
        self.rule = Rule(centre.shape[1])
        self.count = 0

    def log_density(self, z: Float[Tensor, "C Q d"], owner: Int[Tensor, " C"]) -> Float[Tensor, "C Q"]:
        """-E at groups of points, each group under the context that owns it."""
        batch, dim = self._centre.shape
        counts = torch.bincount(owner, minlength=batch)
        order = owner.argsort(stable=True)
        slot = torch.empty_like(owner)
        slot[order] = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner[order]]
        padded = z.new_zeros(batch, int(counts.max()), z.shape[1], dim)
        padded[owner, slot] = z
        points = to_data(padded.flatten(1, 2), self._centre, self._scale)
        with torch.no_grad():
            values = -self._energy(points).double().cpu().view(padded.shape[:-1])[owner, slot]
        if not (values < math.inf).all():
            raise UserError("the energy is NaN or -inf somewhere, so it has no normalising constant")
        self.count += padded.shape[1] * padded.shape[2]
        return values

    def cells(self, owner: Tensor, corner: Tensor, width: Tensor) -> Cells:
        """Cells with their integrals; their error is not known yet."""
        nodes = corner[:, None] + width[:, None, None] * self.rule.nodes
        values = self.log_density(nodes, owner)
        log_mass = (values + self.rule.log_weights).logsumexp(1) + corner.shape[1] * width.log()
        return Cells(owner, corner, width, values, log_mass, torch.full_like(log_mass, math.inf))


class _Anchors:
    """Points whose density the cells around them must come to see."""

    def __init__(
        self, z: Float[Tensor, "B n d"], half_width: Float[Tensor, " B"], evaluate: _Evaluator
    ) -> None:
        batch, count, dim = z.shape
        self._z = z.flatten(0, 1)
        self._log_density = evaluate.log_density(z, torch.arange(batch)).flatten() if count else z.new_zeros(0)
        per_axis = PER_AXIS[dim]
        index = ((z / half_width[:, None, None] + 1) / 2 * per_axis).long().clamp(0, per_axis - 1)
        power = per_axis ** torch.arange(dim - 1, -1, -1)
        # The cell that each lies in; the first cells come context by context, the last coordinate fastest.
        self._home = ((index * power).sum(-1) + per_axis**dim * torch.arange(batch)[:, None]).flatten()

    def follow(self, cells: Cells, cut: Bool[Tensor, " C"]) -> None:
        """Account for the replacement of the cut cells by their children, at the end of the list."""
        dim = self._z.shape[1]
        middle = cells.corner[self._home] + 0.5 * cells.width[self._home, None]
        child = ((self._z >= middle) * 2 ** torch.arange(dim - 1, -1, -1)).sum(1)
        kept, parent = (~cut).cumsum(0) - 1, cut.cumsum(0) - 1
        in_child = (~cut).sum() + parent[self._home] * 2**dim + child
        self._home = torch.where(cut[self._home], in_child, kept[self._home])

    def doubt(self, cells: Cells) -> Float[Tensor, " C"]:
        """Log error of the cells, and where an anchor is over twice as dense as all nodes, its excess."""
        highest = cells.log_density.amax(1)[self._home]
        excess = self._log_density + (1 - 2 * (highest - self._log_density).exp()).clamp_min(0).log()
        volume = self._z.shape[1] * cells.width[self._home].log()
        worst = torch.full_like(cells.log_error, -math.inf)
        worst = worst.scatter_reduce(0, self._home, excess + volume, "amax")
        return torch.logaddexp(cells.log_error, worst)


def _children(parents: Cells, evaluate: _Evaluator) -> Cells:
    """Halve the cells along every axis; what that changed in a cell's integral is its children's error."""
    dim = parents.corner.shape[1]
    offset = grid(torch.arange(2.0, dtype=torch.float64), dim)
    width = parents.width / 2
    corner = parents.corner[:, None] + offset * width[:, None, None]
    children = evaluate.cells(
        parents.owner.repeat_interleave(2**dim), corner.flatten(0, 1), width.repeat_interleave(2**dim)
    )
    mass = children.log_mass.view(-1, 2**dim)
    total = mass.logsumexp(1, keepdim=True)
    change = _log_difference(parents.log_mass[:, None], total)
    # Shared among the children half evenly, half by mass.
    share = 0.5 / 2**dim + 0.5 * (mass - total).exp().nan_to_num(nan=1 / 2**dim)
    # The change is the parents' error; halving divides that of a smooth integrand by 64 (three nodes), and of
    # one that is barely resolved by 4. Doubt about the parents is inherited: else one chance agreement would
    # end the search.
    inherited = torch.where(parents.log_error < math.inf, parents.log_error - math.log(64), -math.inf)
    log_error = torch.maximum(change - math.log(4), inherited[:, None])
    return dataclasses.replace(children, log_error=(log_error + share.log()).flatten())


def _to_cut(
    cells: Cells, seen: _Anchors, half_width: Float[Tensor, " B"], tolerance: float
) -> Bool[Tensor, " C"]:
    """The cells to cut: in contexts that are not done, all but those that together err by tolerance / 2.

    And those that are over twice as wide as a neighbour that holds mass: a mode near a cell's face spills over.
    """
    batch, dim = len(half_width), cells.corner.shape[1]
    log_total = owner_logsumexp(cells.log_mass, cells.owner, batch)[cells.owner]
    # What errs by more is cut whatever its error. One running sum serves all contexts: the huge errors of cells
    # that have not seen their anchor would leave nothing but rounding of the sums that come after them.
    error = (seen.doubt(cells) - log_total).exp().nan_to_num(nan=0.0).clamp_max(2 * tolerance)
    total = error.new_zeros(batch).index_add(0, cells.owner, error)
    order = error.argsort()
    order = order[cells.owner[order].argsort(stable=True)]  # by owner, then by error
    before = total.cumsum(0) - total
    running = error[order].cumsum(0) - before[cells.owner[order]]
    cut = torch.zeros(len(cells), dtype=torch.bool)
    cut[order] = (running > tolerance / 2) & (total > tolerance)[cells.owner[order]]
    heavy = cells.log_mass - log_total > math.log(tolerance / 100)
    cut |= cells.too_wide_beside(heavy, half_width)
    # Few nodes far apart may agree by chance with those of the cell that was cut.
    steep = cells.log_density.amax(1) - cells.log_density.amin(1) > _STEEP
    cut |= steep & (cells.log_mass - log_total > math.log(10 * tolerance))
    # In a box that was widened to hold a far anchor, the middle is cut as finely as in the usual one.
    middle = ((cells.corner < HALF_WIDTH) & (cells.corner + cells.width[:, None] > -HALF_WIDTH)).all(1)
    cut |= middle & (cells.width > 2.01 * HALF_WIDTH / PER_AXIS[dim])
    return cut & (cells.level(half_width) < DEPTH[dim])


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log |exp(a) - exp(b)|, -inf where they are equal."""
    highest = torch.maximum(a, b)
    gap = (a - b).abs().nan_to_num(nan=0.0)
    return torch.where(gap > 0, highest + (-torch.expm1(-gap)).log(), -math.inf)
