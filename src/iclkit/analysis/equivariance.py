"""How far a density moves when the data's axes change, which tells nothing about the data.

If x has the density p, then y = M x has the density p(M⁻¹ y) / |det M|. A model that whitens its context should
return the same for both; what is measured is the difference of the log densities, at held-out points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.density import check_sizes
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import DensityLearner
from iclkit.tasks import DensityTask

CONTEXT_SIZES = (8, 16, 24, 32, 64)
# Data sets that are scored at a time: a quadrature costs each of them as much as the neediest one.
_TOGETHER = 8


@dataclass(frozen=True)
class Sets:
    """Data sets, each with held-out points.

    Args:
        context: Points to condition on; a context of n points is the first n.
        points: Points to score.
    """

    context: Float[Tensor, "B N d"]
    points: Float[Tensor, "B R d"]

    def mapped(self, matrix: Float[Tensor, "B d d"]) -> Sets:
        """The same data on other axes: y = M x."""
        return Sets(self.context @ matrix.mT, self.points @ matrix.mT)


def prior_sets(task: DensityTask, datasets: int, longest: int, held_out: int = 30, seed: int = 0) -> Sets:
    """Data sets of a task, each seen through a matrix of its own with standard normal entries."""
    generator = torch.Generator().manual_seed(seed)
    x = task.sample(datasets, longest + held_out, generator).double()
    matrix = torch.randn(datasets, task.dim, task.dim, generator=generator, dtype=x.dtype)
    return Sets(x[:, :longest], x[:, longest:]).mapped(matrix)


def real_sets(
    values: Float[Tensor, "M d"], splits: int, longest: int, held_out: int = 30, seed: int = 0
) -> Sets:
    """Random splits of one set of points, in its own units."""
    generator = torch.Generator().manual_seed(seed)
    taken = longest + held_out
    if len(values) < taken:
        raise UserError(f"{len(values)} rows are too few for {longest} in context and {held_out} held out")
    x = values.double()[
        torch.stack([torch.randperm(len(values), generator=generator)[:taken] for _ in range(splits)])
    ]
    return Sets(x[:, :longest], x[:, longest:])


def together(parts: Iterable[Sets]) -> Sets:
    """All data sets of several collections."""
    parts = list(parts)
    return Sets(torch.cat([part.context for part in parts]), torch.cat([part.points for part in parts]))


def axis_maps(count: int, dim: int, seed: int = 0) -> dict[str, Float[Tensor, "B d d"]]:
    """Changes of axes by name, one matrix for each of `count` data sets.

    Args:
        count: How many data sets.
        dim: Dimension of the points, at least two.
        seed: Seed of what is random.

    Raises:
        UserError: Points on a line, whose axis can only be scaled.
    """
    if dim < 2:
        raise UserError(f"axes of points in {dim} dimension cannot be turned; give a model of two or more")
    generator = torch.Generator().manual_seed(seed)
    identity = torch.eye(dim, dtype=torch.float64)
    turn = identity.clone()
    turn[:2, :2] = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    normal = torch.randn(count, dim, dim, generator=generator, dtype=torch.float64)
    units = torch.randn(count, dim, generator=generator, dtype=torch.float64).exp()
    sheared = torch.randn(count, dim, dim, generator=generator, dtype=torch.float64).tril(-1)
    # Normal matrices, made orthonormal with positive diagonals of R: uniform rotations and reflections.
    orthogonal, upper = torch.linalg.qr(normal)
    orthogonal = orthogonal * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return {
        "columns scaled": torch.diag_embed(units),
        "columns in reverse order": identity.flip(0).expand(count, -1, -1),
        "turned by 45°": turn.expand(count, -1, -1),
        "turned or reflected at random": orthogonal,
        "triangular map": identity + sheared,
    }


def axis_changes(
    model: DensityLearner,
    sets: Sets,
    context_sizes: Sequence[int] = CONTEXT_SIZES,
    maps: Mapping[str, Float[Tensor, "B d d"]] | None = None,
) -> dict[str, Float[Tensor, "B P R"]]:
    """Absolute changes of log densities under each change of axes, in nats.

    Args:
        model: What is judged.
        sets: Data sets with held-out points.
        context_sizes: Points in the contexts (P of them).
        maps: The changes; `axis_maps` if None.
    """
    sizes = check_sizes(model, context_sizes)
    maps = axis_maps(len(sets.context), sets.context.shape[-1]) if maps is None else maps
    straight = log_densities(model, sets, sizes)
    return {
        name: (
            log_densities(model, sets.mapped(matrix), sizes)
            + torch.linalg.slogdet(matrix).logabsdet[:, None, None]
            - straight
        ).abs()
        for name, matrix in maps.items()
    }


def log_densities(model: DensityLearner, sets: Sets, sizes: Sequence[int]) -> Float[Tensor, "B P R"]:
    """Log densities of the held-out points after the first points of each context."""
    parts = []
    for context, points in zip(sets.context.split(_TOGETHER), sets.points.split(_TOGETHER), strict=True):
        repeated = points[:, None].expand(-1, len(sizes), -1, -1)
        with torch.no_grad():
            parts.append(model.predictives(context, sizes).log_prob(repeated))
    return torch.cat(parts)


def changes_table(changes: Mapping[str, Float[Tensor, "B P R"]], sizes: Sequence[int]) -> Table:
    """Mean absolute change, and in parentheses the largest, by context size."""
    rows = [
        [name, *(f"{float(c.mean()):.3f} ({float(c.max()):.2f})" for c in change.unbind(1))]
        for name, change in changes.items()
    ]
    return Table(["change of axes", *(f"n = {n}" for n in sizes)], rows)
