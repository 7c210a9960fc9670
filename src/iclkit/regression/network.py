"""The in-context regression network: after every prefix of a sequence of pairs, a prediction of the next y.

Two ways to write pairs as tokens:
- interleaved: x_1, y_1, ..., x_N; the prediction of y_n is read at x_n.
- joined: (x_1, y_1), ..., and for the prediction of y_n a query (x_n, 0) behind the n - 1 pairs before it.

Shape letters: B episodes, N points, P prefixes, K queries after each prefix, d dimension of x, W width, O outputs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.errors import UserError
from iclkit.networks import WEIGHTINGS, Hooked, Mask, Transformer

_CHOICES = {
    "backbone": ("transformer",),
    "tokens": ("interleaved", "joined"),
    "attention": tuple(WEIGHTINGS),
    "positions": ("none", "learned"),
    "embedding": ("linear", "identity"),
}


class InContextRegressor(Hooked):
    """Predicts y_n from x_n and the pairs before n, for every n in one pass.

    Args:
        dim: Dimension of x (d).
        width: Width of the residual stream.
        layers: Number of transformer blocks.
        heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden width of the perceptrons over the width; 0 for none.
        max_points: Longest context.
        backbone: "transformer".
        tokens: "interleaved" or "joined"; see above.
        attention: A name of `networks.WEIGHTINGS`.
        norm: Whether there are LayerNorms.
        causal: Whether a pair sees only the pairs before it. If not, all pairs of a context see each other, and
            every prefix is a sequence of its own (N times the work, but for one layer).
        tied: Whether all layers have the same weights.
        positions: "none" or "learned".
        embedding: "linear" or "identity".
        bias: Whether linear maps and norms have a bias.
        components: 0 for one output, the prediction; k for 3k, the logits, means and log standard deviations of a
            mixture of k Gaussians.

    Raises:
        UserError: Sizes or choices that cannot be built.
    """

    hook_root = "backbone."

    def __init__(
        self,
        dim: int = 8,
        width: int = 64,
        layers: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
        max_points: int = 40,
        backbone: str = "transformer",
        tokens: str = "interleaved",
        attention: str = "softmax",
        norm: bool = True,
        causal: bool = True,
        tied: bool = False,
        positions: str = "none",
        embedding: str = "linear",
        bias: bool = True,
        components: int = 0,
    ) -> None:
        super().__init__()
        given = {
            "backbone": backbone,
            "tokens": tokens,
            "attention": attention,
            "positions": positions,
            "embedding": embedding,
        }
        for name, value in given.items():
            if value not in _CHOICES[name]:
                accepted = ", ".join(map(repr, _CHOICES[name]))
                raise UserError(f"{name} must be one of {accepted}, given {value!r}")
        self.dim = dim
        self.max_points = max_points
        self.components = components
        self.joined = tokens == "joined"
        self.embedding = nn.Linear(dim + 1, width, bias=bias)
        self.flag = nn.Parameter(0.02 * torch.randn(width)) if self.joined else None
        places = max_points + 1 if self.joined else 2 * max_points + 1
        self.positions = nn.Parameter(0.02 * torch.randn(places, width)) if positions == "learned" else None
        self.backbone = Transformer(
            width,
            layers,
            heads,
            mlp_ratio,
            norm,
            bias,
            weighting=attention,
            own="uncounted" if self.joined else "counted",
        )
        self.readout = nn.Linear(width, 3 * components or 1, bias=bias)

    def forward(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N O"]:
        """The outputs after every prefix: those at n depend on x_n and the pairs before n. The last y is not used.

        Args:
            x: Inputs, N ≥ 1.
            y: Targets.
        """
        points = x.shape[1]
        if self.joined:
            tokens = torch.cat([self._pair_tokens(x[:, :-1], y[:, :-1]), self._query_tokens(x)], 1)
            if self.positions is not None:
                tokens = tokens + torch.cat([self.positions[: points - 1], self.positions[:points]])
            hidden, _ = self.backbone(tokens, _joined_mask(points, tokens), slice(points - 1, None))
        else:
            tokens = self._pair_tokens(x, y)[:, :-1]
            if self.positions is not None:
                tokens = tokens + self.positions[: tokens.shape[1]]
            hidden, _ = self.backbone(tokens, rows=slice(None, None, 2))
        return self.readout(hidden)

    def queries(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        prefixes: Int[Tensor, " P"],
    ) -> Float[Tensor, "B P K O"]:
        """The outputs for K alternatives to the point after each of P prefixes; the context is encoded once.

        Args:
            x: Inputs; N may be 0.
            y: Targets.
            queries: Inputs to predict at.
            prefixes: Lengths of the prefixes, in 0..N.
        """
        batch, lengths, count, _ = queries.shape
        context = self._pair_tokens(x, y)
        places = prefixes.repeat_interleave(count) * (1 if self.joined else 2)
        tokens = self._query_tokens(queries.flatten(1, 2))
        if self.positions is not None:
            context = context + self.positions[: context.shape[1]]
            tokens = tokens + self.positions[places]
        _, memories = self.backbone(context)
        return self.readout(self.backbone.query(tokens, memories, places)).view(batch, lengths, count, -1)

    def _pair_tokens(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B T W"]:
        """The tokens of pairs: N if joined, else 2N."""
        if self.joined:
            return self.embedding(torch.cat([x, y[..., None]], -1))
        inputs = torch.stack([F.pad(x, (0, 1)), F.pad(y[..., None], (self.dim, 0))], 2)
        return self.embedding(inputs.flatten(1, 2))

    def _query_tokens(self, x: Float[Tensor, "B Q d"]) -> Float[Tensor, "B Q W"]:
        tokens = self.embedding(F.pad(x, (0, 1)))
        return tokens if self.flag is None else tokens + self.flag


def _joined_mask(points: int, like: Tensor) -> Mask:
    """For N - 1 pairs and then N queries: each sees the pairs before it, and itself."""
    pair = torch.arange(points - 1, device=like.device)
    query = torch.arange(points, device=like.device)
    before = torch.cat([pair, query])[:, None] > pair
    own = torch.eye(2 * points - 1, dtype=torch.bool, device=like.device)
    visible = F.pad(before, (0, points)) | own
    return Mask(~visible, torch.cat([pair + 1, query]), like.dtype)
