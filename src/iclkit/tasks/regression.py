"""What every task distribution over functions offers: inputs, a function for each episode, noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.base import Task


@runtime_checkable
class Functions(Protocol):
    """The functions behind a batch of episodes, one each, without noise."""

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]: ...


@dataclass(frozen=True)
class Pairs:
    """A batch of regression episodes.

    Args:
        x: Inputs.
        y: Targets, with their noise.
        law: The functions that the targets were read from; None where nobody knows them (a user's array).
        best: What Bayes' rule predicts of each target from the pairs before it; None where nobody asked for it.
    """

    x: Float[Tensor, "B N d"]
    y: Float[Tensor, "B N"]
    law: Functions | None
    best: Float[Tensor, "B N"] | None = None


@dataclass(frozen=True)
class Setting:
    """All of a batch of episodes but the noise; what tasks that change another task work on.

    Args:
        x: Inputs.
        law: The functions.
        noise_std: Standard deviation of the noise: one for all, or one an episode [B].
    """

    x: Float[Tensor, "B N d"]
    law: Functions
    noise_std: float | Float[Tensor, " B"]


class RegressionTask(Task):
    """A distribution over functions and the inputs that they are seen at; y = f(x) + N(0, noise_std²).

    A new task states `functions`, and `inputs` where they are not N(0, I). One whose inputs, functions and
    noise go together (a mixture of tasks), or which changes another task, states `setting`.
    """

    dim: int
    noise_std: float = 0.0

    @abstractmethod
    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        """Draw one function for each episode: a dataclass of tensors whose first axis is the episode."""

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """Draw the inputs of a batch of episodes; N(0, I) unless the task says otherwise."""
        return torch.randn(episodes, points, self.dim, generator=generator)

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """The inputs that a learner is asked for after each prefix: the next point itself, unless the task says
        otherwise (queries from elsewhere than the context)."""
        return x

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        """Draw inputs and functions; arguments as in `draw`, which alone sets the other coordinates to 0."""
        return Setting(
            self.inputs(episodes, points, generator), self.functions(episodes, generator), self.noise_std
        )

    def draw(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Pairs:
        """Draw a batch of episodes.

        Args:
            episodes: How many (B).
            points: Pairs in each (N).
            generator: Source of randomness; the same state gives the same episodes.
            active: Coordinates of the inputs that are used, the others being 0; all if None (for a curriculum).

        Raises:
            UserError: More active coordinates than there are, or none; episodes or points that are no whole
                numbers; a generator that is none.
        """
        check_draw(self, episodes, points, generator, active)
        setting = self.setting(episodes, points, generator, active)
        x = first_coordinates(setting.x, active)
        y = setting.law(x)
        noise_std = setting.noise_std
        if isinstance(noise_std, Tensor):
            y = y + noise_std[:, None] * torch.randn(y.shape, generator=generator)
        elif noise_std:
            y = y + noise_std * torch.randn(y.shape, generator=generator)
        return Pairs(x, y, setting.law)

    def sample(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B N d"], Float[Tensor, "B N"]]:
        """Draw a batch of datasets (x, y); arguments as in `draw`."""
        pairs = self.draw(episodes, points, generator)
        return pairs.x, pairs.y


# Numbers in the inputs of one batch: 4 GB.
MOST = 10**9


def uniform_inputs(
    episodes: int, points: int, dim: int, half_width: float, generator: torch.Generator | None
) -> Float[Tensor, "B N d"]:
    """Inputs with independent coordinates from U(-half_width, half_width)."""
    return half_width * (2 * torch.rand(episodes, points, dim, generator=generator) - 1)


def flat_points(x: Float[Tensor, "B *points d"]) -> Float[Tensor, "B N d"]:
    """x with one axis of points, whether it has none, one or several."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def first_coordinates(x: Float[Tensor, "*points d"], active: int | None) -> Float[Tensor, "*points d"]:
    """x with all but the first `active` coordinates set to 0; x itself if all are active."""
    if active is None or active >= x.shape[-1]:
        return x
    return torch.cat([x[..., :active], torch.zeros_like(x[..., active:])], -1)


def check_draw(
    task: RegressionTask, episodes: int, points: int, generator: torch.Generator | None, active: int | None
) -> None:
    """Refuse what no episodes can be drawn with; arguments and errors as of `RegressionTask.draw`."""
    check_whole(0, episodes=episodes, points=points)
    if episodes * points * task.dim > MOST:
        raise UserError(
            f"{episodes} episodes of {points} points with {task.dim} columns are more than {MOST:.0e} numbers; "
            "draw fewer at a time"
        )
    if active is not None:
        check_whole(1, task.dim, active=active)
    if not isinstance(generator, torch.Generator | None):
        raise UserError(
            f"generator must be a torch.Generator or None, given {generator!r}; "
            "of a seed make one by torch.Generator().manual_seed(seed)"
        )


def check_whole(low: int, high: float = math.inf, **whole: int) -> None:
    """Refuse fields that are no whole numbers, or none in low..high.

    Raises:
        UserError: Names the field and what was given.
    """
    for name, value in whole.items():
        if not isinstance(value, Integral):
            raise UserError(f"{name} must be a whole number, given {value!r}")
        if not low <= value <= high:
            accepted = f"lie in {low}..{high}" if high < math.inf else f"be at least {low}"
            raise UserError(f"{name} must {accepted}, given {value}")


def check_std(**std: float) -> None:
    """Refuse fields that are no standard deviations: numbers, finite and not negative.

    Raises:
        UserError: Names the field and what was given.
    """
    for name, value in std.items():
        if not (isinstance(value, Real) and value >= 0 and math.isfinite(value)):
            raise UserError(f"{name} must be finite and not negative, given {value!r}")


def check_task(dim: int = 1, noise_std: float = 0.0, /, **positive: float) -> None:
    """Refuse numbers that describe no task.

    Args:
        dim: To be a whole number of at least 1.
        noise_std: To be finite and not negative.
        **positive: Further fields, to be finite and positive.

    Raises:
        UserError: Names the field and what was given.
    """
    check_whole(1, dim=dim)
    check_std(noise_std=noise_std)
    for name, value in positive.items():
        if not (isinstance(value, Real) and value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be finite and positive, given {value!r}")
