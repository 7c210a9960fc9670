"""Tasks that look like users' tables: fewer columns, correlated ones, standard units, noise of unknown size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.regression import Functions, Setting, check_task, check_whole, first_coordinates
from iclkit.tasks.shifts import Around


@dataclass(frozen=True)
class RewiredFunctions:
    """f(x) = g(z) with z_j = x_c(j), one wiring c an episode."""

    functions: Functions
    wiring: Int[Tensor, "B d"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        wiring = self.wiring.to(x.device).view(len(x), *[1] * (x.ndim - 2), x.shape[-1])
        return self.functions(x.gather(-1, wiring.expand_as(x)))


@dataclass(frozen=True)
class VariableDimension(Around):
    """A task of 1 to d columns: each episode uses the first k, k uniform, and the others are 0.

    In the place of missing columns the functions read random ones of those that are left, so that no function
    becomes constant.

    Args:
        task: The task that is changed.
        least: The fewest columns.
        correlated: Whether the columns of an episode are mixed by a random matrix of its own, from hardly at
            all to almost entirely. The variance of independent columns of one variance stays.
        scattered: Whether the k columns stand at random places, and not first.

    Raises:
        UserError: A fewest number that does not lie in 1..d.
    """

    least: int = 1
    correlated: bool = False
    scattered: bool = False

    def __post_init__(self) -> None:
        check_whole(1, self.dim, least=self.least)

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.setting(episodes, points, generator).x

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        return self.setting(episodes, 1, generator).law

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(episodes, points, generator, active)
        most = self.dim if active is None else active
        used = torch.randint(min(self.least, most), most + 1, (episodes, 1), generator=generator)
        columns = torch.arange(self.dim)
        present = columns < used  # [B, d]
        replaced = (torch.rand(episodes, self.dim, generator=generator, dtype=torch.float64) * used).long()
        wiring = torch.where(present, columns, replaced)
        x = inner.x * present[:, None].to(inner.x)
        if self.correlated:
            x = x @ _mixing(present.to(x), generator)
        if self.scattered:
            keys = torch.rand(episodes, self.dim, generator=generator) + (columns >= most)
            places = keys.argsort(1)  # column j goes to places[j]; those that are not active stay
            x = torch.zeros_like(x).scatter(2, places[:, None].expand_as(x), x)
            wiring = places.gather(1, wiring)
        return replace(inner, x=x, law=RewiredFunctions(inner.law, wiring))


def _mixing(present: Float[Tensor, "B d"], generator: torch.Generator | None) -> Float[Tensor, "B d d"]:
    """Random matrices between the columns that are present, each column of norm 1."""
    batch, dim = present.shape
    share = torch.rand(batch, 1, 1, generator=generator).to(present)
    normal = torch.randn(batch, dim, dim, generator=generator).to(present)
    spread = (share / present.sum(-1)[:, None, None]).sqrt()
    matrix = (1 - share).sqrt() * torch.eye(dim).to(present) + spread * normal
    matrix = matrix * present[:, :, None] * present[:, None, :]
    return torch.nn.functional.normalize(matrix, dim=1)


@dataclass(frozen=True)
class Padded(Around):
    """A task in more dimensions, of which it does not use the further ones: they are 0.

    Args:
        task: The task that is changed.
        size: The dimension that it is to have.

    Raises:
        UserError: A dimension below the task's own.
    """

    size: int = 8

    def __post_init__(self) -> None:
        check_whole(self.task.dim, size=self.size)

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.size

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self._pad(self.task.inputs(episodes, points, generator))

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self._pad(self.task.queries(x[..., : self.task.dim], generator))

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        return LeadingFunctions(self.task.functions(episodes, generator), self.task.dim)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(
            episodes, points, generator, None if active is None else min(active, self.task.dim)
        )
        return replace(inner, x=self._pad(inner.x), law=LeadingFunctions(inner.law, self.task.dim))

    def _pad(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, self.size - x.shape[-1]))


@dataclass(frozen=True)
class LeadingFunctions:
    """f(x) = g(x_1, ..., x_dim)."""

    functions: Functions
    dim: int

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return self.functions(x[..., : self.dim])


@dataclass(frozen=True)
class AffineFunctions:
    """f(x) = (g(x · x_std + x_mean) - y_mean) / y_std."""

    functions: Functions
    x_mean: Float[Tensor, "B d"]
    x_std: Float[Tensor, "B d"]
    y_mean: Float[Tensor, " B"]
    y_std: Float[Tensor, " B"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        ones = [1] * (x.ndim - 2)
        x_std, x_mean = (t.to(x).view(len(x), *ones, -1) for t in (self.x_std, self.x_mean))
        y_std, y_mean = (t.to(x).view(len(x), *ones) for t in (self.y_std, self.y_mean))
        return (self.functions(x * x_std + x_mean) - y_mean) / y_std


@dataclass(frozen=True)
class Standardised(Around):
    """A task in the standard units of each episode: every column, and the function at its points, of mean 0 and
    variance 1. What is constant in an episode becomes 0. The noise is divided by the function's spread.

    As users' tables are brought into standard units by their own moments, so are the episodes that a learner
    for them is trained on. `noise_std` is that of the task within, in its own units.
    """

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.setting(episodes, points, generator).x

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        """Refused: which units are standard depends on the points.

        Raises:
            UserError: Always.
        """
        raise UserError("standard units depend on the points; use draw, sample or setting")

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(episodes, points, generator, active)
        x = first_coordinates(inner.x, active)
        y = inner.law(x)
        x_mean, x_std = _moments(x)
        y_mean, y_std = _moments(y)
        noise_std = torch.as_tensor(inner.noise_std).to(y) / y_std
        law = AffineFunctions(inner.law, x_mean, x_std, y_mean, y_std)
        return Setting((x - x_mean[:, None]) / x_std[:, None], law, noise_std)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the points; 1 for the latter where the values are constant."""
    std, mean = torch.std_mean(values, 1, correction=0)
    # Rounding leaves a constant some 1e-7 of its size.
    return mean, torch.where(std > 1e-5 * (1 + mean.abs()), std, 1.0)


@dataclass(frozen=True)
class NoiseLevels(Around):
    """Noise of a size that each episode draws: log-uniform between two levels, and added to what there is.

    Args:
        task: The task that is changed.
        least: The smallest standard deviation.
        most: The largest standard deviation.

    Raises:
        UserError: Levels that are not positive, or the wrong way round.
    """

    least: float = 0.01
    most: float = 1.0

    def __post_init__(self) -> None:
        check_task(least=self.least, most=self.most)
        if self.least > self.most:
            raise UserError(f"least must not exceed most, given {self.least} and {self.most}")

    @property
    def noise_std(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of all episodes together, that is, the root of the mean variance."""
        ratio = math.log(self.most / self.least)
        # The mean of exp(2 u) for u uniform between log least and log most.
        mean = self.least**2 if ratio < 1e-9 else (self.most**2 - self.least**2) / (2 * ratio)
        return math.sqrt(self.task.noise_std**2 + mean)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(episodes, points, generator, active)
        uniform = torch.rand(episodes, generator=generator)
        level = self.least * (self.most / self.least) ** uniform
        return replace(inner, noise_std=(torch.as_tensor(inner.noise_std).square() + level.square()).sqrt())
