"""A trained network of tokens as a learner: sequences in, the probabilities of what comes next out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.sequences import TokenTransformer, next_token_losses
from iclkit.tasks import SequenceTask


@dataclass(frozen=True, eq=False)
class TokenPredictor:
    """A frozen predictor of tokens: those before teach it, and nothing is fitted.

    Args:
        network: The network, as trained.
        task: What it was trained on; None if unknown.
        name: The model's name.
        card: Its model card, in Markdown.
    """

    network: TokenTransformer = field(repr=False)
    task: SequenceTask | None = None
    name: str = ""
    card: str = field(default="", repr=False)

    @property
    def limit(self) -> int:
        """The longest sequence that it takes."""
        return self.network.max_length

    def predict(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each prefix: at t, given the tokens up to and including t.

        Raises:
            UserError: What is no batch of sequences of the network's vocabulary, or too long.
        """
        with torch.no_grad():
            return self.network(tokens).log_softmax(-1)

    def losses(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
        """-log p(x_t | x_<t) in nats for t = 1 .. T - 1; raises as `predict`."""
        with torch.no_grad():
            return next_token_losses(self.network, tokens)
