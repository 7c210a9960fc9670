"""Is learning in context like fine-tuning? Both on the same demonstrations, compared layer by layer.

Shape letters: B episodes, L layers, N demonstrations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.analysis.inside.fine_tuning_scores import (
    attention_in_context,
    attention_to_training,
    kendall,
    random_sim_aou,
    rec2ftp,
    sim_am,
    sim_aou,
)
from iclkit.analysis.inside.prompted import QUERY, Prompted, Prompts, Seen, Tuned, fine_tune, read
from iclkit.analysis.intervals import Curve, Interval, cell
from iclkit.analysis.table import Table
from iclkit.errors import UserError

# Learning rates that are tried where none is given.
RATES = (1e-5, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# On how many episodes, at most: squared errors have long tails.
_TRIED = 256
# Numbers that may move at a time: each episode trains weights of its own.
_NUMBERS = 1 << 25

SETTINGS = ("zero-shot", "in context", "fine-tuned")


@dataclass(frozen=True)
class FineTuningComparison:
    """What `compare_fine_tuning` found; curves have a column for each layer with attention, from the first.

    Args:
        layers: Their names.
        rate: The learning rate of the fine-tuning.
        losses: The loss of each query, by setting (`SETTINGS`).
        right: Whether it was answered rightly.
        sim_aou: Similarity of the updates of attention outputs.
        random_sim_aou: That of the update in context with a random one, N(0, 1).
        sim_am_before: Similarity of the scores in context to those of the network as it was.
        sim_am: To those of the fine-tuned one.
        kendall: Rank correlation of the attention to demonstrations in context with that to training examples.
        random_kendall: With a random order.
        query_tokens: Tokens of a query. Of a single one, `sim_am` tells signs alone.
        control: The same of a network of the same shape that was never trained; None if there is none.
    """

    layers: tuple[str, ...]
    rate: float
    losses: dict[str, Float[Tensor, " B"]]
    right: dict[str, Bool[Tensor, " B"]]
    sim_aou: Curve
    random_sim_aou: Curve
    sim_am_before: Curve
    sim_am: Curve
    kendall: Curve
    random_kendall: Curve
    query_tokens: int
    control: FineTuningComparison | None = None

    @property
    def rec2ftp(self) -> Interval:
        """Of the queries that fine-tuning sets right, the share that the context sets right."""
        zero_shot, in_context, fine_tuned = (self.right[setting] for setting in SETTINGS)
        return rec2ftp(zero_shot, in_context, fine_tuned)

    @property
    def curves(self) -> dict[str, Curve]:
        """All measures that have a value in each layer, by the names of the table's columns."""
        return {
            "SimAOU": self.sim_aou,
            "random update": self.random_sim_aou,
            "SimAM before": self.sim_am_before,
            "SimAM after": self.sim_am,
            "Kendall": self.kendall,
            "random order": self.random_kendall,
        }

    def tables(self) -> dict[str, Table]:
        """By title: the answers, and the measures with their 95 % intervals in each layer and in all."""
        return {
            "answers": self.answers(),
            "updates of attention outputs": self._table("SimAOU", "random update"),
            "order of demonstrations": self._table("Kendall", "random order"),
            "scores within the query": self._table("SimAM after", "SimAM before"),
        }

    def _table(self, measure: str, beside: str) -> Table:
        """A measure, the same in the control, and what it is compared with."""
        chosen = {measure: self.curves[measure]}
        if self.control is not None:
            chosen["untrained"] = self.control.curves[measure]
        chosen[beside] = self.curves[beside]
        rows = []
        for index, layer in enumerate(self.layers):
            rows.append([layer, *(_cell(curve.interval()[index]) for curve in chosen.values())])
        if len(rows) > 1:
            rows.append(["all layers", *(_cell(curve.overall()) for curve in chosen.values())])
        return Table(["layer", *chosen], rows)

    def answers(self) -> Table:
        """Loss and share of right answers in each setting."""
        rows = []
        for setting in SETTINGS:
            found = torch.stack([self.losses[setting].double(), self.right[setting].double()], 1)
            interval = Curve((0, 1), found).interval()
            rows.append([setting, cell(interval[0]), cell(interval[1])])
        return Table(["setting", "loss", "right"], rows)

    @property
    def verdict(self) -> str:
        """Rec2FTP in words, and what it would be if the context knew nothing of the fine-tuning."""
        missed = ~self.right["zero-shot"]
        learned = self.right["fine-tuned"] & missed
        if not learned.any():
            return "Rec2FTP is not defined: fine-tuning sets no query right"
        found = self.rec2ftp
        return (
            f"Rec2FTP {float(found.mean):.3f} [{float(found.low):.3f}, {float(found.high):.3f}]: of the "
            f"{int(learned.sum())} queries that fine-tuning sets right, so many are right in context; of all "
            f"that are wrong alone, {float(self.right['in context'][missed].double().mean()):.3f} are"
        )

    @property
    def notes(self) -> list[str]:
        """What the table cannot say by itself."""
        found = []
        if self.query_tokens == 1:
            found.append(
                "A query is one token, whose scores have no direction but their signs: SimAM compares signs."
            )
        shown = {setting: float(self.losses[setting].double().mean()) for setting in SETTINGS}
        if shown["fine-tuned"] > shown["zero-shot"]:
            found.append("Fine-tuning made the loss of the queries larger; what is similar to it says little.")
        if self.control is not None:
            own, other = self.sim_aou.overall(), self.control.sim_aou.overall()
            if float(own.mean) <= float(other.high):
                found.append(
                    "SimAOU of an untrained network of this shape is no smaller: it tells nothing of training."
                )
        return found

    def to_json(self) -> str:
        """All means and intervals."""
        return json.dumps(self._numbers(), indent=2)

    def _numbers(self) -> dict[str, object]:

        def numbers(interval: Interval) -> dict[str, object]:
            found = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            return {name: _plain(value) for name, value in found.items()}

        found: dict[str, object] = {
            "layers": self.layers,
            "episodes": len(self.losses[SETTINGS[0]]),
            "rate": self.rate,
            "rec2ftp": numbers(self.rec2ftp),
            "loss": {name: float(values.double().mean()) for name, values in self.losses.items()},
            "right": {name: float(values.double().mean()) for name, values in self.right.items()},
            "by layer": {name: numbers(curve.interval()) for name, curve in self.curves.items()},
        }
        return found if self.control is None else {**found, "untrained": self.control._numbers()}


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
            compared in the same way. Both updates of any network go through the same matrices, which alone
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
    beside = None if control is None else compare_fine_tuning(*control, rate, seed, rates)
    if rate is None:
        rate = _best_rate(network, prompts, rates)
    generator = torch.Generator().manual_seed(seed)
    parts = [_compare(network, part, rate, generator) for part in _parts(network, prompts)]
    measures = {name: torch.cat([part.measures[name] for part in parts]) for name in parts[0].measures}
    places = tuple(range(len(network.layers)))
    return FineTuningComparison(
        network.layers,
        rate,
        {setting: torch.cat([part.losses[setting] for part in parts]) for setting in SETTINGS},
        {setting: torch.cat([part.right[setting] for part in parts]) for setting in SETTINGS},
        **{name: Curve(places, values.double()) for name, values in measures.items()},
        query_tokens=prompts.query_tokens,
        control=beside,
    )


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
            parts.append(network.loss(found.output, part.target) if sound else torch.tensor([float("inf")]))
        losses.append(float(torch.cat(parts).double().mean()))
    finite = {rate: loss for rate, loss in zip(rates, losses, strict=True) if loss < float("inf")}
    if not finite:
        raise UserError(f"fine-tuning diverges at every rate that was tried, {min(rates):g} to {max(rates):g}")
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
    size = max(1, _NUMBERS // network.size)
    return [prompts.part(begin, begin + size) for begin in range(0, len(prompts), size)]


def _cell(interval: Interval) -> str:
    return f"{float(interval.mean):.2f} ± {float(interval.half_width):.2f}"


def _plain(value: Tensor) -> object:
    # JSON has no NaN.
    found = value.tolist()
    return None if isinstance(found, float) and found != found else found
