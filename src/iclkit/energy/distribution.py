"""A landscape with its normalising constant, as a distribution of `torch.distributions`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from iclkit.arrays import as_tensor
from iclkit.energy.partition import LogPartition
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.energy.landscape import EnergyLandscape


class LandscapeDistribution(Distribution):
    """p(x) = exp(-E(x)) / Z for one context (batch shape []) or B of them (batch shape [B]); event shape [d].

    Args:
        landscape: The energy.
        log_partition: Its log Z; kept as an attribute, for its error and method.
        truncate: The density is zero outside of the landscape's box.
        generator: Source of randomness of `sample`; None for torch's global one.
    """

    # torch declares these as properties and overrides them by class attributes in its own distributions.
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride]
    support = constraints.real_vector  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = False

    def __init__(
        self,
        landscape: EnergyLandscape,
        log_partition: LogPartition,
        truncate: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.landscape = landscape
        self.log_partition = log_partition
        self._truncate = truncate
        self._generator = generator
        batch = torch.Size([] if landscape.batch is None else [landscape.batch])
        super().__init__(batch, torch.Size([landscape.dim]), validate_args=True)

    def log_prob(self, value: Float[Tensor, "*S d"] | Any) -> Float[Tensor, "*S"]:
        """Log density in nats.

        Args:
            value: Points: a tensor, an array, a DataFrame or a list, [*sample, *batch, d] or what broadcasts to
                it.

        Raises:
            UserError: Points of another shape, or NaN.
        """
        value = as_tensor(value, "points", allow="infinite")
        batch = list(self.batch_shape)
        if value.shape[-1:] != self.event_shape or not _broadcasts(value.shape[:-1], self.batch_shape):
            accepted = ", ".join(["...", *map(str, batch), str(self.landscape.dim)])
            raise UserError(f"points of this density are of shape [{accepted}], given {list(value.shape)}")
        if not self.batch_shape:
            return self._within(value, -self.landscape.energy(value)) - self.log_partition.estimate
        # A landscape has its contexts in front, a distribution right before the event.
        value = value.expand(torch.broadcast_shapes(value.shape, self._extended_shape()))
        points = value.movedim(-2, 0)
        return self._within(points, -self.landscape.energy(points)).movedim(0, -1) - self.log_partition.estimate

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*S d"]:  # noqa: B008
        """Independent draws (d <= 3) or draws of many HMC chains, [*sample_shape, *batch, d]."""
        shape = torch.Size(sample_shape)
        size = max(1, shape.numel())
        if self._truncate:
            draws = self.landscape._sample_within_box(size, self._generator)
        else:
            draws = self.landscape.sample(size, generator=self._generator)
        if self.batch_shape:
            draws = draws.transpose(0, 1)
        return draws[: shape.numel()].reshape(self._extended_shape(shape))

    def _within(self, points: Tensor, log_density: Tensor) -> Tensor:
        """The log density inside the box, -inf outside it."""
        if not self._truncate:
            return log_density
        box = self.landscape._integral.box
        flat = points.to(box.centre).reshape(len(box.centre), -1, self.landscape.dim)
        inside = box.contains(flat).view(points.shape[:-1])
        return torch.where(inside, log_density, -math.inf)


def _broadcasts(shape: torch.Size, batch: torch.Size) -> bool:
    """Whether the last axes of a shape are those of the batch, or would be after broadcasting."""
    last = shape[-len(batch) :] if batch else ()
    return all(given in (1, wanted) for given, wanted in zip(reversed(last), reversed(batch), strict=False))
