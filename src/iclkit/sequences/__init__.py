"""Sequences of tokens: the network that predicts the next one, and what it is trained to minimise."""

from iclkit.sequences.network import TokenTransformer
from iclkit.sequences.objectives import SEQUENCE_OBJECTIVES, NextToken, SequenceObjective, next_token_losses

__all__ = ["SEQUENCE_OBJECTIVES", "NextToken", "SequenceObjective", "TokenTransformer", "next_token_losses"]
