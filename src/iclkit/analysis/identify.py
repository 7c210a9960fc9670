"""Which algorithm is it? The textbook learner that is nearest to any learner, with its fitted parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.families import FAMILIES, Family
from iclkit.analysis.fitting import Fit, fit
from iclkit.analysis.identification import Identification, Match, together
from iclkit.analysis.intervals import RESAMPLES, Curve
from iclkit.analysis.naming import name_of
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import Questions, ask, check_asked, checked_answers, seeded
from iclkit.analysis.slow_families import SLOW_FAMILIES
from iclkit.analysis.targets import Target
from iclkit.analysis.variation import Variation, vary, worth_a_look
from iclkit.errors import UserError, unknown
from iclkit.learners import RegressionLearner, as_learner
from iclkit.tasks import RegressionTask

# Distances below these shares of the mean square are rounding in the type of the learner's predictions.
_RESOLUTION = {torch.float64: 1e-12}
_COARSE = 1e-7
# How many times as many episodes measure distances as fit parameters.
_FRESH = 8
# So many of the nearest families are fitted by context size in any case.
_NEAREST = 3
# Episodes whose distances are measured at once.
_AT_ONCE = 256


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
    fresh: int | None = None,
) -> Identification:
    """Find the textbook learner whose predictions are nearest to those of a learner.

    The distance is the squared prediction difference (SPD) E(A(D, x) − B(D, x))², averaged over context sizes;
    where A predicts far beyond its typical size the differences are scaled down, and differences beyond 4
    typical sizes count as so many (`Target`).
    The free parameters of every family are fitted on some episodes, the distances measured on many more: a
    fit costs a thousand predictions, a distance one, and a few odd episodes must not decide which is nearest.
    Two families are told apart if the bootstrap interval of their paired difference excludes zero (with
    Bonferroni's correction for the number of families) and it is more than rounding; otherwise the simpler one
    is named and the tie reported.
    Parameters are fitted to every context size too, and said to vary where that is nearer on the other episodes
    (see `variation.py`). What one member is, nothing simpler is: of all that leave nothing unexplained the one
    with the fewest parameters is named, and none whose parameter is the last value that was tried.

    Args:
        learner: Anything with predict(x [B, N, d], y [B, N]) -> [B, N], or such a function. Its prediction of
            y_n may depend on x_n and the pairs before n alone.
        task: The episodes on which it is compared.
        points: Queries in each (N ≥ 2), after contexts of 0 to N − 1 pairs. The default is 40, or as many as
            the learner takes.
        episodes: On how many the families are fitted.
        seed: Seed of the episodes.
        families: Names in `FAMILIES` or `SLOW_FAMILIES`, or families of your own; by default all of `FAMILIES`
            that apply to the task.
        context_sizes: Those whose SPD is fitted and averaged, each counting the same; all by default.
        level: Coverage of the intervals.
        dtype: Type of the numbers that the learner is given.
        name: What to call it.
        fresh: On how many other episodes the distances are measured; 8 times as many by default.

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
    check_asked(task, count, episodes)
    fresh = _FRESH * episodes if fresh is None else fresh
    if count < 2 or min(episodes, fresh) < 16:
        raise UserError(
            f"points must be at least 2, episodes and fresh at least 16, given {count}, {episodes} and {fresh}"
        )
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, given {level}")
    sizes = list(range(count)) if context_sizes is None else sorted(set(context_sizes))
    if not sizes or not all(0 <= n < count for n in sizes):
        raise UserError(f"context_sizes must lie in 0..{count - 1}, given {sizes}")
    chosen = _families(families, task, count)

    asked = _typed(ask(task, count, episodes + fresh, seeded(seed)), dtype)
    target = Target.of(checked_answers(called, judged, asked).double(), tuple(sizes))
    fitting, measuring = slice(0, episodes), slice(episodes, episodes + fresh)
    measured = target.part(measuring)
    rounding = _RESOLUTION.get(dtype, _COARSE) * measured.power
    with torch.no_grad():
        prompts = Prompts.of(asked, fitting)
        fits = [found for family in chosen if (found := fit(family, prompts, target.part(fitting)))]
        distances = _distances(fits, asked, target, measuring)
        variations = _variations(fits, distances, asked, target, (fitting, measuring), level, rounding)
        matches = _matches(fits, distances, variations, target.sizes, level, rounding, measured.power)
    if not matches:
        raise UserError(f"no family comes near {called} with finite predictions; give other families")
    return Identification(called, task, matches, measured.power, measured.outliers, rounding, level, seed)


def _families(given: Sequence[str | Family] | None, task: RegressionTask, points: int) -> list[Family]:
    """The families as objects, those that do not apply to the task left out."""
    found = []
    known = {**FAMILIES, **SLOW_FAMILIES}
    for entry in FAMILIES if given is None else given:
        if isinstance(entry, str) and entry not in known:
            raise unknown("family", entry, known)
        family = known[entry](task, points) if isinstance(entry, str) else entry
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


def _distances(
    fits: Sequence[Fit], asked: Questions, target: Target, rows: slice
) -> list[Float[Tensor, "B S"]]:
    """Squared differences between the target and each fitted member on some of the episodes."""
    parts: list[list[Tensor]] = [[] for _ in fits]
    for start in range(rows.start, rows.stop, _AT_ONCE):
        few = slice(start, min(start + _AT_ONCE, rows.stop))
        prompts, wanted = Prompts.of(asked, few), target.part(few)
        for found, part in zip(fits, parts, strict=True):
            part.append(wanted.differences(found.family.predict(prompts, found.values)).square())
    return [torch.cat(part) for part in parts]


def _variations(
    fits: Sequence[Fit],
    distances: Sequence[Tensor],
    asked: Questions,
    target: Target,
    rows: tuple[slice, slice],
    level: float,
    rounding: float,
) -> list[Variation | None]:
    """For each fit how its parameters vary with the context size, where they do."""
    fitting, measuring = rows
    means = [float(squares.mean().nan_to_num(math.inf)) for squares in distances]
    near = sorted(means)[:_NEAREST][-1] if means else 0.0
    best = min((found.candidates[0].loss for found in fits), default=0.0)
    prompts, wanted = Prompts.of(asked, fitting), target.part(fitting)

    def measure(differences: Callable[[Prompts, Target], Tensor]) -> Tensor:
        parts = []
        for start in range(measuring.start, measuring.stop, _AT_ONCE):
            few = slice(start, min(start + _AT_ONCE, measuring.stop))
            parts.append(differences(Prompts.of(asked, few), target.part(few)).square())
        return torch.cat(parts)

    weights, levels = resamples(fitting.stop - fitting.start), (level, together(level, len(fits)))
    return [
        vary(found, squares, prompts, wanted, measure, weights, levels, rounding)
        if worth_a_look(found, best, mean <= near, rounding) and math.isfinite(mean)
        else None
        for found, squares, mean in zip(fits, distances, means, strict=True)
    ]


def _matches(
    fits: Sequence[Fit],
    distances: Sequence[Tensor],
    variations: Sequence[Variation | None],
    sizes: tuple[int, ...],
    level: float,
    rounding: float,
    power: float,
) -> tuple[Match, ...]:
    """The fitted members with their distances, and which of them tie for the least."""
    # What converged on the episodes of the fit may diverge on others.
    measured = [
        (found, other.spd if other is not None and other.adopted else Curve(sizes, squares), other)
        for found, squares, other in zip(fits, distances, variations, strict=True)
        if squares.isfinite().all()
    ]
    if not measured:
        return ()
    nearest = min((curve for _, curve, _ in measured), key=lambda curve: float(curve.mean.mean()))
    strict = together(level, len(measured))
    matches = []
    for found, curve, other in measured:
        excess = (curve - nearest).overall(strict)
        tied = bool(excess.low <= 0) or float(excess.mean) <= rounding
        parameters = found.estimates(resamples(len(found.candidates[0].losses)), level)
        varies = other is not None and other.adopted
        member = other.member if other is not None and varies else found.family.build(**found.values)
        matches.append(Match(found.family, parameters, member, curve, excess, tied, other))
    # Of those tied for the least distance the one with the fewest parameters is named; sorting keeps the order.
    matches.sort(key=lambda m: (not m.tied, m.numbers if m.tied else float(m.excess.mean)))
    # Nothing is named whose work something simpler does.
    enough = [match for match in matches if match.explains(power)]
    if enough:
        simplest = min(enough, key=lambda match: match.numbers)
        if simplest.numbers < matches[0].numbers or not matches[0].explains(power):
            matches.remove(simplest)
            matches.insert(0, simplest)
    return tuple(matches)


def resamples(count: int) -> Tensor:
    """How often each of some episodes is in each of the bootstrap's resamples, as shares."""
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / count
