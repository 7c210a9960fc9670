"""Linear functions: the class that most is known of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import unknown
from iclkit.tasks.regression import RegressionTask, Setting, check_task, check_whole, uniform_inputs


@dataclass(frozen=True)
class LinearFunctions:
    """f(x) = wᵀx, one w an episode."""

    weights: Float[Tensor, "B d"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return torch.einsum("b...d,bd->b...", x, self.weights.to(x))


@dataclass(frozen=True)
class LinearRegression(RegressionTask):
    """y = wᵀx + noise with w ~ N(0, weight_std² I) and x ~ N(0, I) or uniform.

    Args:
        dim: Dimension of the inputs.
        noise_std: Standard deviation of the noise (σ).
        weight_std: Standard deviation of the weights (τ).
        inputs_law: "normal" for x ~ N(0, I); "uniform" for coordinates from U(-half_width, half_width). Other
            covariances are tasks around this one (`DiagonalCovariance`, `Skewed`, ...).
        half_width: See inputs_law.

    Raises:
        UserError: A dimension below one, a standard deviation that is negative (for the weights: or zero), or
            another law.

    Source: Garg et al. (2022), section 3; with noise, Akyürek et al. (2022), section 4; with uniform inputs,
        von Oswald et al. (2022), section 3. There the text says U(-1, 1) and the code draws U(-1/2, 1/2); only
        half_width=0.5 gives the published loss.
    """

    dim: int = 8
    noise_std: float = 0.0
    weight_std: float = 1.0
    inputs_law: Literal["normal", "uniform"] = "normal"
    half_width: float = 1.0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std, weight_std=self.weight_std, half_width=self.half_width)
        if self.inputs_law not in ("normal", "uniform"):
            raise unknown("inputs_law", str(self.inputs_law), ("normal", "uniform"))

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        if self.inputs_law == "uniform":
            return uniform_inputs(episodes, points, self.dim, self.half_width, generator)
        return super().inputs(episodes, points, generator)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> LinearFunctions:
        return LinearFunctions(self.weight_std * torch.randn(episodes, self.dim, generator=generator))


@dataclass(frozen=True)
class SparseLinearRegression(RegressionTask):
    """y = wᵀx + noise with x ~ N(0, I), where few coordinates of w are N(0, 1) and the others are 0.

    Under a curriculum (`active` in `draw`) they lie among the active coordinates, as in the authors' code.

    Args:
        dim: Dimension of the inputs.
        nonzero: How many coordinates of w are not 0.
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: More non-zero coordinates than there are, or none; a negative standard deviation.

    Source: Garg et al. (2022), section 5.
    """

    dim: int = 20
    nonzero: int = 3
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std)
        check_whole(1, self.dim, nonzero=self.nonzero)

    def functions(
        self, episodes: int, generator: torch.Generator | None = None, active: int | None = None
    ) -> LinearFunctions:
        weights = torch.randn(episodes, self.dim, generator=generator)
        # The smallest of random keys mark a random subset; those of inactive coordinates are larger.
        keys = torch.rand(episodes, self.dim, generator=generator)
        if active is not None:
            keys[:, active:] += 1
        rank = keys.argsort(-1).argsort(-1)
        return LinearFunctions(torch.where(rank < self.nonzero, weights, 0.0))

    def setting(
        self,
        episodes: int,
        points: int,
        generator: torch.Generator | None = None,
        active: int | None = None,
    ) -> Setting:
        x = self.inputs(episodes, points, generator)
        return Setting(x, self.functions(episodes, generator, active), self.noise_std)


@dataclass(frozen=True)
class SignFunctions:
    """f(x) = sign(wᵀx), one w an episode; 1 where wᵀx is 0."""

    weights: Float[Tensor, "B d"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return torch.where(LinearFunctions(self.weights)(x) >= 0, 1.0, -1.0).to(x)


@dataclass(frozen=True)
class SignClassification(RegressionTask):
    """y = sign(wᵀx) with w ~ N(0, I) and x ~ N(0, I): two classes as the numbers -1 and 1.

    Args:
        dim: Dimension of the inputs.

    Raises:
        UserError: A dimension below one.

    Source: Garg et al. (2022), their code only (`LinearClassification`).
    """

    dim: int = 20

    def __post_init__(self) -> None:
        check_task(self.dim)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> SignFunctions:
        return SignFunctions(torch.randn(episodes, self.dim, generator=generator))
