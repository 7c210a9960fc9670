"""What a network of tokens is trained to minimise."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.sequences.network import TokenTransformer


def next_token_losses(network: TokenTransformer, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
    """-log p(x_t | x_<t) in nats, for t = 1 .. T - 1; training minimises the mean.

    Args:
        network: What predicts.
        tokens: Sequences.

    Raises:
        UserError: As the network's `forward`.
    """
    return F.cross_entropy(network(tokens)[:, :-1].mT, tokens[:, 1:], reduction="none")
