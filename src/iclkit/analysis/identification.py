"""Which algorithm is it? The textbook learner that is nearest to any learner, with its fitted parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iclkit.analysis.families import FAMILIES, Family
from iclkit.analysis.fitting import Estimate, Fit, fit
from iclkit.analysis.intervals import RESAMPLES, Curve, Interval
from iclkit.analysis.naming import name_of, written
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import Questions, answers, ask
from iclkit.analysis.table import Table
from iclkit.errors import UserError, unknown
from iclkit.learners import RegressionLearner, as_learner
from iclkit.tasks import RegressionTask

if TYPE_CHECKING:
    from rich.console import RenderableType

# What "nearest" amounts to, by the share of the learner's mean square that the nearest one leaves unexplained.
# The root of it is the size of a typical difference against that of a typical prediction: 0.1%, 10%, 30%.
GRADES = {1e-6: "is", 1e-2: "is close to", 0.1: "resembles"}
_UNLIKE = "is nearest to, but unlike,"
# Differences of squares below these shares are rounding in the type that the learner was called in.
_RESOLUTION = {torch.float64: 1e-12}
_COARSE = 1e-7


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
    """

    family: Family
    parameters: dict[str, Estimate]
    learner: RegressionLearner
    spd: Curve
    excess: Interval
    tied: bool

    @property
    def label(self) -> str:
        """The family with its fitted parameters."""
        return self.family.label({name: found.value for name, found in self.parameters.items()})


@dataclass(frozen=True)
class Identification:
    """What `identify` found.

    Args:
        name: The learner that was identified.
        task: Where its predictions were compared.
        matches: One for each family, the nearest first: of those tied for it the simplest.
        power: The learner's mean squared prediction.
        level: Coverage of all intervals.
        seed: Seed of the episodes.
    """

    name: str
    task: RegressionTask
    matches: tuple[Match, ...]
    power: float
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
        spd = float(match.spd.overall(self.level).mean)
        return spd / self.power if self.power else float(spd > 0)

    @property
    def grade(self) -> str:
        """What "nearest" amounts to: is, is close to, resembles, or is nearest to, but unlike."""
        return next((grade for most, grade in GRADES.items() if self.unexplained <= most), _UNLIKE)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        left = f"{percent(self.unexplained)} of its mean square" if self.unexplained > 1e-6 else "nothing"
        text = f"{self.name} {self.grade} {_told(self.nearest)}, which leaves {left} unexplained"
        if self.tied:
            text += f"; cannot be told apart from it: {'; '.join(map(_told, self.tied))}"
        return f"{text}."

    def nearest_by_size(self) -> list[tuple[Match, bool]]:
        """At each context size the nearest match, and whether it is told apart from all others there.

        As overall, of matches that cannot be told apart the one with the fewest parameters counts.
        """
        strict = _together(self.level, len(self.matches))
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
                if least[place] <= self.power * _COARSE
            ]
            found.append((min(tied, key=lambda match: len(match.parameters)), len(tied) == 1))
        return found

    def table(self) -> Table:
        """One row for each family, with SPD divided by the dimension of the inputs."""
        rows = []
        dim = self.task.dim
        for match in self.matches:
            spd = match.spd.overall(self.level)
            parameters = "; ".join(f"{name} {found}" for name, found in match.parameters.items())
            place = "nearest" if match is self.nearest else "tied" if match.tied else ""
            rows.append((match.family.name, parameters, _numbers(spd, dim), percent(self.share(match)), place))
        columns = ("learner", "fitted", "SPD/d", "unexplained", "")
        tied = frozenset((i, 0) for i, m in enumerate(self.matches) if m.tied or m is self.nearest)
        return Table(columns, rows, tied)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the names and numbers of the table mean."""
        found = [
            f"Intervals cover {100 * self.level:.0f}%; those above the nearest hold together. "
            "Parameters were fitted on one half of the episodes, distances measured on the other."
        ]
        found += [f"{match.family.name}: {match.family.note}." for match in self.matches if match.family.note]
        return tuple(found)

    def markdown(self) -> str:
        """Verdict, table and notes as Markdown."""
        head = f"{2 * self.nearest.spd.datasets} episodes of {written(self.task)}, seed {self.seed}"
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.verdict}**\n\n{head}\n\n{self.table().markdown()}\n{notes}\n"

    __str__ = markdown
    _repr_markdown_ = markdown

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = [Text(f"\n{self.verdict}\n", style="bold"), *map(Text, self.notes)]
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
            }

        return json.dumps(
            {
                "learner": self.name,
                "task": written(self.task),
                "dim": self.task.dim,
                "verdict": self.verdict,
                "grade": self.grade,
                "context_sizes": list(self.nearest.spd.context_sizes),
                "held_out_episodes": self.nearest.spd.datasets,
                "level": self.level,
                "seed": self.seed,
                "mean_square": self.power,
                "matches": [told(match) for match in self.matches],
            },
            indent=2,
        )


def identify(
    learner: RegressionLearner | Callable[[Tensor, Tensor], Tensor] | Any,
    task: RegressionTask,
    points: int | None = None,
    episodes: int = 256,
    seed: int = 0,
    families: Sequence[str | Family] | None = None,
    context_sizes: Sequence[int] | None = None,
    level: float = 0.95,
    dtype: torch.dtype = torch.float32,
    name: str | None = None,
) -> Identification:
    """Find the textbook learner whose predictions are nearest to those of a learner.

    The distance is the squared prediction difference (SPD) E(A(D, x) − B(D, x))², averaged over context sizes.
    The free parameters of every family are fitted on the first half of the episodes, the distances measured on
    the second. Two families are told apart if the bootstrap interval of their paired difference excludes zero
    (with Bonferroni's correction for the number of families) and it is more than rounding; otherwise the
    simpler one is named and the tie reported.

    Args:
        learner: Anything with predict(x [B, N, d], y [B, N]) -> [B, N], or such a function. Its prediction of
            y_n may depend on x_n and the pairs before n alone.
        task: The episodes on which it is compared.
        points: Queries in each (N ≥ 2), after contexts of 0 to N − 1 pairs. The default is 40, or as many as
            the learner takes.
        episodes: How many (B).
        seed: Seed of the episodes.
        families: Names in `FAMILIES`, or families of your own; all that apply by default.
        context_sizes: Those whose SPD is fitted and averaged, each counting the same; all by default.
        level: Coverage of the intervals.
        dtype: Type of the numbers that the learner is given.
        name: What to call it.

    Returns:
        The matches, nearest first, with a verdict.

    Raises:
        UserError: Predictions that are not finite, not of shape [B, N], or that depend on later pairs; unknown
            families; too few episodes or points.

    Source: Akyürek et al. (2022), section 4 (SPD).
    """
    judged = as_learner(learner)
    called = name or name_of(judged)
    count = min(40, 40 if judged.limit is None else judged.limit + 1) if points is None else points
    if count < 2 or episodes < 16:
        raise UserError(f"points must be at least 2 and episodes at least 16, given {count} and {episodes}")
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, given {level}")
    sizes = list(range(count)) if context_sizes is None else sorted(set(context_sizes))
    if not sizes or not all(0 <= n < count for n in sizes):
        raise UserError(f"context_sizes must lie in 0..{count - 1}, given {sizes}")
    chosen = _families(families, task, count)

    asked = _typed(ask(task, count, episodes, torch.Generator().manual_seed(seed)), dtype)
    target = _ask(judged, called, asked)
    half = episodes // 2
    prompts = Prompts.of(asked, slice(0, half))
    with torch.no_grad():
        fits = [fit(family, prompts, target[:half], sizes) for family in chosen]
        found = [member for member in fits if member is not None]
        if not found:
            raise UserError(f"no family comes near {called} with finite predictions; give other families")
        held_out = Prompts.of(asked, slice(half, episodes))
        matches, power = _measure(found, held_out, target[half:], sizes, level, dtype)
    return Identification(called, task, matches, power, level, seed)


def _families(given: Sequence[str | Family] | None, task: RegressionTask, points: int) -> list[Family]:
    """The families as objects, those that do not apply to the task left out."""
    found = []
    for entry in FAMILIES if given is None else given:
        if isinstance(entry, str) and entry not in FAMILIES:
            raise unknown("family", entry, FAMILIES)
        family = FAMILIES[entry](task, points) if isinstance(entry, str) else entry
        if family is None and given is not None:
            raise UserError(f"the family {entry!r} does not apply to {task}; leave it out")
        if family is not None:
            found.append(family)
    if not found:
        raise UserError("families must name at least one family, given none")
    return found


def _typed(asked: Questions, dtype: torch.dtype) -> Questions:
    """The questions alone, in numbers of a type."""
    x, y = asked.x.to(dtype), asked.y.to(dtype)
    return Questions(x, y, x if asked.queries is asked.x else asked.queries.to(dtype), None, y, None)


def _ask(learner: RegressionLearner, name: str, asked: Questions) -> Tensor:
    """The learner's answers in float64, after checking that they are finite and look at no later pair."""
    found = answers(learner, asked).double()
    if not found.isfinite().all():
        size = int((~found.isfinite()).any(0).nonzero()[0])
        raise UserError(f"{name} predicts NaN or infinite values after {size} pairs, which nothing is near to")
    # Other pairs from the middle on, but the same input there, must leave everything up to there as it was.
    x, y = asked.x[:4].clone(), asked.y[:4].clone()
    middle = x.shape[1] // 2
    x[:, middle + 1 :] = x[:, middle + 1 :].flip(0) - 1
    y[:, middle:] = y[:, middle:].flip(0) + 1
    changed = Questions(x, y, x if asked.queries is asked.x else asked.queries[:4], None, y, None)
    before, after = (part[:4, : middle + 1] for part in (found, answers(learner, changed).double()))
    if (after - before).abs().max() > 1e-3 * (1 + before.abs().max()):
        raise UserError(
            f"{name} predicts otherwise when the pair that it predicts, or later ones, change; what it says of "
            "y_n may depend on x_n and the pairs before n alone, and not on chance"
        )
    return found


def _measure(
    fits: Sequence[Fit], prompts: Prompts, target: Tensor, sizes: list[int], level: float, dtype: torch.dtype
) -> tuple[tuple[Match, ...], float]:
    """Distances of the fitted members on held-out episodes, which of them tie, and the mean squared target."""
    learners = [found.family.build(**found.values) for found in fits]
    curves = []
    for member in learners:
        difference = answers(member, prompts.asked) - target
        curves.append(Curve(tuple(sizes), difference[:, sizes].square()))
    power = float(target[:, sizes].square().mean())
    weights = _resamples(len(target))
    least = min(range(len(fits)), key=lambda i: float(curves[i].mean.mean()))
    rounding = _RESOLUTION.get(dtype, _COARSE) * power
    strict = _together(level, len(fits))
    matches = []
    for found, member, curve in zip(fits, learners, curves, strict=True):
        excess = (curve - curves[least]).overall(strict)
        tied = bool(excess.low <= 0) or float(excess.mean) <= rounding
        matches.append(Match(found.family, found.estimates(weights, level), member, curve, excess, tied))
    # Of those tied for the least distance the one with the fewest parameters is named; sorting keeps the order.
    matches.sort(key=lambda m: (not m.tied, len(m.parameters) if m.tied else float(m.excess.mean)))
    return tuple(matches), power


def _together(level: float, families: int) -> float:
    """The level of each difference to the nearest family at which all of them hold together (Bonferroni)."""
    return 1 - (1 - level) / max(1, families - 1)


def _resamples(count: int) -> Tensor:
    """How often each of some episodes is in each of the bootstrap's resamples, as shares."""
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / count


def _told(match: Match) -> str:
    inside = ", ".join(f"{name} {found}" for name, found in match.parameters.items())
    return f"{match.family.name} ({inside})" if inside else match.family.name


def _numbers(interval: Interval, scale: float) -> str:
    mean, low, high = (f"{float(v) / scale:.2g}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def percent(share: float) -> str:
    """A share as text, with the digits that matter."""
    if 0 < share < 1e-6:
        return "< 0.0001%"
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


def _plain(interval: Interval) -> dict[str, Any]:
    return {name: value.tolist() for name, value in vars(interval).items()}
