"""Random decision trees over the signs of the coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.tasks.regression import RegressionTask, check_task, check_whole, flat_points


@dataclass(frozen=True)
class TreeFunctions:
    """Full trees. Node 0 is the root, and node i has the children 2i + 1 (x_c ≤ 0) and 2i + 2 (x_c > 0).

    Args:
        coordinates: The coordinate c that each inner node looks at.
        leaves: The values of the leaves, from left to right.
    """

    coordinates: Int[Tensor, "B inner"]
    leaves: Float[Tensor, "B leaves"]

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        points = flat_points(x)
        coordinates = self.coordinates.to(x.device)
        right = (points > 0).long()
        inner = coordinates.shape[1]
        node = torch.zeros(points.shape[:2], dtype=torch.long, device=x.device)
        for _ in range((inner + 1).bit_length() - 1):
            coordinate = coordinates.gather(1, node)[..., None]
            node = 2 * node + 1 + right.gather(-1, coordinate)[..., 0]
        return self.leaves.to(x).gather(1, node - inner).reshape(x.shape[:-1])


@dataclass(frozen=True)
class DecisionTrees(RegressionTask):
    """y = the leaf that x ~ N(0, I) comes to; each inner node asks for the sign of a random coordinate.

    The leaves are N(0, 1), so E y² = 1 without noise.

    Args:
        dim: Dimension of the inputs.
        depth: Questions on the way to a leaf.
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: A dimension or depth below one, a depth above 16, or a negative standard deviation.

    Source: Garg et al. (2022), section 5: depth 4, d = 20.
    """

    dim: int = 20
    depth: int = 4
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_task(self.dim, self.noise_std)
        check_whole(1, 16, depth=self.depth)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> TreeFunctions:
        leaves = 2**self.depth
        return TreeFunctions(
            torch.randint(self.dim, (episodes, leaves - 1), generator=generator),
            torch.randn(episodes, leaves, generator=generator),
        )
