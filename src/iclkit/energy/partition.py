"""The normalising constant Z of exp(-E): what is reported, and which method finds it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclkit.energy.annealing import Annealed
from iclkit.energy.quadrature import Quadrature

QUADRATURE_DIMS = 3  # above, the cells of a quadrature are too many


@dataclass(frozen=True)
class LogPartition:
    """log Z for each context, and how far to trust it.

    Args:
        estimate: log Z, in nats.
        error: Estimated error of it, in nats. By quadrature: how much the last refinement changed, plus the
            mass in the outermost cells of the box, which stands for what lies outside. By annealing: the
            standard error.
        method: How it was found, in words.
        boundary: Share of the mass in the outermost cells of the box (0 for annealing, which has none).
        evaluations: Energies (or their gradients) evaluated per context.
    """

    estimate: Float[Tensor, "*B"]
    error: Float[Tensor, "*B"]
    method: str
    boundary: Float[Tensor, "*B"]
    evaluations: int


def by_quadrature(result: Quadrature, like: Tensor) -> LogPartition:
    """Report a quadrature, in the dtype and on the device of `like`."""
    count = len(result.cells) // max(len(result.half_width), 1)
    method = f"adaptive quadrature, {count} cells, {result.evaluations} evaluations a context"
    return LogPartition(
        result.log_integral.to(like),
        (result.error + result.boundary).to(like),
        method,
        result.boundary.to(like),
        result.evaluations,
    )


def by_annealing(result: Annealed) -> LogPartition:
    """Report annealed importance sampling."""
    method = (
        f"annealed importance sampling, {result.log_weights.shape[1]} particles, "
        f"{result.evaluations} gradients a context"
    )
    estimate = result.log_integral
    return LogPartition(estimate, result.error, method, estimate.new_zeros(estimate.shape), result.evaluations)
