"""Which algorithm is it? The textbook learner that is nearest to any learner, with its fitted parameter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from iclkit.analysis.family import Family
from iclkit.analysis.fitting import Estimate
from iclkit.analysis.intervals import Curve, Interval, cell
from iclkit.analysis.naming import written
from iclkit.analysis.table import Table
from iclkit.analysis.variation import Variation
from iclkit.errors import shown
from iclkit.learners import RegressionLearner
from iclkit.tasks import RegressionTask

if TYPE_CHECKING:
    from rich.console import RenderableType

# What "nearest" amounts to, by the share of the learner's mean square that the nearest one leaves unexplained.
# The root of it is the size of a typical difference against that of a typical prediction: 0.1%, 10%, 30%.
GRADES = {1e-6: "is", 1e-2: "is close to", 0.1: "resembles"}
_NOTHING, _ANYWHERE = 1e-6, 1e-5
_UNLIKE = "is nearest to, but unlike,"


@dataclass(frozen=True)
class Match:
    """The member of one family that is nearest to the learner, measured on episodes that it was not fitted to.

    Args:
        family: The family.
        parameters: Fitted parameters by name.
        learner: The member itself.
        spd: Squared prediction differences to the identified learner, episode by episode, by context size.
        excess: By how much its mean SPD is above that of the nearest match, in pairs; for that one, 0. The
            intervals of all families hold together.
        tied: Whether it cannot be told apart from the nearest.
        variation: How its parameters vary with the context size; None where one value is as good, or far from
            the learner anyway. Where it is adopted, `learner` and `spd` are those of the varying member.
    """

    family: Family
    parameters: dict[str, Estimate]
    learner: RegressionLearner
    spd: Curve
    excess: Interval
    tied: bool
    variation: Variation | None = None

    @property
    def fitted(self) -> str:
        """The fitted parameters with their intervals, by their symbols."""
        symbols = {parameter.name: parameter.symbol or parameter.name for parameter in self.family.parameters}
        return "; ".join(self.told(name, symbols[name]) for name in self.parameters)

    @property
    def label(self) -> str:
        """The family with its fitted parameters."""
        inside = ", ".join(self.told(name, name) for name in self.parameters if self.varies(name))
        if inside:
            return f"{self.family.name} ({inside})"
        return self.family.label({name: found.value for name, found in self.parameters.items()})

    def varies(self, name: str) -> bool:
        """Whether a parameter varies with the context size."""
        return self.variation is not None and name in self.variation.estimates

    def told(self, name: str, symbol: str) -> str:
        """A parameter in words. An interval of one value is none of what varies, and is not said."""
        other, found = self.variation, self.parameters[name]
        if other is None:
            return f"{symbol} {found}"
        if name in other.constant:
            return f"{symbol} = {other.constant[name]:.3g}" if other.adopted else f"{symbol} {found}"
        course = f"varies with the context size: {other.course(name)}"
        return f"{symbol} {course}" if other.adopted else f"{symbol} = {found.value:.3g} overall, but {course}"

    @property
    def numbers(self) -> int:
        """How many numbers were fitted."""
        count = len(self.parameters)
        if self.variation is None or not self.variation.adopted:
            return count
        return count + len(self.variation.estimates) * (len(self.spd.context_sizes) - 1)

    @property
    def ends(self) -> bool:
        """Whether a parameter is the last value that was tried: then something else is meant."""
        if self.variation is not None and self.variation.adopted:
            return False
        return any(found.edge for found in self.parameters.values())

    def explains(self, power: float) -> bool:
        """Whether it leaves nothing unexplained of a learner of so much mean square, at any context size."""
        spd = self.spd.mean
        return not self.ends and float(spd.mean()) <= _NOTHING * power and float(spd.max()) <= _ANYWHERE * power


@dataclass(frozen=True)
class Identification:
    """What `identify` found.

    Args:
        name: The learner that was identified.
        task: Where its predictions were compared.
        matches: One for each family, the nearest first: of those tied for it the simplest.
        power: The learner's mean squared prediction.
        outliers: The share of its predictions whose differences were scaled down (see `Target`).
        rounding: Mean SPD below which differences are rounding.
        level: Coverage of all intervals.
        seed: Seed of the episodes.
    """

    name: str
    task: RegressionTask
    matches: tuple[Match, ...]
    power: float
    outliers: float
    rounding: float
    level: float
    seed: int

    @property
    def nearest(self) -> Match:
        """The nearest match."""
        return self.matches[0]

    @property
    def tied(self) -> tuple[Match, ...]:
        """Other matches that cannot be told apart from the nearest on these episodes."""
        return tuple(match for match in self.matches[1:] if match.tied)

    @cached_property
    def unexplained(self) -> float:
        """Mean SPD to the nearest match as a share of the learner's mean squared prediction."""
        return self.share(self.nearest)

    def share(self, match: Match) -> float:
        """Mean SPD to a match as a share of the learner's mean squared prediction."""
        spd = float(match.spd.mean.mean())
        return spd / self.power if self.power else float(spd > 0)

    @property
    def grade(self) -> str:
        """What "nearest" amounts to: is, is close to, resembles, or is nearest to, but unlike."""
        found = next((grade for most, grade in GRADES.items() if self.unexplained <= most), _UNLIKE)
        is_it = self.nearest.explains(self.power)
        return "is close to" if found == "is" and not is_it else found

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        left = f"{percent(self.unexplained)} of its mean square" if self.unexplained > 1e-6 else "nothing"
        text = f"{self.name} {self.grade} {_told(self.nearest)}, which leaves {left} unexplained"
        other = self.nearest.variation
        if other is not None and not other.adopted and self.power:
            text += f", or {percent(float(other.spd.mean.mean()) / self.power)} where that may vary"
        if self.tied:
            text += f"; cannot be told apart from it: {'; '.join(map(_told, self.tied))}"
        return f"{text}."

    def nearest_by_size(self) -> list[tuple[Match, bool]]:
        """At each context size the nearest match, and whether it is told apart from all others there.

        As overall, of matches that cannot be told apart the one with the fewest parameters counts.
        """
        strict = together(self.level, len(self.matches))
        best = torch.stack([match.spd.mean for match in self.matches]).argmin(0).tolist()
        # One comparison with each match that is the best anywhere; each serves all of its context sizes.
        low = {
            index: [(match.spd - self.matches[index].spd).interval(strict).low for match in self.matches]
            for index in set(best)
        }
        found = []
        for place, index in enumerate(best):
            tied = [
                match
                for match, least in zip(self.matches, low[index], strict=True)
                if least[place] <= self.rounding
            ]
            found.append((min(tied, key=lambda match: match.numbers), len(tied) == 1))
        return found

    def table(self) -> Table:
        """One row for each family, with SPD divided by the dimension of the inputs."""
        rows = []
        for match in self.matches:
            spd = match.spd.overall(self.level)
            scaled = Interval(*(number / self.task.dim for number in (spd.mean, spd.low, spd.high)))
            rows.append((match.family.name, match.fitted, cell(scaled), percent(self.share(match))))
        marked = frozenset((i, 0) for i, m in enumerate(self.matches) if m.tied or m is self.nearest)
        return Table(("learner", "fitted", "SPD/d", "unexplained"), rows, marked)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the names and numbers of the table mean."""
        found = [
            f"Intervals cover {100 * self.level:.0f}%; those above the nearest hold together. "
            f"Distances were measured on {self.nearest.spd.datasets} episodes, parameters fitted on others."
        ]
        if self.tied:
            found.append("Bold: those that cannot be told apart from the nearest.")
        if self.outliers:
            found.append(
                f"{percent(self.outliers)} of its predictions lie beyond 4 typical sizes; differences from "
                "them were scaled down in proportion, for else a few would decide every average."
            )
        found += [f"{match.family.name}: {match.family.note}." for match in self.matches if match.family.note]
        return tuple(found)

    def markdown(self) -> str:
        """Verdict, table and notes as Markdown."""
        head = f"{self.nearest.spd.datasets} episodes of {written(self.task)}, seed {self.seed}"
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.verdict}**\n\n{head}\n\n{self.table().markdown()}\n{notes}\n"

    __str__ = markdown
    _repr_markdown_ = markdown

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = [Text(f"\n{shown(self.verdict)}\n", style="bold"), *map(Text, map(shown, self.notes))]
        return Group(self.table().rich(f"{self.name} on {written(self.task)}"), *lines)

    def to_json(self) -> str:
        """Everything, by context size too, as text that other programs read."""

        def told(match: Match) -> dict[str, Any]:
            overall, by_size = match.spd.overall(self.level), match.spd.interval(self.level)
            return {
                "family": match.family.name,
                "parameters": {name: vars(found) for name, found in match.parameters.items()},
                "spd": _plain(overall),
                "excess": _plain(match.excess),
                "unexplained": self.share(match),
                "tied": match.tied,
                "spd_by_context_size": _plain(by_size),
                **_told_by_size(match),
            }

        return json.dumps(
            {
                "learner": self.name,
                "task": written(self.task),
                "dim": self.task.dim,
                "verdict": self.verdict,
                "grade": self.grade,
                "context_sizes": list(self.nearest.spd.context_sizes),
                "episodes": self.nearest.spd.datasets,
                "level": self.level,
                "seed": self.seed,
                "mean_square": self.power,
                "outliers": self.outliers,
                "matches": [told(match) for match in self.matches],
            },
            indent=2,
        )


def together(level: float, families: int) -> float:
    """The level of each difference to the nearest family at which all of them hold together (Bonferroni)."""
    return 1 - (1 - level) / max(1, families - 1)


def _told_by_size(match: Match) -> dict[str, Any]:
    other = match.variation
    if other is None:
        return {}
    return {
        "parameters_by_context_size": {
            "adopted": other.adopted,
            "context_sizes": list(other.sizes),
            "varying": {name: [vars(one) for one in found] for name, found in other.estimates.items()},
            "constant": dict(other.constant),
            "powers": {name: list(power) for name, power in other.powers.items()},
            "gain": _plain(other.gain),
            "spd": _plain(other.spd.overall()),
        }
    }


def _told(match: Match) -> str:
    # What varies is told with commas.
    comma = "; " if match.variation is not None else ", "
    inside = comma.join(match.told(name, name) for name in match.parameters)
    return f"{match.family.name} ({inside})" if inside else match.family.name


def percent(share: float) -> str:
    """A share as text, with the digits that matter."""
    if 0 < share < 1e-6:
        return "< 0.0001%"
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


def _plain(interval: Interval) -> dict[str, Any]:
    return {name: value.tolist() for name, value in vars(interval).items()}
