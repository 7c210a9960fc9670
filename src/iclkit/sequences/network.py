"""A small language model: tokens in, logits of the next token out, nothing but attention unless asked for.

Shape letters: B sequences, T tokens, W width, V vocabulary, L layers, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.networks import WEIGHTINGS, Attention, BlockConfig, Hooked, Transformer


class TokenTransformer(Hooked):
    """Predicts each next token from those before it.

    Args:
        vocabulary: Different tokens (V).
        width: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads; must divide the width.
        mlp_ratio: Hidden width of the perceptrons over the width; 0 for attention only.
        max_length: Longest sequence, for each place has a learned vector.
        norm: Whether there are LayerNorms.
        bias: Whether linear maps and norms have a bias.
        attention: A name of `networks.WEIGHTINGS`.

    Raises:
        UserError: Sizes that cannot be built.
    """

    hook_root = "backbone."

    def __init__(
        self,
        vocabulary: int = 32,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        mlp_ratio: int = 0,
        max_length: int = 48,
        norm: bool = True,
        bias: bool = False,
        attention: str = "softmax",
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        _check(**self.arguments)
        self.vocabulary, self.layers, self.heads, self.max_length = vocabulary, layers, heads, max_length
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(max_length, width)
        self.backbone = Transformer(
            BlockConfig(width, heads, mlp_ratio, norm, bias, weighting=attention), layers
        )
        self.unembedding = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the token after each prefix: those at t depend on the tokens up to and including t.

        Raises:
            UserError: What is no batch of sequences of this vocabulary, or too long.
        """
        self._check_tokens(tokens)
        stream = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        return self.unembedding(self.backbone(stream)[0])

    def attentions(self) -> list[Attention]:
        """The attention of each layer."""
        return [module for module in self.backbone.modules() if isinstance(module, Attention)]

    def direct_logits(self, written: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch V"]:
        """What something that is added to the residual stream adds to the logits directly, past later layers.

        Without what is the same for all tokens, which softmax ignores; and up to a positive factor at each
        place, by which the last LayerNorm divides.
        """
        norm = self.backbone.norm
        if isinstance(norm, nn.LayerNorm):
            written = norm.weight * (written - written.mean(-1, keepdim=True))
        logits = self.unembedding(written)
        return logits - logits.mean(-1, keepdim=True)

    def _check_tokens(self, tokens: Any) -> None:
        if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32):
            given = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise UserError(f"tokens must be a tensor of whole numbers, given {given}")
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.max_length:
            raise UserError(
                f"tokens must have shape [sequences, 1..{self.max_length}], given {list(tokens.shape)}"
            )
        if tokens.numel() and (tokens.min() < 0 or tokens.max() >= self.vocabulary):
            raise UserError(
                f"tokens must lie in 0..{self.vocabulary - 1}, given {int(tokens.min())}..{int(tokens.max())}"
            )


def _check(mlp_ratio: int, attention: str, **given: Any) -> None:
    """Refuse what cannot be built."""
    for name in ("vocabulary", "width", "layers", "heads", "max_length"):
        if given[name] < 1:
            raise UserError(f"{name} must be at least 1, given {given[name]}")
    if mlp_ratio < 0:
        raise UserError(f"mlp_ratio must not be negative, given {mlp_ratio}")
    if attention not in WEIGHTINGS:
        raise UserError(f"attention must be one of {', '.join(map(repr, WEIGHTINGS))}, given {attention!r}")
    if given["width"] % given["heads"]:
        raise UserError(f"heads must divide the width, given {given['heads']} heads and width {given['width']}")
