"""Sequences of tokens: the network that predicts the next one, and what it is trained to minimise."""

from iclkit.sequences.network import TokenTransformer
from iclkit.sequences.objectives import next_token_losses

__all__ = ["TokenTransformer", "next_token_losses"]
