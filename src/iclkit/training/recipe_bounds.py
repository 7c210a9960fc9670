"""Numbers of a recipe that no machine could carry out, refused before anything is built or drawn."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.training.recipe import Recipe

# Of a task, an objective or a network: a number of components, of functions in a pool, of candidates, ...
MOST = 2**24
# Of a run as a whole: updates, episodes, ...
MOST_OF_A_RUN = 2**53
# Numbers in the points or candidates of one micro-batch: 4 GB, and networks hold many times as many.
MOST_IN_A_BATCH = 10**9


def check_bounds(recipe: Recipe) -> None:
    """Refuse numbers that are not finite or too large.

    Raises:
        UserError: Names the field, what was given and what is accepted.
    """
    _check_fields(recipe, "", MOST_OF_A_RUN)
    # What the objective counts (negatives, chains, ...) multiplies the points.
    counts = [v for v in vars(recipe.objective).values() if isinstance(v, int) and not isinstance(v, bool)]
    size = getattr(recipe.task, "dim", 1)
    numbers = recipe.episodes * recipe.points * size * max([1, *counts])
    if numbers > MOST_IN_A_BATCH:
        raise UserError(
            f"a micro-batch of {recipe.episodes} episodes of {recipe.points} points would have {numbers:.1e} "
            f"numbers, at most {MOST_IN_A_BATCH:.0e} are accepted; give fewer episodes, and accumulate more"
        )


def _check_fields(value: Any, path: str, most: int) -> None:
    """Check every number in a dataclass and those within it."""
    for field in dataclasses.fields(value):
        name, member = path + field.name, getattr(value, field.name)
        for number in member if isinstance(member, tuple) else (member,):
            if dataclasses.is_dataclass(number):
                _check_fields(number, f"{name}.", MOST)
            elif isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} must be finite, given {number}")
            elif isinstance(number, int) and abs(number) > most and field.name != "seed":
                raise UserError(f"{name} must be at most {most}, given {number}")
