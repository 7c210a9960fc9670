"""What a comparison of learning in context with fine-tuning found: its tables, its verdict, its numbers.

Shape letters: B episodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.analysis.inside.fine_tuning_scores import rec2ftp
from iclkit.analysis.intervals import Curve, Interval, cell
from iclkit.analysis.table import Table

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


def _cell(interval: Interval) -> str:
    return f"{float(interval.mean):.2f} ± {float(interval.half_width):.2f}"


def _plain(value: Tensor) -> object:
    # JSON has no NaN.
    found = value.tolist()
    return None if isinstance(found, float) and found != found else found
