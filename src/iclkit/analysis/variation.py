"""Does a family's parameter vary with the context size, beyond the error of fitting it there?

The test is a prediction: parameters fitted to every context size by itself and one for all of them are both
judged on episodes that neither has seen. Where one value is right, fitting many only adds their errors, and the
distance grows. So a distance that shrinks, surely, is no error of the fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.by_size import BySize, Member, each_differences, fit_by_size, with_fixed
from iclkit.analysis.fitting import Estimate, Fit
from iclkit.analysis.intervals import Curve, Interval
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.targets import Target

# A parameter is said to vary if that explains this share of what one value leaves unexplained.
_SHARE = 0.1
# The members by context size stand for the family where they leave at most this share of it. So many numbers
# bring some families nearer that are none the more right.
_MUCH = 0.1
# A family is worth a fit by context size if the grid promises this much, and comes this near to the nearest.
_PROMISE, _REACH = 0.7, 2.0
# What a law a nᵇ, or one value of another parameter, may leave: so many times what the members do, and this
# share of what they gain.
_ROOM, _GAIN = 2.0, 0.5
# A value whose interval is no wider than this factor is known. Steps: so few runs of values within a hundredth.
_KNOWN, _FEW, _SAME = 100.0, 3, 0.01

Measure = Callable[[Callable[[Prompts, Target], Tensor]], Float[Tensor, "B S"]]
"""Squared differences on the episodes that measure, of what gives differences on some of them."""


@dataclass(frozen=True)
class Variation:
    """A family whose parameters vary with the context size.

    Args:
        estimates: Those that vary, fitted to each context size, with intervals that hold each by itself.
        constant: The others, one value for all.
        sizes: The context sizes.
        spd: Squared prediction differences to the members by context size.
        gain: By how much that is less than with one value for all, in pairs.
        powers: For each parameter that is about a nᵇ the numbers (a, b).
        member: The learner that has them.
        adopted: Whether it stands for the family: one value for all leaves ten times as much unexplained.
    """

    estimates: Mapping[str, tuple[Estimate, ...]]
    constant: Mapping[str, float]
    sizes: tuple[int, ...]
    spd: Curve
    gain: Interval
    powers: Mapping[str, tuple[float, float]]
    member: Member
    adopted: bool

    def course(self, name: str) -> str:
        """A parameter in a few words: its first, a middle and its last value, and how it grows."""
        known = [
            (n, found.value)
            for n, found in zip(self.sizes, self.estimates[name], strict=True)
            if n and found.high <= _KNOWN * found.low
        ]
        levels = _levels(known)
        if len(levels) <= _FEW:
            spans = [f"up to n = {levels[0][1]}"] + [f"from n = {first}" for first, *_ in levels[1:]]
            return ", ".join(f"{value:.3g} {span}" for (*_, value), span in zip(levels, spans, strict=True))
        shown = [known[i] for i in sorted({0, len(known) // 4, len(known) - 1})]
        text = ", ".join(f"{value:.3g} at n = {n}" for n, value in shown)
        if name in self.powers:
            factor, power = self.powers[name]
            text += f", about {factor:.3g} n^{power:.2g}"
        return text


def _levels(known: Sequence[tuple[int, float]]) -> list[tuple[int, int, float]]:
    """Runs of context sizes at which a value stays the same: the first, the last, and the value."""
    found: list[tuple[int, int, float]] = []
    for size, value in known:
        if found and abs(value - found[-1][2]) <= _SAME * found[-1][2]:
            found[-1] = (found[-1][0], size, found[-1][2])
        else:
            found.append((size, size, value))
    return found


def worth_a_look(found: Fit, best: float, nearest: bool, rounding: float) -> bool:
    """Whether a family deserves a fit by context size.

    Args:
        found: Its fit for all of them.
        best: The least loss of all families' fits.
        nearest: Whether it is among the nearest.
        rounding: What losses below are nothing.
    """
    loss = found.candidates[0].loss
    if (
        not found.family.parameters
        or not found.family.by_size
        or loss <= rounding
        or len(found.scan.losses.T) < 2
    ):
        return False
    each = float(found.scan.losses.min(0).values.mean())
    return nearest or (each <= _PROMISE * found.scan.constant and each <= _REACH * best)


def vary(
    found: Fit,
    constant: Float[Tensor, "B S"],
    prompts: Prompts,
    target: Target,
    measure: Measure,
    weights: Float[Tensor, "R B"],
    levels: tuple[float, float],
    rounding: float,
) -> Variation | None:
    """Fit a family by context size, and see whether that is nearer to the target elsewhere too.

    Args:
        found: The fit of one member for all context sizes.
        constant: Its squared differences on the episodes that measure.
        prompts: The episodes that fit.
        target: The predictions there.
        measure: Squared differences on the episodes that measure.
        weights: Resamples of the episodes that fit.
        levels: Of the intervals of parameters, and of the test.
        rounding: What mean squared differences below are nothing.

    Returns:
        The variation; None where one value is as good.
    """
    each = fit_by_size(found, prompts, target)
    squares = measure(each.differences)
    sizes = target.sizes
    gain = Curve(sizes, constant - squares.nan_to_num(posinf=1e300)).overall(levels[1])
    before, after = float(constant.mean()), float(squares.mean())
    if not (float(gain.low) > rounding and before - after >= _SHARE * before):
        return None
    room = min(_ROOM * after, after + _GAIN * (before - after)) + rounding
    each, squares, fixed = _with_fewer(found, each, squares, prompts, target, measure, room)
    estimates = {k: v for k, v in each.estimates(weights, levels[0]).items() if k not in fixed}
    return Variation(
        estimates,
        fixed,
        sizes,
        Curve(sizes, squares),
        gain,
        _powers(each, list(estimates), measure, room),
        each.member,
        float(squares.mean()) <= _MUCH * before,
    )


def _with_fewer(
    found: Fit,
    each: BySize,
    squares: Tensor,
    prompts: Prompts,
    target: Target,
    measure: Measure,
    room: float,
) -> tuple[BySize, Tensor, dict[str, float]]:
    """The same with one value of each parameter that need not vary; one varies at least."""
    fixed: dict[str, float] = {}
    names = [p.name for p in found.family.parameters]
    while len(fixed) < len(names) - 1:
        tried = []
        for name in names:
            if name in fixed:
                continue
            value = _usual(each, name)
            fewer = with_fixed(found, name, value)
            other = fit_by_size(fewer, prompts, target)
            own = measure(other.differences)
            tried.append((float(own.mean()), name, value, fewer, other, own))
        left, name, value, fewer, other, own = min(tried, key=lambda entry: entry[0])
        if not left <= room:
            break
        fixed[name] = value
        found, each, squares = fewer, other, own
    return each, squares, fixed


def _usual(each: BySize, name: str) -> float:
    """The value of a parameter at most context sizes that have pairs."""
    values = each.values[name][[place for place, n in enumerate(each.sizes) if n or len(each.sizes) == 1]]
    return float(values.median())


def _powers(
    each: BySize, names: Sequence[str], measure: Measure, room: float
) -> dict[str, tuple[float, float]]:
    """The parameters that are as well a power of the context size."""
    found: dict[str, tuple[float, float]] = {}
    sizes = torch.tensor(each.sizes, dtype=torch.float64)
    seen = sizes > 0
    if int(seen.sum()) < 3:
        return found
    whole = {p.name for p in each.family.parameters if p.whole}
    for name in names:
        if name in whole:
            continue
        logs = torch.stack([torch.ones_like(sizes[seen]), sizes[seen].log()], 1)
        values = each.values[name]
        # Medians of slopes: some context sizes say little about their parameter.
        places = torch.arange(len(logs))
        first, second = torch.meshgrid(places, places, indexing="ij")
        pairs = first < second
        rise = values[seen].log()[second[pairs]] - values[seen].log()[first[pairs]]
        power = float((rise / (logs[second[pairs], 1] - logs[first[pairs], 1])).median())
        factor = float((values[seen].log() - power * logs[:, 1]).median().exp())
        law = torch.where(seen, factor * sizes.clamp(min=1) ** power, values)
        tried = {**each.values, name: law}
        squares = measure(
            lambda prompts, target, tried=tried: each_differences(each.family, tried, prompts, target)
        )
        if float(squares.mean()) <= room:
            found[name] = factor, power
    return found
