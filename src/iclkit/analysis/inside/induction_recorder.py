"""A callback that records the scores of induction heads while a network is trained.

Shape letters: L layers, H heads, B sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclkit.analysis.inside.induction import (
    ambiguous,
    attention_patterns,
    copying_eigenvalues,
    copying_score,
    in_context_learning_score,
    prefix_matching_score,
)
from iclkit.sequences import TokenTransformer, next_token_losses
from iclkit.tasks import RepeatedTokens, Sequences, SequenceTask


@dataclass(frozen=True)
class InductionRecorder:
    """A callback for training that measures a network of tokens, always on the same fresh sequences.

    `training.train(recipe, out, watch=InductionRecorder(recipe.task, recipe.points))` writes what it returns
    into the run's metrics; any other loop may call it too.

    Args:
        task: What the sequences are drawn from.
        length: Tokens in each (T).
        episodes: Sequences (B).
        seed: Their seed; not that of the training.
        late: Late tokens of the in-context-learning score, by their numbers; the last eighth if None.
        early: Early tokens of it; the first eighth, without the very first, if None.
    """

    task: SequenceTask = field(default_factory=RepeatedTokens)
    length: int = 48
    episodes: int = 128
    seed: int = 0
    late: range | None = None
    early: range | None = None

    @cached_property
    def _drawn(self) -> Sequences:
        return self.task.draw(self.episodes, self.length, torch.Generator().manual_seed(self.seed))

    @cached_property
    def _random(self) -> Int[Tensor, "B T"]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(self.task.vocabulary, (self.episodes, self.length), generator=generator)

    def __call__(self, step: int, network: TokenTransformer) -> dict[str, Any]:
        """Measure the network.

        Args:
            step: Updates done; of no influence.
            network: The network.

        Returns:
            Mean losses in nats on copies ("loss_copies"), on those of them that come after an ambiguous token
            ("loss_ambiguous"; None without any) and on new tokens ("loss_new"); "in_context_learning"; and
            "prefix_matching" on the copies, "copying" on random tokens and "copying_eigenvalues", each a list
            of heads in a list of layers.
        """
        device = next(network.parameters()).device
        tokens, copied = self._drawn.tokens.to(device), self._drawn.copied.to(device)
        with torch.no_grad():
            losses = next_token_losses(network, tokens)
        unclear = copied[:, 1:] & ambiguous(tokens)[:, :-1]
        eighth = max(1, self.length // 8)
        late = range(self.length - eighth, self.length) if self.late is None else self.late
        early = range(1, 1 + eighth) if self.early is None else self.early
        return {
            "loss_copies": float(losses[copied[:, 1:]].mean()),
            "loss_ambiguous": float(losses[unclear].mean()) if unclear.any() else None,
            "loss_new": float(losses[~copied[:, 1:]].mean()),
            "in_context_learning": float(in_context_learning_score(losses, late, early)),
            "prefix_matching": prefix_matching_score(
                attention_patterns(network, tokens), tokens, copied
            ).tolist(),
            "copying": copying_score(network, self._random.to(device)).tolist(),
            "copying_eigenvalues": copying_eigenvalues(network).tolist(),
        }
