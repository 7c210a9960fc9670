"""The normalising constant Z of exp(-E): what is reported, and when it is too uncertain to normalise with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.annealing import Annealed
from iclkit.energy.outside import Outside
from iclkit.energy.quadrature import Quadrature
from iclkit.energy.tails import FALL, Tails
from iclkit.errors import UserError

QUADRATURE_DIMS = 3  # above, the cells of a quadrature are too many
_LARGEST_ERROR = 1.0  # nats; a density that may be e times too high or too low is none


@dataclass(frozen=True)
class LogPartition:
    """log Z for each context, and how far to trust it.

    Args:
        estimate: log Z, in nats. Where exp(-E) has no finite integral, that over the box (see
            `EnergyLandscape.normalise`).
        error: One standard error of it, in nats; infinite where exp(-E) has no finite integral. By quadrature:
            how much the last refinement changed. By annealing: that of the sum of mean weights.
        method: How it was found, in words.
        boundary: Share of the mass in the outermost cells of the quadrature's box (0 for annealing).
        evaluations: Energies (or their gradients) evaluated per context.
        decay: How the mass beyond a large radius r falls: as r^-decay, along the ray from the centre on which
            it falls most slowly. Infinite for tails lighter than every power, below 0.05 where there is no
            finite integral. None if the integral is over the box alone.
    """

    estimate: Float[Tensor, "*B"]
    error: Float[Tensor, "*B"]
    method: str
    boundary: Float[Tensor, "*B"]
    evaluations: int
    decay: Float[Tensor, "*B"] | None = None

    def require_density(self) -> None:
        """Refuse to normalise with a constant that does not exist or is not known well enough.

        Raises:
            UserError: exp(-E) has no finite integral, or the error is above one nat or undefined.
        """
        if self.decay is not None:
            require_decay(self.decay)
        error = self.error.flatten()
        bad = ~(error <= _LARGEST_ERROR) | ~self.estimate.flatten().isfinite()
        if bad.any():
            first = bad.nonzero()[0, 0]
            raise UserError(
                f"log Z is too uncertain to normalise with{_which(self.error, first)}: "
                f"{float(self.estimate.flatten()[first]):.6g} with an error of {float(error[first]):.2g} nats, "
                f"above {_LARGEST_ERROR:g}; give a centre and a scale that fit the mass (most of it within "
                "four scales), and anchors at its narrow modes"
            )


def require_decay(decay: Float[Tensor, "*B"]) -> None:
    """Refuse energies whose exp(-E) has no finite integral; `decay` as in `LogPartition`."""
    slow = ~(decay.flatten() > FALL)
    if slow.any():
        first = slow.nonzero()[0, 0]
        raise UserError(
            f"the energy does not decay{_which(decay, first)}: along a ray from the centre the mass at radius "
            f"r goes as r^{-float(decay.flatten()[first]):.2g}, so exp(-E) has no finite integral; give an "
            "energy that rises on all sides, or truncate=True for the density within the box"
        )


def _which(values: Tensor, index: Tensor) -> str:
    """The context meant, if there are several."""
    return f" in context {int(index)}" if values.numel() > 1 else ""


def by_quadrature(
    result: Quadrature, tails: Tails | None, outside: Outside | None, like: Tensor
) -> LogPartition:
    """Report a quadrature, in the dtype and on the device of `like`; without tails, that over the box."""
    count = len(result.cells) // max(len(result.half_width), 1)
    evaluations, estimate, error = result.evaluations, result.log_integral, result.error
    if tails is not None:
        evaluations += tails.evaluations
        error = error + result.boundary
    if tails is not None and outside is not None:
        evaluations += outside.evaluations
        whole = torch.logaddexp(estimate, outside.log_integral)
        share = (outside.log_integral - whole).exp()
        both = (1 - share) * result.error + share * outside.error
        estimate, error = torch.where(tails.proper, whole, estimate), torch.where(tails.proper, both, error)
    if tails is not None:
        error = error.masked_fill(~tails.proper, torch.inf)
    return LogPartition(
        estimate.to(like),
        error.to(like),
        f"adaptive quadrature, {count} cells, {evaluations} evaluations a context",
        result.boundary.to(like),
        evaluations,
        None if tails is None else tails.decay.to(like),
    )


def by_annealing(result: Annealed, tails: Tails | None, like: Tensor) -> LogPartition:
    """Report annealed importance sampling; without tails, that over the box."""
    method = (
        f"annealed importance sampling, {result.log_weights.shape[1]} parts of {result.log_weights.shape[2]} "
        f"particles, {result.evaluations} gradients a context"
    )
    error = result.error
    if tails is not None:
        error = error.masked_fill(~tails.proper.to(error.device), torch.inf)
    estimate = result.log_integral
    evaluations = result.evaluations + (tails.evaluations if tails else 0)
    return LogPartition(
        estimate.to(like),
        error.to(like),
        method,
        estimate.new_zeros(estimate.shape).to(like),
        evaluations,
        None if tails is None else tails.decay.to(like),
    )
