"""A network as it is asked: prompts of demonstrations and queries, and what attention does at the last token.

Shape letters: B episodes, N demonstrations, C tokens of demonstrations and query, T tokens of a query alone, W
width, H heads, I inner width of attention (H D), O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Weights = dict[str, Tensor]


# What a token of a prompt is, where it belongs to no demonstration.
QUERY, NOTHING = -1, -2


@dataclass(frozen=True)
class Prompts:
    """Episodes as a network reads them: token ids, or embedded tokens [..., W]; each ends in the last column.

    Args:
        in_context: The demonstrations and the query behind them.
        alone: The query without them.
        demonstrations: The input of each demonstration, as if it were a query.
        targets: What it should be answered with.
        target: What the query should be answered with.
        owner: What each token of `in_context` belongs to: a demonstration by its number, QUERY, or NOTHING, as
            a start token or what fills up a shorter prompt.
        trained: Which tokens of `demonstrations` belong to them.
        query_tokens: The last so many columns of `alone` hold the tokens of queries.
    """

    in_context: Shaped[Tensor, "B C *W"]
    alone: Shaped[Tensor, "B T *W"]
    demonstrations: Shaped[Tensor, "B N T *W"]
    targets: Shaped[Tensor, "B N"]
    target: Shaped[Tensor, " B"]
    owner: Int[Tensor, "B C"]
    trained: Bool[Tensor, "B N T"]
    query_tokens: int

    def __len__(self) -> int:
        return len(self.target)

    def part(self, begin: int, end: int) -> Prompts:
        """Some of the episodes."""
        parts = {
            field.name: value[begin:end]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **parts)

    def to(self, device: torch.device) -> Prompts:
        """The same episodes on a device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


class Seen(NamedTuple):
    """One pass of one prompt: what the network says, and for each layer with attention what it did.

    `attended` [W] is what attention adds to the residual stream at the last token, `scores` [H, tokens] what it
    gives each token before the softmax, 0 for what fills up a prompt, `queries` [tokens, I] the attention
    queries of all tokens, over √D.
    """

    output: Float[Tensor, " O"]
    attended: tuple[Float[Tensor, " W"], ...]
    scores: tuple[Float[Tensor, "H tokens"], ...]
    queries: tuple[Float[Tensor, "tokens I"], ...]


class Prompted(ABC):
    """A frozen network, given weights of its keys and values from outside; nothing of it is ever changed.

    Attributes:
        moved: The weights that fine-tuning moves, by name: those of keys and values.
        share: For each 1 where it moves them, 0 where a matrix holds queries too; of a shape that broadcasts.
        layers: Names of the layers with attention.
    """

    moved: Weights
    share: Weights
    layers: tuple[str, ...]

    @abstractmethod
    def run(self, weights: Weights, prompt: Shaped[Tensor, "T ..."]) -> Seen:
        """Read one prompt, with these weights in place of `moved`. It is run under `torch.func.vmap`."""

    @abstractmethod
    def loss(self, output: Float[Tensor, "*B O"], target: Shaped[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """What fine-tuning descends on, and an answer is judged by."""

    @abstractmethod
    def right(self, output: Float[Tensor, "B O"], target: Shaped[Tensor, " B"]) -> Tensor:
        """Whether an answer counts as right; a bool for each episode."""

    @property
    def size(self) -> int:
        """How many numbers are moved."""
        return sum(weight.numel() for weight in self.moved.values())

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(iter(self.moved.values())).device


def read(network: Prompted, weights: Weights, prompts: Tensor, shared: bool) -> Seen:
    """Read a prompt in each episode, with weights that all share or weights [B, ...] of each."""
    with torch.no_grad():
        return torch.func.vmap(network.run, in_dims=(None if shared else 0, 0))(weights, prompts)


class Tuned(NamedTuple):
    """Networks after training, one for each episode.

    `weights` [B, ...] are those that moved, `queries` [B, N, T, I] for each layer the attention queries of each
    demonstration when training came to it.
    """

    weights: Weights
    queries: tuple[Float[Tensor, "B N T I"], ...]


def fine_tune(network: Prompted, prompts: Prompts, rate: float) -> Tuned:
    """One epoch over each episode's demonstrations in their order: SGD, one at a time, keys and values alone.

    Every episode trains a copy of its own.

    Args:
        network: What is copied.
        prompts: The episodes.
        rate: Learning rate.

    Source: Dai et al. (2022), section 4.1.
    """

    def loss(weights: Weights, prompt: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen = network.run(weights, prompt)
        return network.loss(seen.output, target), seen.queries

    gradient = torch.func.vmap(torch.func.grad(loss, has_aux=True))
    episodes, count = prompts.targets.shape
    weights = {name: weight.expand(episodes, *weight.shape) for name, weight in network.moved.items()}
    passed = []
    for step in range(count):
        slopes, queries = gradient(weights, prompts.demonstrations[:, step], prompts.targets[:, step])
        weights = {name: weight - rate * network.share[name] * slopes[name] for name, weight in weights.items()}
        passed.append(tuple(q.detach() for q in queries))
    return Tuned(weights, tuple(torch.stack(layer, 1) for layer in zip(*passed, strict=True)))
