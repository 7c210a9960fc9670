"""What a probe may read: activations of the tokens of one prefix, layer by layer, for many episodes.

Shape letters: L layers, P prefixes, T tokens, E episodes, W width, N points, d dimension of x.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iclkit import ambient
from iclkit.energy import EnergyTransformer
from iclkit.errors import UserError, unknown
from iclkit.networks import Hooked
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer

Tokens = Literal["queries", "context"]
TOKENS = ("queries", "context")
# Episodes that pass the network at a time.
_EPISODES = 256


def network_of(model: Any) -> Hooked:
    """The network with hook points of a learner, or the network itself.

    Raises:
        UserError: Nothing in which activations have names; or one that rescales its data on the way.
    """
    network = getattr(model, "network", model)
    if not isinstance(network, Hooked):
        raise UserError(
            f"{type(model).__name__} has no hook points; give a model whose network is an InContextRegressor "
            "or an EnergyTransformer, or such a network"
        )
    if getattr(model, "standardise", False):
        raise UserError(
            f"{getattr(model, 'name', '') or 'this model'} rescales each context before its network sees it; "
            "give its network (.network) and a task in standard units"
        )
    return network


def untrained(network: Hooked, seed: int = 0) -> Hooked:
    """A network of the same shape with fresh weights, a function of the seed alone."""
    with ambient.neutral(grad=True), ambient.drawing_from(torch.Generator().manual_seed(seed)):
        if isinstance(network, InContextRegressor | EnergyTransformer | TokenTransformer):
            fresh: Hooked = type(network)(**network.arguments)
        else:
            fresh = copy.deepcopy(network)
            for module in fresh.modules():
                if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding):
                    module.reset_parameters()
    return fresh.to(next(network.parameters())).requires_grad_(False)


def residual_layers(network: Hooked, layers: Sequence[int | str] | None = None) -> list[str]:
    """The hook points of some layers, by name.

    Args:
        network: Where they are.
        layers: Numbers of blocks, the first being 0 and the last also -1, for the residual stream behind each;
            names or glob patterns of hook points; None for the residual streams behind all blocks.

    Raises:
        UserError: A layer or hook point that is not there.
    """
    found = [name for name in network.hook_points() if name.endswith((".residual", ".state"))]
    if layers is None:
        if not found:
            raise UserError(
                f"{type(network).__name__} has no residual streams; name its hook points by layers (it has: "
                f"{', '.join(network.hook_points()) or 'none'})"
            )
        return found
    if not layers:
        raise UserError("layers names none; give at least one, or leave it out for all")
    names: list[str] = []
    for layer in layers:
        if isinstance(layer, str):
            names += network.matching(layer)
        elif -len(found) <= layer < len(found):
            names.append(found[layer])
        else:
            raise UserError(f"there is no layer {layer}; this network has layers 0 to {len(found) - 1}")
    return list(dict.fromkeys(names))


def streams_after(
    network: Hooked,
    layers: Sequence[str],
    x: Float[Tensor, "E N d"],
    y: Float[Tensor, "E N"] | None,
    prefixes: Sequence[int],
    tokens: Tokens = "queries",
) -> tuple[Float[Tensor, "L*P T E W"], Bool[Tensor, "L*P T"]]:
    """Run a network once on each prefix of every episode, and keep the activations of its tokens.

    Args:
        network: An `InContextRegressor`, or an `EnergyTransformer` (`y` is None then).
        layers: Names of hook points.
        x: Inputs, more than the longest prefix; or the points of densities.
        y: Targets.
        prefixes: How many pairs (points) come before (n).
        tokens: "context": those of the n pairs and of the query x_n that follows. "queries": those of d queries
            that follow, query k being r e_k, r the root mean square length of the inputs: the same in all
            episodes, so that what they hold of an episode comes from its pairs. Densities have the context
            alone, the n points.

    Returns:
        The streams, filled up with 0 where a prefix has fewer tokens than the longest, and which tokens there
        are.

    Raises:
        UserError: A network of another kind, a hook point that is no [E, T, W], or that is not passed; layers
            of different widths; activations that are not finite.
    """
    if tokens not in TOKENS:
        raise unknown("tokens", tokens, TOKENS)
    like = next(network.parameters())
    x, y = x.to(like), None if y is None else y.to(like)
    asked = None
    if tokens == "queries":
        asked = x.square().sum(-1).mean().sqrt() * torch.eye(x.shape[-1]).to(like)
    # The longest first, whose tokens are the most: it says how large the result is.
    order = sorted(range(len(prefixes)), key=lambda place: -prefixes[place])
    streams, seen = torch.empty(0), torch.empty(0)
    for place in order:
        for begin in range(0, len(x), _EPISODES):
            rows = slice(begin, begin + _EPISODES)
            part = _run(network, layers, x[rows], None if y is None else y[rows], prefixes[place], asked)
            if not part.isfinite().all():
                raise UserError(
                    f"activations of {type(network).__name__} after {prefixes[place]} points are not finite; "
                    "name other layers, or a task that the network can be run on"
                )
            if not streams.numel():
                shape = (len(layers), len(prefixes), part.shape[2], len(x), part.shape[3])
                streams, seen = torch.zeros(shape), torch.zeros(shape[:3], dtype=torch.bool)
            streams[:, place, : part.shape[2], rows] = part.transpose(1, 2)
            seen[:, place, : part.shape[2]] = True
    return streams.flatten(0, 1), seen.flatten(0, 1)


def _run(
    network: Hooked,
    layers: Sequence[str],
    x: Tensor,
    y: Tensor | None,
    prefix: int,
    asked: Float[Tensor, "d d"] | None,
) -> Float[Tensor, "L E T W"]:
    # A point may be passed twice, first by the context and then by what follows it.
    passed: dict[str, list[Tensor]] = {name: [] for name in layers}
    with torch.no_grad(), network.hooks({name: kept.append for name, kept in passed.items()}):
        if isinstance(network, InContextRegressor) and y is not None:
            queries = x[:, prefix, None, None] if asked is None else asked.expand(len(x), 1, -1, -1)
            network.queries(x[:, :prefix], y[:, :prefix], queries, torch.tensor([prefix], device=x.device))
        elif isinstance(network, EnergyTransformer) and y is None:
            network.encode(x[:, :prefix])
        else:
            raise UserError(
                f"{type(network).__name__} cannot be run on this task; give an InContextRegressor with a "
                "regression task, or an EnergyTransformer with a task of densities"
            )
    streams = []
    for name, kept in passed.items():
        if not kept:
            raise UserError(f"hook point {name} is not passed in this network; name another layer")
        if kept[0].ndim != 3 or len(kept[0]) != len(x):
            raise UserError(
                f"hook point {name} has activations of shape {list(kept[0].shape)}; probes read "
                "[episodes, tokens, width], as blocks.*.residual has"
            )
        whole = torch.cat(kept, 1).float().cpu()
        streams.append(whole if asked is None else whole[:, -len(asked) :])
    shapes = {name: tuple(stream.shape[1:]) for name, stream in zip(layers, streams, strict=True)}
    if len(set(shapes.values())) > 1:
        raise UserError(f"probes of one sweep read streams of one shape, given (tokens, width) {shapes}")
    return torch.stack(streams)
