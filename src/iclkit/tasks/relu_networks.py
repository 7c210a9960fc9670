"""Random two-layer ReLU networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.tasks.regression import RegressionTask, check_task, check_whole, flat_points


@dataclass(frozen=True)
class ReluFunctions:
    """f(x) = Σ_j v_j max(0, u_jᵀx)."""

    inner: Float[Tensor, "B d r"]
    outer: Float[Tensor, "B r"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        hidden = torch.relu(flat_points(x) @ self.inner.to(x))
        return (hidden @ self.outer.to(x)[..., None]).reshape(x.shape[:-1])


@dataclass(frozen=True)
class ReluNetworks(RegressionTask):
    """y = √(2/r) vᵀ relu(Uᵀx) + noise with N(0, 1) weights and x ~ N(0, I).

    Without noise E y² = d, as for linear functions.

    Args:
        dim: Dimension of the inputs.
        hidden: Hidden units (r).
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: A count below one, or a negative standard deviation.

    Source: Garg et al. (2022), section 5.
    """

    dim: int = 20
    hidden: int = 100
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std)
        check_whole(1, hidden=self.hidden)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> ReluFunctions:
        inner = torch.randn(episodes, self.dim, self.hidden, generator=generator)
        outer = torch.randn(episodes, self.hidden, generator=generator)
        return ReluFunctions(inner, math.sqrt(2 / self.hidden) * outer)
