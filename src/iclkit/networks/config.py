"""What one block of a transformer is made of."""

from __future__ import annotations

from dataclasses import dataclass

from iclkit.networks.variants import PLAIN, AttentionVariant


@dataclass(frozen=True)
class BlockConfig:
    """A block: attention and a perceptron, each added to the residual stream.

    Args:
        width: Width of the residual stream.
        heads: Attention heads; 0 for no attention.
        mlp_ratio: Hidden width of the perceptron over the width; 0 for none.
        norm: Whether there are LayerNorms.
        bias: Whether linear maps and norms have a bias.
        head_width: Width of a head; if None the heads share `width` evenly.
        weighting: How attention turns scores into weights, a name of `WEIGHTINGS`.
        own: What a query that looks back at an encoded sequence is to itself: "counted" (it attends to itself
            as a token of the sequence does), "uncounted" (it does, but the divisor of linear attention counts
            the stored tokens alone) or "unseen".
        merged: Whether attention has one matrix for keys and queries and one for values and output, as in
            `MergedAttention`.
        damping: A factor on what attention and perceptron add to the stream.
        hidden: Hidden width of the perceptron, instead of `mlp_ratio`; None for that.
        activation: What the units of the perceptron compute, a name of `ACTIVATIONS`.
        variant: How attention is changed.
    """

    width: int
    heads: int
    mlp_ratio: int = 4
    norm: bool = True
    bias: bool = True
    head_width: int | None = None
    weighting: str = "softmax"
    own: str = "counted"
    merged: bool = False
    damping: float = 1.0
    hidden: int | None = None
    activation: str = "gelu"
    variant: AttentionVariant = PLAIN

    @property
    def units(self) -> int:
        """Hidden units of the perceptron; 0 for none."""
        return self.mlp_ratio * self.width if self.hidden is None else self.hidden
