"""A network and episodes for which learning in context is one step of gradient descent, as measures must find.

The network is `compiler.token_descent`. Shape letters: B episodes, N demonstrations, K inputs, d dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.analysis.inside.prompted import QUERY, Prompts
from iclkit.analysis.inside.prompted_networks import PromptedTokens
from iclkit.compiler import token_descent
from iclkit.errors import UserError


@dataclass(frozen=True)
class DescentCase:
    """Demonstrations are orthonormal vectors with labels; a query is another unit vector.

    The right label of a query is that of the demonstration whose inner product with it is largest.

    Args:
        dim: Dimension of the vectors (d), and how many can be demonstrations.
        labels: How many labels there are.
        demonstrations: How many an episode has (N), at most `dim`.
        queries: Different queries.
        seed: Seed of the queries.

    Raises:
        UserError: More demonstrations than dimensions, or none; or sizes that the network does not have.
    """

    dim: int = 32
    labels: int = 8
    demonstrations: int = 24
    queries: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.demonstrations <= self.dim:
            raise UserError(f"demonstrations must lie in 1..{self.dim}, given {self.demonstrations}")
        self.network()

    @property
    def inputs(self) -> Float[Tensor, "K d"]:
        """The orthonormal vectors, then the queries."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.queries, self.dim, generator=generator, dtype=torch.float64)
        return torch.cat([torch.eye(self.dim, dtype=torch.float64), F.normalize(drawn, dim=-1)])

    @property
    def choices(self) -> Int[Tensor, " labels"]:
        """The tokens whose logits are those of the labels."""
        return torch.arange(self.labels)

    def network(self) -> PromptedTokens:
        """The network, as it is asked."""
        return PromptedTokens(token_descent(self.inputs, self.labels), self.choices)

    def prompts(self, episodes: int, generator: torch.Generator) -> Prompts:
        """Episodes with demonstrations, labels and a query of their own.

        Args:
            episodes: How many (B).
            generator: Source of randomness.
        """
        shown = torch.rand(episodes, self.dim, generator=generator).argsort(-1)[:, : self.demonstrations]
        labels = torch.randint(self.labels, shown.shape, generator=generator)
        query = self.dim + torch.randint(self.queries, (episodes, 1), generator=generator)
        inputs = self.inputs
        nearest = (inputs[shown] @ inputs[query].mT).argmax(1)
        pairs = len(inputs) + shown * self.labels + labels
        owner = torch.cat([torch.arange(self.demonstrations), torch.tensor([QUERY])])
        return Prompts(
            torch.cat([pairs, query], 1),
            query,
            shown[:, :, None],
            labels,
            labels.gather(1, nearest)[:, 0],
            owner.expand(episodes, -1),
            torch.ones_like(shown[:, :, None], dtype=torch.bool),
            query_tokens=1,
        )
