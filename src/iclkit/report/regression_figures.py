"""Figures of regression learners: errors and distances by context size, shifts, and a line between networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclkit.analysis.compare import BAYES, Comparison
from iclkit.analysis.interpolation import Interpolation
from iclkit.analysis.intervals import Curve, cell
from iclkit.analysis.naming import written
from iclkit.analysis.shifts import UNSHIFTED, ShiftComparison
from iclkit.report.figures import INK

Style = dict[str, Any]
# Distinct in hue and lightness for the colour-blind too; the learner that is judged comes first, in ink.
COLOURS = (INK, "#0b7285", "#e07b00", "#7a4fb0", "#5c940d", "#c2255c", "#1971c2", "#8a6d3b")
_BAYES = "#6b7280"
_GRID = "#e5e7eb"
_DPI = 160
# How far a panel reaches above and below what predicting 0 costs. After d noisy pairs least squares has no
# finite error, and exact learners end at rounding errors.
_ABOVE, _BELOW = 100.0, 1e-5


def comparison_figure(comparison: Comparison) -> Figure:
    """Errors of all learners, and how far the first one is from each of the others, by context size."""
    names = comparison.names
    styles = line_styles(names)
    judged, *others = names
    figure = Figure(figsize=(12.4 if others else 7.2, 4.9), dpi=_DPI, layout="constrained")
    left, *right = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    unit = "" if comparison.scale == 1 else f" / {comparison.scale:g}"
    truth = "target" if comparison.asked.truth is None else "function"
    panels = [(left, {name: comparison.error(name) for name in names}, "Error")]
    panels += [(a, {n: comparison.spd(judged, n) for n in others}, f"Distance of {judged} from") for a in right]
    for axes, lines, title in panels:
        draw_curves(axes, lines, styles)
        if axes is left:
            draw_signal(axes, comparison)
        axes.set_ylim(limits([(comparison, lines)]))
        name_ends(axes, lines, styles)
        axes.set_title(title, size=13, color=INK, loc="left")
        axes.set_xlabel("pairs in the context", size=11.5, color=INK)
        quantity = f"squared error{unit} against the {truth}" if axes is left else f"squared difference{unit}"
        axes.set_ylabel(quantity, size=11.5, color=INK)
        axes.tick_params(labelsize=10.5, colors=INK, length=3)
    episodes = f"{len(comparison.asked.x)} episodes"
    figure.suptitle(
        f"{written(comparison.task)}, {episodes}; bands: 95 % intervals; dotted: predicting 0",
        size=11,
        color=INK,
    )
    return figure


def shifts_figure(found: ShiftComparison, columns: int = 5) -> Figure:
    """Errors by context size, one panel for each shift, on one vertical axis.

    Args:
        found: The comparisons.
        columns: Panels in a row.
    """
    styles = line_styles(found.names)
    count = len(found.conditions)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.75 * columns + 0.6, 2.35 * rows + 1.1), dpi=_DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    some = next(iter(found.conditions.values()))
    unit = "" if some.scale == 1 else f" / {some.scale:g}"
    drawn = []
    for axes, (shift, comparison) in zip(panels, found.conditions.items(), strict=False):
        # Queries that are zero, as those orthogonal to d inputs must be, ask for nothing.
        asking = comparison.asked.queries.any(-1).any(0).nonzero()[:, 0].tolist()
        lines = {name: comparison.error(name).at(*asking) for name in comparison.names}
        drawn.append((comparison, lines))
        draw_curves(axes, lines, styles)
        draw_signal(axes, comparison)
        axes.set_title("no shift" if shift == UNSHIFTED else shift, size=11, color=INK)
    panels[0].set_ylim(limits(drawn))
    panels[0].set_xlim(*_ends(found.context_sizes))  # one panel may show fewer
    for index, axes in enumerate(panels):
        axes.set_visible(index < count)
        axes.tick_params(labelsize=9, colors=INK, length=2.5)
        if index + columns >= count:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("pairs in the context", size=9.5, color=INK)
    figure.supylabel(f"squared error{unit}", size=11, color=INK)
    title = f"{written(found.task)} and its shifts; bands: 95 % intervals; dotted: predicting 0"
    figure.suptitle(title, size=12, color=INK)
    figure.legend(
        handles=[panels[0].plot([], [], **styles[name], label=name)[0] for name in found.names],
        loc="outside lower center",
        ncols=min(len(found.names), 5),
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
    )
    return figure


def interpolation_figure(lines: Mapping[str, Interpolation], ends: tuple[str, str]) -> Figure:
    """Losses along straight lines between networks.

    Args:
        lines: Interpolations by name ("as trained", "scale matched").
        ends: What the networks at fraction 0 and 1 are.
    """
    figure = Figure(figsize=(7.2, 4.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    highest = 0.0
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        interval = line.interval()
        axes.fill_between(line.fractions, interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)
        label = f"{name}: barrier {cell(line.barrier())}"
        axes.plot(line.fractions, interval.mean, color=colour, linewidth=2, label=label)
        highest = max(highest, float(interval.high.max()))
    axes.set(xlim=(0, 1), ylim=(0, 1.08 * highest))
    # The names of the ends stand in a line of their own, and inwards, for they may be long.
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], [f"0\n{ends[0]}", "¼", "½", "¾", f"1\n{ends[1]}"])
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_xlabel("between the networks", size=11.5, color=INK)
    axes.set_ylabel("squared error", size=11.5, color=INK)
    axes.set_title("Loss along the straight line; bands: 95 % intervals", size=12, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=10.5, labelcolor=INK)
    axes.tick_params(labelsize=10.5, colors=INK, length=3)
    _frame(axes)
    return figure


def line_styles(names: Sequence[str]) -> dict[str, Style]:
    """How the lines of learners are drawn: the first in heavy ink, Bayes dashed and grey."""
    styles: dict[str, Style] = {}
    for i, name in enumerate(name for name in names if name != BAYES):
        dashes = "-" if i < len(COLOURS) else "-."
        styles[name] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.7 if i else 2.4, "linestyle": dashes}
    if BAYES in names:
        styles[BAYES] = {"color": _BAYES, "linewidth": 1.6, "linestyle": (0, (4, 2))}
    return styles


def draw_curves(axes: Axes, lines: Mapping[str, Curve], styles: Mapping[str, Style]) -> None:
    """Positive curves by context size on a logarithmic axis, with their bands; zeros leave the picture."""
    axes.set_yscale("log", nonpositive="mask")
    for order, (name, curve) in enumerate(lines.items()):
        interval, style = curve.interval(), styles[name]
        shown = interval.mean > 0
        mean, low, high = (
            torch.where(shown, v, torch.nan) for v in (interval.mean, interval.low, interval.high)
        )
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(curve.context_sizes, low, high, **band)
        # The first is judged, so it lies on top of what it is like; Bayes' dashes leave others to be seen.
        height = 3.5 if name == BAYES else 4.0 if order == 0 else 3 - order / len(lines)
        axes.plot(curve.context_sizes, mean, **style, zorder=height)
    _frame(axes)
    sizes = [n for curve in lines.values() for n in curve.context_sizes]
    axes.set_xlim(*_ends(sizes))


def _ends(context_sizes: Sequence[int]) -> tuple[float, float]:
    """Ends of the horizontal axis."""
    margin = 0.01 * max(1, max(context_sizes))
    return min(context_sizes) - margin, max(context_sizes) + margin


def draw_signal(axes: Axes, comparison: Comparison) -> None:
    """A dotted line at what predicting 0 costs."""
    signal = _signal(comparison)
    axes.axhline(signal, color=_BAYES, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)


def _frame(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _signal(comparison: Comparison) -> float:
    """What predicting 0 costs, on average over the context sizes whose queries are not zero themselves."""
    found = comparison.signal.mean
    return float(found[found > 0].mean()) if (found > 0).any() else 1.0


def limits(drawn: Sequence[tuple[Comparison, Mapping[str, Curve]]]) -> tuple[float, float]:
    """Ends of a vertical axis that shows some curves, as far as they are worth it."""
    values = torch.cat([curve.mean for _, lines in drawn for curve in lines.values()])
    signal = max(_signal(comparison) for comparison, _ in drawn)
    values = values[values > 0]
    if not len(values):
        return 0.1, 10.0
    # The signal is in the picture, so that the two ends never cross.
    low, high = min(float(values.min()), signal) / 2, 2 * max(float(values.max()), signal)
    return max(low, _BELOW * signal), min(high, _ABOVE * signal)


def name_ends(axes: Axes, lines: Mapping[str, Curve], styles: Mapping[str, Style]) -> None:
    """Names beside the right ends of lines, pushed apart where they would overlap; limits are set before."""
    gap = 0.058
    to_axes = axes.transData + axes.transAxes.inverted()
    low = axes.get_ylim()[0]
    ends = {name: float(curve.mean[-1]) for name, curve in lines.items()}
    places = {name: to_axes.transform((1.0, max(value, low)))[1] for name, value in ends.items()}
    ordered = sorted(places, key=lambda name: (places[name], name))
    heights: list[float] = []
    for name in ordered:
        height = min(max(places[name], 0.0), 1.0)
        heights.append(max(height, heights[-1] + gap) if heights else height)
    # The pile grew upwards; bring it down so that it is centred on what it names.
    surplus = sum(h - min(max(places[n], 0.0), 1.0) for h, n in zip(heights, ordered, strict=True))
    shift = min(surplus / max(len(heights), 1), heights[0]) if heights else 0.0
    for height, name in zip(heights, ordered, strict=True):
        axes.annotate(
            name,
            (1.015, height - shift),
            xycoords="axes fraction",
            va="center",
            size=10.5,
            color=styles[name]["color"],
            annotation_clip=False,
        )
