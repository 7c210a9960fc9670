"""Linear functions: the class that most is known of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.regression import RegressionTask


@dataclass(frozen=True)
class LinearFunctions:
    """f(x) = wᵀx, one w an episode."""

    weights: Float[Tensor, "B d"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        return torch.einsum("b...d,bd->b...", x, self.weights)


@dataclass(frozen=True)
class LinearRegression(RegressionTask):
    """y = wᵀx + noise with w ~ N(0, weight_std² I) and x ~ N(0, I).

    Args:
        dim: Dimension of the inputs.
        noise_std: Standard deviation of the noise (σ).
        weight_std: Standard deviation of the weights (τ).

    Raises:
        UserError: A dimension below one, or a standard deviation that is negative (for the weights: or zero).

    Source: Garg et al. (2022), section 3; with noise, Akyürek et al. (2022), section 4.
    """

    dim: int = 8
    noise_std: float = 0.0
    weight_std: float = 1.0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UserError(f"dim must be at least 1, given {self.dim}")
        if not (self.noise_std >= 0 and self.weight_std > 0):
            raise UserError(
                "noise_std must not be negative and weight_std must be positive, "
                f"given {self.noise_std} and {self.weight_std}"
            )

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> LinearFunctions:
        return LinearFunctions(self.weight_std * torch.randn(episodes, self.dim, generator=generator))
