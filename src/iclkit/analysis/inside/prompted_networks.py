"""The project's networks as they are asked by `compare_fine_tuning`.

Shape letters: B episodes, N demonstrations, d dimension of x, T tokens, W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from iclkit.analysis.inside.prompted import NOTHING, QUERY, Prompted, Prompts, Seen, Weights
from iclkit.errors import UserError
from iclkit.networks import Attention, Hooked, Mask, Transformer
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer


class _PromptedTransformer(Prompted):
    """What both kinds of networks have in common: a backbone whose blocks have hook points."""

    def __init__(self, network: Hooked, backbone: Transformer) -> None:
        self.network, self.backbone = network, backbone
        found = {name: module for name, module in backbone.named_modules() if isinstance(module, Attention)}
        if not found:
            raise UserError("this network has no attention, so no keys and values to fine-tune")
        self.layers = tuple(name.removesuffix(".attention") for name in found)
        self.moved, self.share = {}, {}
        for name, module in found.items():
            for parameter, weight in module.named_parameters():
                part, _, _ = parameter.partition(".")
                if part not in ("qkv", "key_query", "value_out"):
                    continue
                share = torch.ones(len(weight), *[1] * (weight.ndim - 1)).to(weight)
                if part == "qkv":
                    share[: len(weight) // 3] = 0.0
                self.moved[f"{name}.{parameter}"] = weight.detach()
                self.share[f"{name}.{parameter}"] = share

    def _run(self, weights: Weights, stream: Float[Tensor, "1 T W"], mask: Mask | None) -> tuple[Tensor, Seen]:
        """The last token's output of the backbone, and what was seen; without the network's output."""
        kept: dict[str, Tensor] = {}
        names = [f"{layer}.attention.{part}" for layer in self.layers for part in ("q", "scores")]
        names += [f"{layer}.attention_out" for layer in self.layers]

        def keep(name: str) -> Any:
            return lambda value: kept.__setitem__(name, value)

        with self.network.hooks({name: keep(name) for name in names}):
            hidden, _ = functional_call(self.backbone, weights, (stream, mask))
        queries = [kept[f"{layer}.attention.q"][0] for layer in self.layers]
        seen = Seen(
            hidden[0, -1],
            tuple(kept[f"{layer}.attention_out"][0, -1] for layer in self.layers),
            tuple(kept[f"{layer}.attention.scores"][0, :, -1] for layer in self.layers),
            tuple(q.transpose(0, 1).flatten(1) / q.shape[-1] ** 0.5 for q in queries),
        )
        return hidden[:, -1:], seen


class PromptedRegressor(_PromptedTransformer):
    """A regressor: a query is one token, and an answer is right if its squared error is small.

    Args:
        network: The network; of one that says a density, the mean is its answer.
        tolerance: The squared error up to which an answer is right, in the units of y².

    Raises:
        UserError: A network of another kind or without attention, or a tolerance that is not positive.
    """

    def __init__(self, network: InContextRegressor, tolerance: float) -> None:
        if not isinstance(network, InContextRegressor):
            raise UserError(f"network must be an InContextRegressor, given {type(network).__name__}")
        if not isinstance(network.backbone, Transformer):
            raise UserError(
                "a recurrent network has no keys and values; give one whose backbone is a transformer"
            )
        if not tolerance > 0:
            raise UserError(f"tolerance must be positive, a squared error, given {tolerance}")
        super().__init__(network, network.backbone)
        self.regressor, self.tolerance = network, tolerance

    def prompts(self, x: Float[Tensor, "B N+1 d"], y: Float[Tensor, "B N+1"]) -> Prompts:
        """Episodes whose last pair is the query.

        Raises:
            UserError: Fewer than two pairs, or more than the network takes.
        """
        if x.ndim != 3 or y.shape != x.shape[:2] or x.shape[1] < 2 or x.shape[2] != self.regressor.dim:
            raise UserError(
                f"x must have shape [episodes, 2 or more, {self.regressor.dim}], the last being the query, and "
                f"y a number for each, given {list(x.shape)} and {list(y.shape)}"
            )
        tokens, weight = self.regressor.tokens, next(self.regressor.parameters())
        x, y = x.to(weight), y.to(weight)
        count = x.shape[1] - 1
        if count > self.regressor.max_points:
            raise UserError(
                f"{count} demonstrations, but this network takes up to {self.regressor.max_points}; give fewer"
            )
        with torch.no_grad():
            places = tokens.places(torch.tensor([0, count], device=x.device))
            pairs = tokens.pairs(x[:, :count], y[:, :count])
            empty = tokens.pairs(x[:, :0], y[:, :0])
            behind = torch.cat([pairs, tokens.queries(x[:, -1:], places[1:])], 1)
            single = tokens.queries(x, places[:1].expand(count + 1))[:, :, None]
            single = torch.cat([empty[:, None].expand(-1, count + 1, -1, -1), single], 2)
        owner = torch.full((behind.shape[1],), NOTHING, device=x.device)
        owner[tokens.before : -1] = torch.arange(count, device=x.device).repeat_interleave(tokens.per_pair)
        owner[-1] = QUERY
        trained = torch.arange(tokens.before + 1, device=x.device) >= tokens.before
        return Prompts(
            behind,
            single[:, -1],
            single[:, :-1],
            y[:, :-1],
            y[:, -1],
            owner.expand(len(x), -1),
            trained.expand(len(x), count, -1),
            query_tokens=1,
        )

    def run(self, weights: Weights, prompt: Float[Tensor, "T W"]) -> Seen:
        """See `Prompted`. The last token is the query; those before are its context."""
        place = torch.arange(len(prompt) - 1, device=prompt.device)
        everything = torch.ones_like(place, dtype=torch.bool)[None]
        context = place <= place[:, None] if self.regressor.causal else everything.expand(len(place), -1)
        mask = Mask.with_queries(context, everything, self.regressor.own, prompt.dtype)
        hidden, seen = self._run(weights, prompt[None], mask)
        said = self.regressor._read(hidden)[0, 0]
        if self.regressor.components:
            logits, means, _ = said.chunk(3)
            said = (logits.softmax(-1) * means).sum(-1, keepdim=True)
        return seen._replace(output=said)

    def loss(self, output: Float[Tensor, "*B 1"], target: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Squared error."""
        return (output[..., 0] - target).square()

    def right(self, output: Float[Tensor, "B 1"], target: Float[Tensor, " B"]) -> Tensor:
        """Whether the squared error is within the tolerance."""
        return self.loss(output, target) <= self.tolerance


class PromptedTokens(_PromptedTransformer):
    """A network of tokens: the answer is the most likely of the choices.

    Args:
        network: The network.
        choices: The tokens that may be answers; all if None.

    Raises:
        UserError: A network of another kind.
    """

    def __init__(self, network: TokenTransformer, choices: Int[Tensor, " O"] | None = None) -> None:
        if not isinstance(network, TokenTransformer):
            raise UserError(f"network must be a TokenTransformer, given {type(network).__name__}")
        super().__init__(network, network.backbone)
        self.language = network
        self.choices = None if choices is None else choices.to(self.device)

    def check(self, prompts: Prompts) -> None:
        """Refuse prompts that the network cannot read, or that are not all of one length.

        Raises:
            UserError: Says why.
        """
        if (prompts.owner == NOTHING).any() or not prompts.trained.all():
            raise UserError("a TokenTransformer reads prompts of one length; give inputs of the same length")
        for tokens in (prompts.in_context, prompts.demonstrations.flatten(0, 1)):
            self.language._check_tokens(tokens)

    def run(self, weights: Weights, prompt: Int[Tensor, " T"]) -> Seen:
        """See `Prompted`."""
        stream = self.language.tokens(prompt) + self.language.places.weight[: len(prompt)]
        hidden, seen = self._run(weights, stream[None], None)
        logits = self.language.unembedding(hidden)[0, 0]
        return seen._replace(output=logits if self.choices is None else logits[self.choices])

    def loss(self, output: Float[Tensor, "*B O"], target: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Cross-entropy in nats, of the choice with number `target`."""
        return -F.log_softmax(output, -1).gather(-1, target[..., None])[..., 0]

    def right(self, output: Float[Tensor, "B O"], target: Int[Tensor, " B"]) -> Tensor:
        """Whether the most likely choice is the target."""
        return output.argmax(-1) == target
