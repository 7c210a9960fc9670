"""Where chains start that are told so: at given points, or spread over the box of the published ones.

Shape letters: B contexts, S chains, d coordinates.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.arrays import as_tensor
from iclkit.energy.chains import Sampler
from iclkit.energy.samplers import PUBLISHED_START
from iclkit.errors import UserError, unknown

Start = Any | Literal["uniform"] | None


def literal(sampler: Sampler | None) -> bool:
    """Whether a sampler's settings are in units of x as they stand."""
    return bool(getattr(sampler, "literal", False))


def starting_points(
    start: Any,
    size: int,
    centre: Float[Tensor, "B d"],
    batch: int | None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B S d"]:
    """One point for each chain.

    Args:
        start: Points, [S, d] or [B, S, d] as the landscape is batched, or "uniform".
        size: How many chains (S).
        centre: Of the landscape, whose dtype and device the points get.
        batch: B; None for an unbatched landscape.
        generator: Source of randomness.

    Raises:
        UserError: Another word, or points of another shape.
    """
    shape = (len(centre), size, centre.shape[-1])
    if isinstance(start, str):
        if start != "uniform":
            raise unknown("start", start, ("uniform",))
        return centre.new_empty(shape).uniform_(-PUBLISHED_START, PUBLISHED_START, generator=generator)
    points = as_tensor(start, "start").detach().to(centre)
    wanted = shape[1:] if batch is None else shape
    if points.shape != wanted:
        raise UserError(
            f"start must hold one point for each of {size} draws, {list(wanted)}, given {list(points.shape)}"
        )
    return points.reshape(shape)
