"""Other inputs, queries and noise than a task's own: tasks around a task, and the published shifts by name.

They nest: `Scaled(Skewed(task), targets_factor=2.0)` does both. Those that move inputs move those of whole
episodes; those that move queries leave the context as it is and state `queries`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.linear import LinearRegression
from iclkit.tasks.regression import Functions, RegressionTask, Setting, check_std, check_task


@dataclass(frozen=True)
class Around(RegressionTask):
    """A task around another one; as it stands, the same task.

    Args:
        task: The task that is changed.
    """

    task: RegressionTask = field(default_factory=LinearRegression)

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.task.dim

    @property
    def noise_std(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the task within."""
        return self.task.noise_std

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        return self.task.functions(episodes, generator)

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.task.inputs(episodes, points, generator)

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.task.queries(x, generator)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        return self.task.setting(episodes, points, generator, active)


class MovedInputs(Around):
    """A task whose inputs are those of another, moved."""

    @abstractmethod
    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        """The inputs of a batch of episodes from the other task's."""

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.move(self.task.inputs(episodes, points, generator), generator)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(episodes, points, generator, active)
        return replace(inner, x=self.move(inner.x, generator))


@dataclass(frozen=True)
class ScaledFunctions:
    """f(x) = factor g(x)."""

    functions: Functions
    factor: float

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return self.factor * self.functions(x)


@dataclass(frozen=True)
class Scaled(MovedInputs):
    """Inputs or function values of another size; the noise stays as it is, as in the authors' code.

    Args:
        task: The task that is changed.
        inputs_factor: Factor of the inputs; the functions are the same, so their values change with them.
        targets_factor: Factor of the function values; for linear functions, of the weights.

    Raises:
        UserError: A factor that is not finite and positive.

    Source: Garg et al. (2022), section 4: factors 1/3, 1/2, 2, 3.
    """

    inputs_factor: float = 1.0
    targets_factor: float = 1.0

    def __post_init__(self) -> None:
        check_task(inputs_factor=self.inputs_factor, targets_factor=self.targets_factor)

    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return self.inputs_factor * x

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> Functions:
        return ScaledFunctions(self.task.functions(episodes, generator), self.targets_factor)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        moved = super().setting(episodes, points, generator, active)
        return replace(moved, law=ScaledFunctions(moved.law, self.targets_factor))


@dataclass(frozen=True)
class Skewed(MovedInputs):
    """Inputs with eigenvalues of the covariance ∝ 1/i², in a random basis of each episode's own.

    They are scaled so that E‖x‖² stays, as in the authors' code. That code draws one basis for a whole
    evaluation; here each episode has its own, as in their text, so that an average does not hang on one draw.

    Source: Garg et al. (2022), section 4 and `sample_transformation` of their code.
    """

    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        spread = 1.0 / torch.arange(1, self.dim + 1)
        return _transform(x, spread, generator)


@dataclass(frozen=True)
class HalfSubspace(MovedInputs):
    """Inputs in a random subspace of half of the dimensions (rounded down, at least one), each episode its own.

    They are scaled so that E‖x‖² stays; on the draw of the subspace see `Skewed`.

    Source: Garg et al. (2022), section 4 and `sample_transformation` of their code.
    """

    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        spread = (torch.arange(self.dim) < max(1, self.dim // 2)).float()
        return _transform(x, spread, generator)


def _transform(
    x: Float[Tensor, "B N d"], spread: Float[Tensor, " d"], generator: torch.Generator | None
) -> Float[Tensor, "B N d"]:
    """x times U diag(spread) Uᵀ, a random U for each episode, and times what keeps E‖x‖² for isotropic x."""
    dim = x.shape[-1]
    # The Q of a normal matrix is a uniformly random basis but for its columns' signs, which do not matter here.
    basis = torch.linalg.qr(torch.randn(len(x), dim, dim, generator=generator)).Q.to(x)
    spread = (spread * math.sqrt(dim / spread.square().sum().item())).to(x)
    return ((x @ basis) * spread) @ basis.mT


@dataclass(frozen=True)
class DiagonalCovariance(MovedInputs):
    """Each coordinate of the inputs with a variance of its own.

    Args:
        task: The task that is changed.
        variances: The d variances; if None, Exp(1) numbers that each episode draws for itself.

    Raises:
        UserError: Not as many variances as dimensions, or one that is not finite and positive.

    Source: Zhang, Frei and Bartlett (2023), sections 4.1 (fixed) and 4.4 (random).
    """

    variances: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.variances is None:
            return
        if len(self.variances) != self.dim:
            raise UserError(f"variances must be {self.dim}, one a dimension, given {len(self.variances)}")
        for i, variance in enumerate(self.variances):
            check_task(**{f"variances[{i}]": variance})

    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        if self.variances is not None:
            return x * torch.tensor(self.variances).to(x).sqrt()
        exponential = -torch.log1p(-torch.rand(len(x), 1, self.dim, generator=generator))
        return x * exponential.to(x).sqrt()


@dataclass(frozen=True)
class LabelNoise(Around):
    """Further noise on the targets; the functions stay.

    The authors' text adds N(0, 1) and no more; their code also divides the noisy targets by their standard
    deviation, times √d. Here they are not divided: learners are compared on the functions as they are.

    Args:
        task: The task that is changed.
        std: Standard deviation of the further noise.

    Raises:
        UserError: A standard deviation that is negative.

    Source: Garg et al. (2022), section 4 and `NoisyLinearRegression` of their code.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        check_std(std=self.std)

    @property
    def noise_std(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of both kinds of noise together."""
        return math.hypot(self.task.noise_std, self.std)

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        inner = self.task.setting(episodes, points, generator, active)
        noise_std = inner.noise_std
        if isinstance(noise_std, Tensor):
            return replace(inner, noise_std=(noise_std.square() + self.std**2).sqrt())
        return replace(inner, noise_std=math.hypot(noise_std, self.std))


@dataclass(frozen=True)
class RandomOrthants(MovedInputs):
    """All inputs of an episode in one random orthant; its queries in any.

    Query n is point n with signs drawn anew: for inputs that are symmetric in every coordinate a fresh input,
    which lies in the orthant of the context with probability 2^-d only.

    Source: Garg et al. (2022), section 4 (`gen_random_quadrants` of their code).
    """

    def move(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return x.abs() * _signs((len(x), 1, self.dim), generator).to(x)

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        return x * _signs(x.shape, generator).to(x)


def _signs(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return 2 * torch.randint(2, shape, generator=generator) - 1


@dataclass(frozen=True)
class OrthogonalQueries(Around):
    """Queries orthogonal to all inputs before them: point n less its projection on them, of its own norm.

    After d inputs in general position 0 is the only such vector, and it is the query from prefix d on, as in
    the authors' code. Where f(0) = 0 that asks for nothing: report prefixes below d alone.

    Source: Garg et al. (2022), section 4 (`gen_orthogonal_train_test` of their code).
    """

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        points, dim = x.shape[1:]
        count = min(points, dim)
        # Column n of Q is point n less its projection on those before it, normalised, up to its sign.
        q, r = torch.linalg.qr(x[:, :count].mT)
        signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(x)
        orthogonal = (q * signs[:, None]).mT * x[:, :count].norm(dim=-1, keepdim=True)
        return torch.nn.functional.pad(orthogonal, (0, 0, 0, points - count))


@dataclass(frozen=True)
class RepeatedQueries(Around):
    """Queries that repeat a random input of the context; after the empty context, the point itself.

    Source: Garg et al. (2022), section 4 (`gen_overlapping_train_test` of their code).
    """

    def queries(
        self, x: Float[Tensor, "B N d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        seen = torch.arange(x.shape[1])
        uniform = torch.rand(x.shape[:2], generator=generator, dtype=torch.float64)
        # Rounding up to the next integer cannot happen below 2^53 points.
        places = (uniform * seen).long().to(x.device)
        return x.gather(1, places[..., None].expand_as(x))


SHIFTS: dict[str, Callable[[RegressionTask], RegressionTask]] = {
    "x-third": lambda task: Scaled(task, inputs_factor=1 / 3),
    "x-half": lambda task: Scaled(task, inputs_factor=1 / 2),
    "x-double": lambda task: Scaled(task, inputs_factor=2.0),
    "x-triple": lambda task: Scaled(task, inputs_factor=3.0),
    "y-third": lambda task: Scaled(task, targets_factor=1 / 3),
    "y-half": lambda task: Scaled(task, targets_factor=1 / 2),
    "y-double": lambda task: Scaled(task, targets_factor=2.0),
    "y-triple": lambda task: Scaled(task, targets_factor=3.0),
    "skewed": Skewed,
    "half-subspace": HalfSubspace,
    "label-noise": LabelNoise,
    "random-orthants": RandomOrthants,
    "orthogonal-query": OrthogonalQueries,
    "repeated-query": RepeatedQueries,
}
"""The published conditions out of distribution, by name: a task to the same task under that shift."""
