"""The figure of `identify`: how far a learner is from each textbook learner, by context size and on average.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import re
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclkit.analysis.identification import Identification, Match, percent
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too; the nearest match comes first.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
_REST = "#b4b9c4"
_QUIET = "#6b7280"
_DPI = 160
# Inches of each parameter that varies.
_MORE = 1.6
# Shares of the mean squared prediction below which a distance is drawn as none.
_FLOOR = 1e-7


def identify_figure(found: Identification) -> Figure:
    """Draw an identification.

    Args:
        found: What `iclkit.identify` returned.

    Returns:
        Left: SPD/d to the fitted member of every family by context size, and below which is nearest where.
        Right: its mean with intervals, as a share of the learner's mean squared prediction too. Below: the
        parameters of the nearest that vary with the context size, if any do.
    """
    varying = list(found.nearest.variation.estimates) if found.nearest.variation else []
    height = 2.2 + 0.36 * max(9, len(found.matches))
    size = (12.4, height + _MORE * len(varying))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # pyright: ignore
    parts = (16 / 17 * height, height / 17, *[_MORE for _ in varying])
    grid = figure.add_gridspec(len(parts), 2, width_ratios=(1.5, 1), height_ratios=parts)
    colours = {
        match.family.name: colour
        for match, colour in zip(found.matches, (*_COLOURS, *[_REST] * len(found.matches)), strict=False)
    }
    left = figure.add_subplot(grid[0, 0])
    _by_size(left, found, colours)
    _strip(figure.add_subplot(grid[1, 0], sharex=left), found, colours)
    _means(figure.add_subplot(grid[:2, 1]), found, colours)
    for row, name in enumerate(varying, 2):
        _parameter(figure.add_subplot(grid[row, 0], sharex=left), found.nearest, name)
    # No line ends between a sign and its number.
    verdict = re.sub(r"([=≤≥]) ", "\\1\u00a0", found.verdict)
    figure.suptitle("\n".join(textwrap.wrap(verdict, 125)), size=12, color=INK, x=0.01, ha="left")
    return figure


def _by_size(axes: Axes, found: Identification, colours: dict[str, str]) -> None:
    dim, floor = found.task.dim, _floor(found)
    sizes = found.nearest.spd.context_sizes
    start = _start(found)
    # From the back to the front, so that the nearest lies on top.
    for match in reversed(found.matches):
        interval = match.spd.interval(found.level)
        numbers = (interval.mean, interval.low, interval.high)
        mean, low, high = (np.maximum(part.numpy() / dim, floor) for part in numbers)
        colour = colours[match.family.name]
        first = match is found.nearest
        if colour != _REST:
            axes.fill_between(sizes[start:], low[start:], high[start:], color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            sizes[start:],
            mean[start:],
            color=colour,
            linewidth=2.6 if first else 1.8 if colour != _REST else 1.1,
        )
    axes.set_yscale("log")
    axes.set_ylim(floor, _ceiling(found))
    axes.set_xlim(sizes[0] - 0.5, sizes[-1] + 0.5)
    rest = list(colours.values()).count(_REST)
    if rest:
        others = "the other one" if rest == 1 else f"the {rest} others"
        _key(axes, f"colours as on the right; grey: {others} there")
    axes.set_ylabel("squared prediction difference / d", size=11, color=INK)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    _plain(axes)
    axes.tick_params(labelbottom=False)


def _strip(axes: Axes, found: Identification, colours: dict[str, str]) -> None:
    """Which match is nearest at each context size; pale where others cannot be told apart."""
    sizes = found.nearest.spd.context_sizes
    for size, (match, apart) in zip(sizes, found.nearest_by_size(), strict=True):
        # Where every learner predicts the same (0 before any pair) none is nearest.
        same = len({float(other.spd.at(size).mean) for other in found.matches}) == 1
        colour = "#eceef2" if same else colours[match.family.name]
        axes.bar(size, 1, width=1, color=colour, alpha=1.0 if apart or same else 0.4, linewidth=0)
    axes.set(yticks=[], ylim=(0, 1))
    axes.set_ylabel("nearest", size=9.5, color=INK, rotation=0, ha="right", va="center")
    axes.set_xlabel("pairs in the context (pale: others are as near)", size=11, color=INK)
    _plain(axes)
    axes.spines["left"].set_visible(False)


def _parameter(axes: Axes, match: Match, name: str) -> None:
    """A parameter that varies, by context size, with intervals; none where it is not known within a decade."""
    assert match.variation is not None
    symbol = next(p.symbol or p.name for p in match.family.parameters if p.name == name)
    course = zip(match.variation.sizes, match.variation.estimates[name], strict=True)
    known = [(n, found) for n, found in course if n and found.high <= 10 * found.low]
    for n, one in known:
        axes.plot([n, n], [one.low, one.high], color=_COLOURS[0], linewidth=2, alpha=0.5)
    axes.plot([n for n, _ in known], [one.value for _, one in known], "o", color=_COLOURS[0], markersize=4)
    axes.set_yscale("log")
    axes.set_ylabel(f"{symbol} of\n{match.family.name}", size=10, color=INK)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    _plain(axes)


def _means(axes: Axes, found: Identification, colours: dict[str, str]) -> None:
    dim, floor = found.task.dim, _floor(found)
    for row, match in enumerate(found.matches):
        spd = match.spd.overall(found.level)
        mean, low, high = (max(float(v) / dim, floor) for v in (spd.mean, spd.low, spd.high))
        colour = colours[match.family.name]
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        # A triangle says that the distance lies below the axis.
        below = float(spd.mean) / dim <= floor
        axes.plot(mean, row, "<" if below else "o", color=colour, markersize=8, clip_on=False, zorder=4)
        axes.annotate(
            percent(found.share(match)),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            size=10,
            color=INK,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(found.matches)), [_label(match) for match in found.matches], size=9.5)
    for label, match in zip(axes.get_yticklabels(), found.matches, strict=True):
        label.set_fontweight("bold" if match is found.nearest or match.tied else "normal")
    axes.set_ylim(len(found.matches) - 0.5, -0.7)
    axes.set_xscale("log")
    axes.set_xlim(floor, _ceiling(found))
    axes.set_xlabel("the same, mean over context sizes", size=11, color=INK)
    axes.annotate(
        "unexplained", (1.02, 1.0), xycoords="axes fraction", size=10, color=_QUIET, annotation_clip=False
    )
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    if any(match.tied for match in found.matches[1:]):
        _key(axes, "bold: cannot be told apart")
    _plain(axes)


def _label(match: Match) -> str:
    """The family with its parameters; their intervals are in the table."""
    parts = []
    for parameter in match.family.parameters:
        found, symbol = match.parameters[parameter.name], parameter.symbol or parameter.name
        if match.variation is not None and match.variation.adopted:
            constant = match.variation.constant.get(parameter.name)
            parts.append(f"{symbol}(n)" if constant is None else f"{symbol} = {constant:.3g}")
            continue
        sign = {"": "=", "low": "≤", "high": "≥"}[found.edge]
        parts.append(f"{symbol} {sign} {found.value:.3g}")
    return f"{match.family.name}   {', '.join(parts)}" if parts else match.family.name


def _start(found: Identification) -> int:
    """The first place that is drawn: before any pair most learners say the same, which tells nothing."""
    same = len({float(match.spd.mean[0]) for match in found.matches}) == 1
    return int(found.nearest.spd.context_sizes[0] == 0 and same and len(found.nearest.spd.context_sizes) > 1)


def _floor(found: Identification) -> float:
    """The lower end of the axes: a little below the least distance, or what counts as none."""
    means = np.concatenate([match.spd.mean.numpy()[_start(found) :] for match in found.matches])
    least = means[means > 0].min(initial=1.0)
    return max(least / 2, _FLOOR * (found.power or 1.0)) / found.task.dim


def _ceiling(found: Identification) -> float:
    """The upper end: some times what predicting 0 costs, so that what diverges leaves the picture."""
    greatest = max(float(match.spd.mean.max()) for match in found.matches)
    return 1.5 * min(greatest, 20 * (found.power or 1.0)) / found.task.dim


def _key(axes: Axes, text: str) -> None:
    """What colours or letters mean, above the axes, where no data are."""
    axes.set_title(text, loc="left", size=9.5, color=_QUIET, pad=6)


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=10.5, colors=INK, length=3)
