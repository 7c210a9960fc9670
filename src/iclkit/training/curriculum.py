"""A curriculum: easier functions and shorter contexts first."""

from __future__ import annotations

from dataclasses import dataclass

from iclkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The used coordinates of the inputs and the points of an episode grow in stages, up to the recipe's own.

    A stage is a pure function of the update's number, so a resumed run needs no state for it. Stages are
    counted in updates, not in shares of the run: a run of other length meets the same ones. The batches of a
    stage are drawn at its own size from the seeds of their own steps; they are no truncation of what the recipe
    would have drawn at its full size.

    Args:
        dim: Coordinates in the first stage; the others are 0.
        dim_step: How many more each stage has.
        points: Points of an episode in the first stage.
        points_step: How many more each stage has.
        every: Updates in each stage.

    Raises:
        UserError: A first stage of nothing, or one that shrinks.

    Source: Garg et al. (2022), section 6 and appendix A.2.
    """

    dim: int = 5
    dim_step: int = 1
    points: int = 11
    points_step: int = 2
    every: int = 2000

    def __post_init__(self) -> None:
        if min(self.dim, self.points, self.every) < 1:
            raise UserError(
                "curriculum.dim, points and every must be at least 1, "
                f"given {self.dim}, {self.points} and {self.every}"
            )
        if min(self.dim_step, self.points_step) < 0:
            raise UserError(
                "curriculum.dim_step and points_step must not be negative, "
                f"given {self.dim_step} and {self.points_step}"
            )

    def at(self, step: int, dim: int, points: int) -> tuple[int, int]:
        """Coordinates and points of update number `step` (0 is the first); at most those of the recipe."""
        stage = step // self.every
        return min(dim, self.dim + stage * self.dim_step), min(points, self.points + stage * self.points_step)
