"""Probes: which numbers can be read from a network's activations, in which layer, after how many pairs.

Shape letters: L layers, P prefixes, R read-outs, G targets, E episodes, D entries of a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.analysis.inside.activations import (
    TOKENS,
    Tokens,
    network_of,
    residual_layers,
    streams_after,
    untrained,
)
from iclkit.analysis.inside.probe_targets import TITLES, check_targets, scaled, target_values
from iclkit.analysis.inside.probe_training import READOUTS, Schedule, squared_errors, train_probes, whiten
from iclkit.analysis.inside.probing import Probing
from iclkit.errors import UserError, unknown
from iclkit.networks import Hooked
from iclkit.tasks import DensityTask, RegressionTask, SequenceTask

UNTRAINED = "untrained"


def probe(
    model: Any,
    task: RegressionTask | DensityTask | None = None,
    targets: Sequence[str] | None = None,
    layers: Sequence[int | str] | None = None,
    prefixes: Sequence[int] | None = None,
    readout: str | Sequence[str] = READOUTS,
    *,
    beside: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
    episodes: int = 4096,
    held_out: int = 1024,
    schedule: Schedule | None = None,
    seed: int = 0,
) -> Probing:
    """Train probes on a model and on others of its shape, and measure them on episodes of their own.

    A probe is a position attention that does not depend on the input and a linear or perceptron read-out (see
    `train_probes`): one for each layer, target, prefix and read-out. All models are shown the same episodes.

    A number that can be read from a trained network proves little by itself: random features hold a good deal
    of a context, too. So an untrained network of the same shape always stands beside it, and so should one
    trained where no context is needed (the recipes `linear-control` and `energy-control`).

    Args:
        model: A trained model, or a network.
        task: Where the episodes come from; the model's own if None.
        targets: "moments" (Xᵀy) and "least_squares" (w of smallest norm) for regression; "component_means" and
            "component_count" (by the exact reference) for mixtures. All of them if None.
        layers: As of `residual_layers`; by default the residual stream behind every block.
        prefixes: After how many pairs, each at least 1. If None: d/2, 2d and the longest context (about d,
            noise gives w of least squares no finite variance); for densities 2, 4 and 8.
        readout: "linear", "mlp" or both.
        beside: Other models or networks with the same layers, by name; one named "untrained" takes the place of
            the one made here.
        tokens: What a probe reads: "context", the tokens of the pairs and of one query, by one attention as
            published; or "queries", those of d queries along the axes, by d attentions. By default "queries"
            for regression: in a network whose pairs are one token each and whose queries are nobody's context,
            what it knows of w is in no token of a pair.
        episodes: On how many probes are trained; an eighth more tells when to stop.
        held_out: On how many they are measured.
        schedule: How they are trained.
        seed: Seed of the episodes, of the probes and of the untrained network.

    Returns:
        Normalised errors by model, layer, target, prefix and read-out.

    Raises:
        UserError: A network without hook points, a layer or a target that is not there, prefixes beyond what
            the network takes, or too few episodes.

    Source: Akyürek et al. (2022), section 5. They train at Adam's rate 1e-3; here the rate starts at 1e-2 and
        falls to 0. They read one attention over all tokens of a network in which queries are context, too.
        Their code differs from their text: it has a dense layer on the last token and not an attention over
        tokens, and its target is the true w and not that of least squares. Here the text is followed.
    """
    first = network_of(model)
    task = getattr(model, "task", None) if task is None else task
    if isinstance(task, SequenceTask):
        raise UserError(
            f"probes have targets in tasks of points, given {type(task).__name__}; see iclkit induction"
        )
    if not hasattr(first, "dim"):
        raise UserError(
            f"{type(first).__name__} does not take points; give a model whose network is an InContextRegressor "
            "or an EnergyTransformer"
        )
    if task is None:
        raise UserError("the model does not say what it was trained on; give a task")
    if task.dim != first.dim:
        raise UserError(f"the task's points have dim {task.dim}, the network takes {first.dim}; give another")
    names = residual_layers(first, layers)
    chosen = check_targets(task, targets)
    given = (readout,) if isinstance(readout, str) else readout
    for name in given:
        if name not in READOUTS:
            raise unknown("readout", name, READOUTS)
    readouts = tuple(name for name in READOUTS if name in given)
    lengths = _prefixes(task, first, prefixes)
    tokens = _tokens(task, tokens)
    if min(episodes, held_out) < 2 or not readouts:
        raise UserError(
            "a sweep needs a readout and at least 2 episodes for training and for measuring, given "
            f"{list(given)}, {episodes} and {held_out}"
        )

    networks = _networks(model, first, beside or {}, seed)
    drawn = episodes + max(1, episodes // 8)
    x, y = _draw(task, drawn + held_out, max(lengths) + 1, torch.Generator().manual_seed(seed))
    wanted, entries, variances = _wanted(task, chosen, x, y, lengths, drawn)
    shown = _Shown(x, y, lengths, tokens, wanted, entries, drawn)
    found = [_errors(network, names, shown, readouts, seed + 1, schedule) for network in networks.values()]
    errors = torch.stack(found).permute(0, 1, 4, 2, 3, 5).double() / variances[:, :, None, None]
    return Probing(tuple(networks), tuple(names), chosen, tuple(lengths), readouts, tokens, errors)


@dataclass(frozen=True, eq=False)
class _Shown:
    """What all networks are shown, and what is to be read of it."""

    x: Tensor
    y: Tensor | None
    prefixes: list[int]
    tokens: Tokens
    wanted: Float[Tensor, "P G E D"]
    entries: Int[Tensor, " G"]
    training: int
    """So many episodes, the first, are those of the training."""


def _errors(
    network: Hooked,
    layers: Sequence[str],
    shown: _Shown,
    readouts: Sequence[str],
    seed: int,
    schedule: Schedule | None,
) -> Float[Tensor, "L P R G E"]:
    """Squared errors of a network's probes on the held-out episodes, in the targets' units."""
    queries, (count, targets, _, widest) = shown.tokens == "queries", shown.wanted.shape
    # What a target lacks of the widest is 0 and learned as 0, but does not count.
    counted = torch.arange(widest) < shown.entries.repeat(len(readouts))[:, None, None]
    # Streams of contexts are large, and those of unlike lengths would be filled up: a program for each prefix.
    groups = [slice(0, None)] if queries else [slice(place, place + 1) for place in range(count)]
    fit, fresh = slice(0, shown.training), slice(shown.training, None)
    found = []
    for group in groups:
        streams, seen = streams_after(network, layers, shown.x, shown.y, shown.prefixes[group], shown.tokens)
        whiten(streams, seen, shown.training)
        # Every probe of a stream: each read-out of each target.
        wanted = shown.wanted[group].repeat(len(layers), len(readouts), 1, 1)  # [L P, R G, E, D]
        readers = train_probes(
            streams[:, :, fit],
            seen,
            wanted[:, :, fit],
            linear=targets if "linear" in readouts else 0,
            heads=shown.x.shape[-1] if queries else 1,
            generator=torch.Generator().manual_seed(seed),
            schedule=schedule,
        )
        squares = squared_errors(readers, streams[:, :, fresh], seen, wanted[:, :, fresh])
        means = (squares * counted).sum(-1) / counted.sum(-1)
        found.append(means.view(len(layers), -1, len(readouts), targets, means.shape[-1]))
    return torch.cat(found, 1)


def _networks(model: Any, network: Hooked, beside: Mapping[str, Any], seed: int) -> dict[str, Hooked]:
    """The probed network and those beside it, by name."""
    own = getattr(model, "name", "") or "the model"
    networks = {own: network}
    for name, other in beside.items():
        if name == own:
            raise UserError(f"two models are named {name}; give those beside it other names")
        networks[name] = network_of(other)
    return networks if UNTRAINED in networks else {**networks, UNTRAINED: untrained(network, seed)}


def _prefixes(task: Any, network: Any, prefixes: Sequence[int] | None) -> list[int]:
    longest = int(network.max_points)
    if prefixes is None:
        usual = (max(1, task.dim // 2), 2 * task.dim, longest)
        # Of many points it is known how many components they have, so that nothing differs by episodes.
        usual = usual if isinstance(task, RegressionTask) else (2, 4, 8)
        return sorted({min(n, longest) for n in usual})
    chosen = sorted(set(prefixes))
    if not chosen or chosen[0] < 1 or chosen[-1] > longest:
        raise UserError(f"prefixes must lie in 1..{longest}, the contexts of this network, given {chosen}")
    return chosen


def _tokens(task: Any, tokens: Tokens | None) -> Tokens:
    regression = isinstance(task, RegressionTask)
    if tokens is None:
        return "queries" if regression else "context"
    if tokens not in TOKENS:
        raise unknown("tokens", tokens, TOKENS)
    if tokens == "queries" and not regression:
        raise UserError("tokens='queries' is for regression; densities have tokens='context' alone")
    return tokens


def _draw(task: Any, episodes: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    drawn = task.sample(episodes, points, generator)
    return (drawn, None) if isinstance(drawn, Tensor) else drawn


def _wanted(
    task: Any, targets: Sequence[str], x: Tensor, y: Tensor | None, prefixes: list[int], training: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets [P, G, E, D], filled up by 0, their entries [G], and their mean squares [G, P]."""
    found, variances = [], []
    for name, values in target_values(task, targets, x, y, prefixes).items():
        what = [f"target {name} ({TITLES[name]}) after {n} points" for n in prefixes]
        values, variance = scaled(values, training, what)
        found.append(values.transpose(0, 1))
        variances.append(variance)
    entries = torch.tensor([values.shape[-1] for values in found])
    padded = [F.pad(values, (0, int(entries.max()) - values.shape[-1])) for values in found]
    return torch.stack(padded, 1), entries, torch.stack(variances)
