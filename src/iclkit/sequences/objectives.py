"""What a network of tokens is trained to minimise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.sequences.network import TokenTransformer
from iclkit.tasks import Sequences

State = dict[str, Tensor]
Result = tuple[Tensor, dict[str, Tensor], State]


def next_token_losses(network: TokenTransformer, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
    """-log p(x_t | x_<t) in nats, for t = 1 .. T - 1.

    Args:
        network: What predicts.
        tokens: Sequences.

    Raises:
        UserError: As the network's `forward`.
    """
    return F.cross_entropy(network(tokens)[:, :-1].mT, tokens[:, 1:], reduction="none")


@dataclass(frozen=True)
class SequenceObjective(ABC):
    """A loss over a batch of sequences. Members are frozen dataclasses: a recipe can name them completely."""

    @abstractmethod
    def __call__(
        self, network: TokenTransformer, episodes: Sequences, generator: torch.Generator, state: State
    ) -> Result:
        """Evaluate the loss.

        Args:
            network: The network to train.
            episodes: A batch of sequences.
            generator: Source of every draw.
            state: What the last call returned; empty at first.

        Returns:
            The scalar loss, metrics to log, and the state for the next call (checkpointed with the run).
        """


@dataclass(frozen=True)
class NextToken(SequenceObjective):
    """The mean of -log p(x_t | x_<t) over all tokens but the first, in nats."""

    def __call__(
        self, network: TokenTransformer, episodes: Sequences, generator: torch.Generator, state: State
    ) -> Result:
        return next_token_losses(network, episodes.tokens).mean(), {}, {}


SEQUENCE_OBJECTIVES: dict[str, type[SequenceObjective]] = {"NextToken": NextToken}
