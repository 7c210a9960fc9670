"""Functions that are linear in known features of the input: squares, Fourier and Chebyshev bases."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import unknown
from iclkit.tasks.regression import RegressionTask, check_task, check_whole, uniform_inputs


@dataclass(frozen=True)
class FeatureFunctions:
    """f(x) = wᵀφ(x), one w an episode and the same features φ for all."""

    weights: Float[Tensor, "B F"]
    features: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return torch.einsum("b...f,bf->b...", self.features(x), self.weights.to(x))


class FeatureRegression(RegressionTask):
    """y = wᵀφ(x) + noise with w ~ N(0, s² I), which Bayesian linear regression on φ(x) solves."""

    @property
    @abstractmethod
    def feature_count(self) -> int:
        """How many features there are (F)."""

    @property
    @abstractmethod
    def feature_weight_std(self) -> float:
        """Standard deviation of each weight (s)."""

    @abstractmethod
    def features(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points F"]:
        """φ(x)."""

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> FeatureFunctions:
        weights = self.feature_weight_std * torch.randn(episodes, self.feature_count, generator=generator)
        return FeatureFunctions(weights, self.features)


@dataclass(frozen=True)
class QuadraticRegression(FeatureRegression):
    """y = Σ w_i x_i² / √3 + noise with w ~ N(0, I) and x ~ N(0, I); E y² = d without noise, as for linear ones.

    Args:
        dim: Dimension of the inputs.
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: A dimension below one, or a negative standard deviation.

    Source: Garg et al. (2022), their code only.
    """

    dim: int = 20
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std)

    @property
    def feature_count(self) -> int:
        return self.dim

    @property
    def feature_weight_std(self) -> float:
        return 1.0

    def features(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points F"]:
        return x.square() / math.sqrt(3)  # E x⁴ = 3


@dataclass(frozen=True)
class Polynomials(FeatureRegression):
    """y = Σ_k w_k φ_k(x) + noise, d = 1 and x ~ U(-1, 1), with equal variances of the w_k such that E y² = 1.

    "fourier" has the trigonometric polynomials of period 2: 1, √2 cos(kπx) and √2 sin(kπx); "chebyshev" the
    Chebyshev polynomials T_k(x) = cos(k arccos x), those outside of [-1, 1] by their recurrence.

    Args:
        basis: "fourier" or "chebyshev".
        degree: The highest k.
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: Another basis, a negative degree or standard deviation.
    """

    basis: Literal["fourier", "chebyshev"] = "fourier"
    degree: int = 3
    noise_std: float = 0.0

    dim = 1

    def __post_init__(self) -> None:
        check_task(1, self.noise_std)
        if self.basis not in ("fourier", "chebyshev"):
            raise unknown("basis", str(self.basis), ("fourier", "chebyshev"))
        check_whole(0, degree=self.degree)

    @property
    def feature_count(self) -> int:
        return 2 * self.degree + 1 if self.basis == "fourier" else self.degree + 1

    @property
    def feature_weight_std(self) -> float:
        # Under U(-1, 1) E φ² = 1 in the Fourier basis; E T_k² = (1 + E T_2k)/2 = (1 - 1/(4k² - 1))/2 for k ≥ 1.
        if self.basis == "fourier":
            return self.feature_count**-0.5
        squares = 1 + sum((1 - 1 / (4 * k * k - 1)) / 2 for k in range(1, self.degree + 1))
        return squares**-0.5

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N 1"]:
        return uniform_inputs(episodes, points, 1, 1.0, generator)

    def features(self, x: Float[Tensor, "*points 1"]) -> Float[Tensor, "*points F"]:
        if self.basis == "fourier":
            angles = math.pi * x * torch.arange(1, self.degree + 1).to(x)
            return torch.cat([torch.ones_like(x), 2**0.5 * angles.cos(), 2**0.5 * angles.sin()], -1)
        terms = [torch.ones_like(x), x]
        for _ in range(2, self.degree + 1):
            terms.append(2 * x * terms[-1] - terms[-2])
        return torch.cat(terms[: self.degree + 1], -1)
