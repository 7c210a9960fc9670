"""Cells of an adaptive quadrature: cubes with a tensor Gauss-Legendre rule in each, for many contexts at once.

Shape letters: B contexts, C cells of all contexts, Q = n^d nodes of a cell, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# By dimension: cells per axis at first, and nodes per axis of a cell. Small cells with few nodes miss less than
# large ones with many, at fewer evaluations for 1e-3.
PER_AXIS = {1: 32, 2: 6, 3: 4}
_NODES = {1: 4, 2: 3, 3: 3}
# By dimension: how often a cell may be halved, and the bits that the index of a cell along an axis then has.
DEPTH = {1: 30, 2: 18, 3: 13}
_INDEX_BITS = {1: 35, 2: 21, 3: 15}


@dataclass(frozen=True)
class Cells:
    """Cells of all contexts in one flat list, in the coordinates z.

    Args:
        owner: Which context.
        corner: Lowest corner.
        width: Side length.
        log_density: -E at the nodes.
        log_mass: Log integral of exp(-E) over the cell, in the units of z.
        log_error: Log of its error estimate.
    """

    owner: Int[Tensor, " C"]
    corner: Float[Tensor, "C d"]
    width: Float[Tensor, " C"]
    log_density: Float[Tensor, "C Q"]
    log_mass: Float[Tensor, " C"]
    log_error: Float[Tensor, " C"]

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: Tensor) -> Cells:
        return Cells(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def join(self, other: Cells) -> Cells:
        """Both lists, this one first."""
        return Cells(
            *(torch.cat([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__)
        )

    def level(self, half_width: Float[Tensor, " B"]) -> Int[Tensor, " C"]:
        """How many cuts made each cell."""
        first = 2 * half_width / PER_AXIS[self.corner.shape[1]]
        return (first[self.owner] / self.width).log2().round().long()

    def too_wide_beside(self, heavy: Bool[Tensor, " C"], half_width: Float[Tensor, " B"]) -> Bool[Tensor, " C"]:
        """The cells that touch a heavy cell and are more than twice as wide."""
        dim = self.corner.shape[1]
        level = self.level(half_width)
        index = ((self.corner + half_width[self.owner, None]) / self.width[:, None]).round().long()
        keys, order = self._keys(self.owner, level, index).sort()
        beside = (index[heavy][:, None] + grid(torch.arange(-1, 2), dim)).flatten(0, 1)
        beside_level = level[heavy].repeat_interleave(3**dim)
        beside_owner = self.owner[heavy].repeat_interleave(3**dim)
        wide = torch.zeros_like(heavy)
        for up in range(2, int(beside_level.amax()) + 1 if len(beside_level) else 0):
            # The ancestors, `up` levels above, of the places beside the heavy cells: which of them are leaves?
            there = (beside_level >= up) & (beside >= 0).all(1)
            wanted = self._keys(beside_owner[there], beside_level[there] - up, beside[there] >> up)
            found = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
            wide[order[found[keys[found] == wanted]]] = True
        return wide

    @staticmethod
    def _keys(owner: Tensor, level: Tensor, index: Int[Tensor, "C d"]) -> Int[Tensor, " C"]:
        """A number for every possible cell: the bits of each index, 5 for the level, the rest for the owner."""
        key = owner * 32 + level
        for axis in range(index.shape[1]):
            key = key * 2 ** _INDEX_BITS[index.shape[1]] + index[:, axis]
        return key


class Rule:
    """Tensor Gauss-Legendre rule on the unit cube, and around each node the box whose volume is its weight."""

    def __init__(self, dim: int) -> None:
        nodes, weights = np.polynomial.legendre.leggauss(_NODES[dim])
        ends = np.concatenate([[0.0], np.cumsum(weights / 2)])
        self.nodes = grid(torch.from_numpy(nodes / 2 + 0.5), dim)  # [Q, d]
        self.log_weights = grid(torch.from_numpy(np.log(weights / 2)), dim).sum(1)  # [Q]
        # The i-th node lies between the sums of the first i and i + 1 weights (Chebyshev, Markov and
        # Stieltjes).
        self.box_corner = grid(torch.from_numpy(ends[:-1]), dim)
        self.box_size = grid(torch.from_numpy(weights / 2), dim)


def first_cells(half_width: Float[Tensor, " B"], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells that the boxes |z_i| <= half_width are first cut into: owners, corners and widths."""
    per_axis = PER_AXIS[dim]
    index = grid(torch.arange(per_axis, dtype=torch.float64), dim)
    width = 2 * half_width / per_axis
    corner = index * width[:, None, None] - half_width[:, None, None]
    owner = torch.arange(len(half_width)).repeat_interleave(len(index))
    return owner, corner.flatten(0, 1), width[owner]


def owner_logsumexp(values: Float[Tensor, " C"], owner: Int[Tensor, " C"], batch: int) -> Float[Tensor, " B"]:
    """Log of the sum of exponentials over the entries of each owner."""
    highest = values.new_full((batch,), -math.inf).scatter_reduce(0, owner, values, "amax")
    shift = highest.nan_to_num(neginf=0.0)
    return values.new_zeros(batch).index_add(0, owner, (values - shift[owner]).exp()).log() + shift


def grid(axis: Tensor, dim: int) -> Tensor:
    """The grid points with these coordinates on every axis, the last coordinate fastest."""
    return torch.cartesian_prod(*[axis] * dim).view(-1, dim)
