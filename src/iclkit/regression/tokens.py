"""Pairs to tokens.

Interleaved: x_1, y_1, x_2, ...; the tokens of a pair are embeddings of (x, 0) and (0, y), and the query that
follows n pairs is the x token at place 2n. Joined: the token of a pair is the embedding of (x, y), the query
that of (x, 0).

Source: Akyürek et al. (2022), section 2.2, and Garg et al. (2022) for the first; von Oswald et al. (2022) and
Zhang, Frei and Bartlett (2023) for the second.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.errors import UserError

EMBEDDINGS = ("linear", "identity", "features")


class PairTokens(nn.Module):
    """Embeds pairs, and queries after them.

    Args:
        dim: Dimension of x (d).
        width: Width of a token.
        max_points: Longest context.
        joined: Whether a pair is one token, not two.
        embedding: "linear"; "identity", where a token is the d + 1 numbers themselves and the width d + 1; or
            "features", where x is first mapped to width - 1 features by a perceptron with one hidden layer (as
            in von Oswald et al. (2022), section 4) and then joined with y as it is.
        positions: Whether each place has an embedding of its own, which is added.
        bias: Whether linear maps have a bias.
        start: Whether a learned token goes before the first pair.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        max_points: int,
        joined: bool,
        embedding: str,
        positions: bool,
        bias: bool,
        start: bool = False,
    ) -> None:
        super().__init__()
        self.width = dim + 1 if embedding == "identity" else width
        self.per_pair = 1 if joined else 2
        self.before = int(start)
        self.features = self.linear = self.flag = self.positions = self.start = None
        if embedding == "features":
            self.features = nn.Sequential(
                nn.Linear(dim, width - 1, bias=bias), nn.GELU(), nn.Linear(width - 1, width - 1, bias=bias)
            )
        if embedding == "linear":
            self.linear = nn.Linear(dim + 1, width, bias=bias)
            # Tells a query from a pair whose y happens to be 0; interleaved tokens need no such thing.
            self.flag = nn.Parameter(0.02 * torch.randn(width)) if joined else None
        if positions:
            places = self.before + max_points * self.per_pair + 1
            self.positions = nn.Parameter(0.02 * torch.randn(places, self.width))
        if start:
            self.start = nn.Parameter(0.02 * torch.randn(self.width))

    def places(self, prefixes: Int[Tensor, "*B P"]) -> Int[Tensor, "*B P"]:
        """How many tokens each prefix has, the start token included."""
        return prefixes * self.per_pair + self.before

    def pairs(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B T W"]:
        """The tokens of all pairs: N if joined, else 2N; behind the start token, if there is one.

        Raises:
            UserError: More pairs than learned positions reach, with a query after them.
        """
        self._check_length(x.shape[1])
        return self._embed(self._inputs(x, y))

    def sequence(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B T W"]:
        """Interleaved tokens x_1, y_1, ..., x_N: every query with its context. Raises as `pairs`."""
        self._check_length(x.shape[1] - 1)
        return self._embed(self._inputs(x, y)[:, :-1])

    def _check_length(self, pairs: int) -> None:
        if self.positions is None:
            return
        longest = (len(self.positions) - 1 - self.before) // self.per_pair
        if pairs > longest:
            raise UserError(
                f"the context of {pairs} pairs is too long: learned positions reach {longest} pairs and a query"
            )

    def _inputs(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B T _"]:
        x = x if self.features is None else self.features(x)
        if self.per_pair == 1:
            return torch.cat([x, y[..., None]], -1)
        return torch.stack([F.pad(x, (0, 1)), F.pad(y[..., None], (x.shape[-1], 0))], 2).flatten(1, 2)

    def _embed(self, inputs: Float[Tensor, "B T _"]) -> Float[Tensor, "B T W"]:
        tokens = inputs if self.linear is None else self.linear(inputs)
        if self.start is not None:
            tokens = torch.cat([self.start.expand(len(tokens), 1, -1), tokens], 1)
        if self.positions is None:
            return tokens
        return tokens + self.positions[: tokens.shape[1]]

    def queries(self, x: Float[Tensor, "B Q d"], places: Int[Tensor, "*B Q"]) -> Float[Tensor, "B Q W"]:
        """The tokens of queries, each behind the first `places[i]` tokens of its context (see `places`)."""
        x = x if self.features is None else self.features(x)
        tokens = F.pad(x, (0, 1))
        if self.linear is not None:
            tokens = self.linear(tokens)
        if self.flag is not None:
            tokens = tokens + self.flag
        return tokens if self.positions is None else tokens + self.positions[places]
