"""Is learning in context like fine-tuning? Both on the same demonstrations, compared layer by layer.

Shape letters: B episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.inside.fine_tuning_comparison import SETTINGS, FineTuningComparison
from iclkit.analysis.inside.fine_tuning_scores import (
    attention_in_context,
    attention_to_training,
    kendall,
    random_sim_aou,
    sim_am,
    sim_aou,
)
from iclkit.analysis.inside.prompted import QUERY, Prompted, Prompts, Seen, Tuned, fine_tune, read
from iclkit.analysis.intervals import Curve
from iclkit.errors import UserError

# Learning rates that are tried where none is given.
RATES = (1e-5, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# On how many episodes, at most: squared errors have long tails.
_TRIED = 256
# Numbers that may move at a time: each episode trains weights of its own.
_NUMBERS = 1 << 25


def compare_fine_tuning(
    network: Prompted,
    prompts: Prompts,
    rate: float | None = None,
    seed: int = 0,
    rates: Sequence[float] = RATES,
    control: tuple[Prompted, Prompts] | None = None,
) -> FineTuningComparison:
    """Compare what demonstrations in the context do to a network with what training on them does.

    Three settings: the query alone; the query behind the demonstrations; and the query alone after one epoch of
    SGD over the same demonstrations in the same order, one at a time, which moves keys and values alone. Each
    episode trains a copy of its own; the network is not changed.

    Args:
        network: A network as it is asked: `PromptedRegressor`, `PromptedTokens` or `PromptedCausalModel`.
        prompts: Episodes: what the network's `prompts` returns.
        rate: Learning rate; None for that of `rates` after which the mean loss of the first 256 queries is
            least. That favours fine-tuning a little, by one number.
        seed: Seed of the random updates and orders that serve as baselines.
        rates: Learning rates to try.
        control: A network of the same shape that was never trained, and the same episodes as its prompts, to be
            compared at the same rate. Both updates of any network go through the same matrices, which alone
            makes them similar (Deutch et al. 2023, "In-context learning and gradient descent revisited").

    Returns:
        The measures with bootstrap intervals over episodes.

    Raises:
        UserError: No episodes or rates; training that moves nothing, or diverges at every rate.

    Source: Dai et al. (2022), sections 4.1 and 4.2.
    """
    if not len(prompts):
        raise UserError("there are no episodes to compare; give at least one")
    for given in [*rates] if rate is None else [rate]:
        if not 0 < given < float("inf"):
            raise UserError(f"rate must be positive, given {given}")
    if rate is None:
        rate = _best_rate(network, prompts, rates)
    beside = None if control is None else _compare_control(control, rate, seed)
    generator = torch.Generator().manual_seed(seed)
    parts = [_compare(network, part, rate, generator) for part in _parts(network, prompts)]
    measures = {name: torch.cat([part.measures[name] for part in parts]) for name in parts[0].measures}
    places = tuple(range(len(network.layers)))
    return FineTuningComparison(
        network.layers,
        rate,
        {setting: torch.cat([part.losses[setting] for part in parts]).cpu() for setting in SETTINGS},
        {setting: torch.cat([part.right[setting] for part in parts]).cpu() for setting in SETTINGS},
        **{name: Curve(places, values.cpu().double()) for name, values in measures.items()},
        query_tokens=prompts.query_tokens,
        control=beside,
    )


def _compare_control(control: tuple[Prompted, Prompts], rate: float, seed: int) -> FineTuningComparison:
    try:
        return compare_fine_tuning(*control, rate, seed)
    except UserError as error:
        raise UserError(f"of the control, {error}, or leave it out (control=None, --no-control)") from None


@dataclass(frozen=True)
class _Part:
    """Some of the episodes."""

    losses: dict[str, Tensor]
    right: dict[str, Tensor]
    measures: dict[str, Tensor]


def _compare(network: Prompted, prompts: Prompts, rate: float, generator: torch.Generator) -> _Part:
    tuned = fine_tune(network, prompts, rate)
    _check_tuned(network, tuned, rate)
    seen = {
        "zero-shot": read(network, network.moved, prompts.alone, shared=True),
        "in context": read(network, network.moved, prompts.in_context, shared=True),
        "fine-tuned": read(network, tuned.weights, prompts.alone, shared=False),
    }
    layers = [_layer(seen, tuned, index, prompts, generator) for index in range(len(network.layers))]
    return _Part(
        {setting: network.loss(found.output, prompts.target) for setting, found in seen.items()},
        {setting: network.right(found.output, prompts.target) for setting, found in seen.items()},
        {name: torch.stack([layer[name] for layer in layers], 1) for name in layers[0]},
    )


def _layer(
    seen: dict[str, Seen], tuned: Tuned, index: int, prompts: Prompts, generator: torch.Generator
) -> dict[str, Float[Tensor, " B"]]:
    """The measures of one layer, by the names of the comparison's fields."""
    attended = [seen[setting].attended[index] for setting in SETTINGS]
    before, context, after = (seen[setting].scores[index] for setting in SETTINGS)
    columns = slice(-prompts.query_tokens, None)
    own = context[..., columns].masked_fill((prompts.owner != QUERY)[:, None, columns], 0.0)
    shown = attention_in_context(context, prompts.owner, prompts.targets.shape[1])
    asked = seen["fine-tuned"].queries[index][:, -1]
    trained = attention_to_training(tuned.queries[index], asked, prompts.trained)
    chance = torch.rand(shown.shape, generator=generator).to(shown)
    return {
        "sim_aou": sim_aou(*attended),
        "random_sim_aou": random_sim_aou(attended[0], attended[1], generator),
        "sim_am_before": sim_am(own, before[..., columns]),
        "sim_am": sim_am(own, after[..., columns]),
        "kendall": kendall(shown, trained),
        "random_kendall": kendall(shown, chance),
    }


def _best_rate(network: Prompted, prompts: Prompts, rates: Sequence[float]) -> float:
    if not rates:
        raise UserError("there are no rates to try; give at least one, or a rate")
    losses = []
    prompts = prompts.part(0, _TRIED)
    for rate in rates:
        parts = []
        for part in _parts(network, prompts):
            weights = fine_tune(network, part, rate).weights
            found = read(network, weights, part.alone, shared=False)
            sound = all(bool(weight.isfinite().all()) for weight in weights.values())
            lost = network.loss(found.output, part.target).cpu()
            parts.append(lost if sound else torch.tensor([float("inf")]))
        losses.append(float(torch.cat(parts).double().mean()))
    finite = {rate: loss for rate, loss in zip(rates, losses, strict=True) if loss < float("inf")}
    if not finite:
        tried = f"{min(rates):g} to {max(rates):g}"
        raise UserError(f"fine-tuning diverges at every rate that was tried, {tried}; give a smaller rate")
    return min(finite, key=lambda rate: finite[rate])


def _check_tuned(network: Prompted, tuned: Tuned, rate: float) -> None:
    if not all(weight.isfinite().all() for weight in tuned.weights.values()):
        raise UserError(f"fine-tuning diverges at rate {rate}; give a smaller one")
    if all(bool((weight == network.moved[name]).all()) for name, weight in tuned.weights.items()):
        raise UserError(
            "fine-tuning moves nothing: alone, a query of this network attends to nothing that keys or values "
            "could change; give a network whose queries attend to themselves"
        )


def _parts(network: Prompted, prompts: Prompts) -> list[Prompts]:
    """Episodes whose copies fit into memory together, where the network is."""
    size = max(1, _NUMBERS // network.size)
    return [prompts.part(begin, begin + size).to(network.device) for begin in range(0, len(prompts), size)]
