"""Figures of the report: rows of landscapes, samples against them, and curves by context size.

Figure objects alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iclkit.analysis.intervals import Curve
from iclkit.errors import UserError

INK = "#23252b"
SAMPLE = "#d1224f"
COLOURS = ("#23252b", "#0b7285", "#d9822b", "#7a4fb0", "#5c940d", "#c2255c", "#1864ab", "#846358")
_MAP = "viridis"
_DPI = 160
# For the ground under samples: the same order of lightness, without colours that compete with theirs.
_PALE = LinearSegmentedColormap.from_list("pale", ["#ffffff", "#e8eaef", "#b7bdca", "#7d869a"])


@dataclass(frozen=True)
class Window:
    """The part of the plane that a row of panels shows.

    Args:
        x: Limits of the first column.
        y: Limits of the second.
        names: Names of the columns, with units.
        equal: Whether one unit is equally long on both axes.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    names: tuple[str, str]
    equal: bool = False

    def grid(self, cells: int) -> NDArray[np.float64]:
        """Centres of cells x cells pixels, [cells, cells, 2], the second column along the first axis."""
        axes = [low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high in (self.x, self.y)]
        return np.stack(np.meshgrid(*axes), -1)


@dataclass(frozen=True)
class Panel:
    """One landscape.

    Args:
        log_density: In nats, on the window's grid.
        context: The points that it is conditioned on, [n, 2].
        samples: Draws from it, [m, 2].
    """

    log_density: NDArray[np.float64]
    context: NDArray[np.float64]
    samples: NDArray[np.float64] | None = None

    @property
    def title(self) -> str:
        """How many points the context has, in words."""
        count = len(self.context)
        return "no points" if count == 0 else "1 point" if count == 1 else f"{count} points"


def landscapes(
    rows: Mapping[str, Sequence[Panel]], window: Window, limits: tuple[float, float], unit: str = ""
) -> Figure:
    """Rows of landscapes with one colour scale.

    Args:
        rows: Panels by the name of their row.
        window: What the panels show.
        limits: Log densities at the ends of the colour scale; values outside take the colour at the end.
        unit: Unit of the columns, for the colour bar: the density is per unit squared.
    """
    figure, axes = _panels(rows, window)
    scale = Normalize(*limits)
    for (row, column), panel in _each(rows):
        _ground(axes[row][column], panel, window, _MAP, scale)
        axes[row][column].scatter(
            *panel.context.T, s=15, color="white", edgecolors=INK, linewidths=0.7, zorder=4
        )
    # Flat on top, pointed below: values are clipped at the lower end alone.
    bar = figure.colorbar(
        ScalarMappable(scale, _MAP), ax=[a for row in axes for a in row], extend="min", pad=0.01, aspect=30
    )
    bar.set_label(f"log density / nats{f' per {unit}²' if unit else ''}", size=11, color=INK)
    bar.ax.tick_params(labelsize=10, colors=INK, length=3)
    return figure


def sample_rows(rows: Mapping[str, Sequence[Panel]], window: Window, limits: tuple[float, float]) -> Figure:
    """Samples over the landscapes that they were drawn from; arguments as in `landscapes`."""
    figure, axes = _panels(rows, window, legend=True)
    scale = Normalize(*limits)
    for (row, column), panel in _each(rows):
        here = axes[row][column]
        _ground(here, panel, window, _PALE, scale)
        if panel.samples is not None:
            here.scatter(*panel.samples.T, s=5, color=SAMPLE, alpha=0.6, linewidths=0, zorder=4)
        here.scatter(*panel.context.T, s=13, color="white", edgecolors=INK, linewidths=0.7, zorder=3)
    count = max((len(p.samples) for _, p in _each(rows) if p.samples is not None), default=0)
    first = axes[0][0]
    handles = [
        first.scatter([], [], s=22, color=SAMPLE, linewidths=0, label=f"{count} samples"),
        first.scatter([], [], s=26, color="white", edgecolors=INK, linewidths=0.8, label="context"),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=11,
        labelcolor=INK,
        handletextpad=0.1,
        columnspacing=1.2,
    )
    return figure


def curves(
    lines: Mapping[str, Curve],
    quantity: str,
    floor: float | None = None,
    ceiling: tuple[str, float] | None = None,
    first: int = 0,
) -> Figure:
    """Curves by context size with 95 % intervals, each named at its right end.

    Args:
        lines: The curves; they may have different context sizes.
        quantity: Label of the vertical axis.
        floor: Lower end of the vertical axis; what lies below leaves the picture.
        ceiling: Name and value of a horizontal line.
        first: Number of the first curve's colour, so that an estimator keeps its colour from figure to figure.
    """
    figure = Figure(figsize=(7.6, 4.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    sizes = sorted({n for curve in lines.values() for n in curve.context_sizes})
    place = {n: i for i, n in enumerate(sizes)}
    ends = []
    if ceiling is not None:
        axes.axhline(ceiling[1], color="#9aa0ac", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        ends.append((ceiling[1], ceiling[0], "#6b7280"))
    for i, (name, curve) in enumerate(lines.items(), first):
        colour = COLOURS[i % len(COLOURS)]
        interval = curve.interval()
        x = [place[n] for n in curve.context_sizes]
        axes.fill_between(x, interval.low, interval.high, color=colour, alpha=0.16, linewidth=0)
        dashed = "--" if "Bayes" in name else "-"
        axes.plot(x, interval.mean, dashed, color=colour, linewidth=2, marker="o", markersize=4.5, zorder=3)
        ends.append((float(interval.mean[-1]), name, colour))
    # Not matplotlib's own limits, which grow with what the floor cuts off.
    low = min(float(curve.interval().low.min()) for curve in lines.values())
    high = max(
        [float(curve.interval().high.max()) for curve in lines.values()] + ([ceiling[1]] if ceiling else [])
    )
    low = low if floor is None else max(low, floor)
    margin = 0.05 * (high - low)
    axes.set(xlim=(-0.25, len(sizes) - 0.75), ylim=(low - margin, high + margin))
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    axes.set_xlabel("context points", size=12, color=INK)
    axes.set_ylabel(quantity, size=12, color=INK)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=11, colors=INK, length=3)
    _name_ends(axes, ends)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _panels(
    rows: Mapping[str, Sequence[Panel]], window: Window, legend: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one set of axes for each panel, labelled at the left and at the bottom alone."""
    lengths = {len(panels) for panels in rows.values()}
    if len(lengths) != 1:
        raise UserError(f"rows of panels must be equally long, given {sorted(lengths)}")
    columns = lengths.pop()
    side = 2.05 if columns > 4 else 2.9
    height = side if window.equal else 0.85 * side
    # The colour bar takes its width from the panels, the legend its own line.
    height *= 0.97 if legend else 0.925
    size = (columns * side + 1.5, len(rows) * height + 0.8 + 0.3 * legend)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.0)  # pyright: ignore
    axes = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    titles = [[panel.title for panel in panels] for panels in rows.values()]
    for row, name in enumerate(rows):
        for column, title in enumerate(titles[row]):
            here = axes[row][column]
            here.set(xlim=window.x, ylim=window.y)
            if window.equal:
                here.set_aspect("equal")
            here.tick_params(labelsize=9, colors=INK, length=2.5)
            # A title that says the same as the one above it says nothing.
            if row == 0 or title != titles[row - 1][column]:
                here.set_title(title, size=12, color=INK, pad=5)
            if column == 0:
                here.set_ylabel(f"{name}\n{window.names[1]}" if name else window.names[1], size=11, color=INK)
            if row == len(rows) - 1:
                here.set_xlabel(window.names[0], size=11, color=INK)
    return figure, [list(line) for line in axes]


def _each(rows: Mapping[str, Sequence[Panel]]) -> list[tuple[tuple[int, int], Panel]]:
    return [
        ((row, column), panel)
        for row, panels in enumerate(rows.values())
        for column, panel in enumerate(panels)
    ]


def _ground(axes: Axes, panel: Panel, window: Window, colours: str | Colormap, scale: Normalize) -> None:
    axes.imshow(
        panel.log_density,
        extent=(*window.x, *window.y),
        origin="lower",
        aspect="equal" if window.equal else "auto",
        cmap=colours,
        norm=scale,
        interpolation="bilinear",
        zorder=1,
    )


def _name_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the right ends of the curves, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.062 * (high - low)
    heights: list[float] = []
    for value, _, _ in sorted(ends):
        value = min(max(value, low), high)
        heights.append(max(value, heights[-1] + gap) if heights else value)
    # The pile grew upwards; bring it down again so that it is centred on what it names.
    surplus = sum(h - min(max(v, low), high) for h, (v, _, _) in zip(heights, sorted(ends), strict=True))
    shift = min(surplus / len(heights), heights[0] - low) if heights else 0.0
    for height, (_, name, colour) in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            name,
            (1.012, height - shift),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="left",
            size=11,
            color=colour,
            annotation_clip=False,
        )
