"""The figure of task diversity: distances to the two Bayes predictors over the size of the pool.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclkit.analysis.intervals import Curve
from iclkit.analysis.task_diversity import PLACES, Place, TaskDiversity, short
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too.
_DMMSE, _RIDGE, _BETWEEN = "#0072b2", "#d55e00", "#6b7280"
_DPI = 160
# Distances below this are drawn at it: two that agree have none on a logarithmic axis.
_LEAST = 1e-8


def task_diversity_figure(found: TaskDiversity) -> Figure:
    """Draw distances over the size of the pool.

    Args:
        found: What `task_diversity` returned.

    Returns:
        Left: on functions of the pool; right: on new ones of the prior. Each: the learner's distance to dMMSE
        and to ridge regression with its 95% interval and, dashed, the distance of these two.
    """
    figure = Figure(figsize=(11.5, 5.0), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # pyright: ignore
    panels = figure.subplots(1, 2, sharey=True)
    for axes, place in zip(panels, PLACES, strict=True):
        _panel(axes, found, place)
    panels[0].set_ylabel("mean squared difference / d", size=12, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    return figure


def _panel(axes: Axes, found: TaskDiversity, place: Place) -> None:
    distances = found.distances[place]
    _line(axes, found, [one.between for one in distances], _BETWEEN, "dMMSE to ridge", "--")
    _line(axes, found, [one.pool for one in distances], _DMMSE, "learner to dMMSE", "o-")
    _line(axes, found, [one.ridge for one in distances], _RIDGE, "learner to ridge, λ = σ²", "s-")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(
        found.sizes, [f"$2^{{{short(m)[2:]}}}$" if "^" in short(m) else str(m) for m in found.sizes]
    )
    axes.minorticks_off()
    axes.set_xlabel("members of the pool, M", size=12, color=INK)
    axes.set_title(f"on {PLACES[place]}", size=12, color=INK)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=11, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, found: TaskDiversity, curves: list[Curve], colour: str, label: str, style: str) -> None:
    intervals = [curve.overall() for curve in curves]
    mean, low, high = (
        np.maximum([float(getattr(interval, name)) for interval in intervals], _LEAST)
        for name in ("mean", "low", "high")
    )
    axes.plot(found.sizes, mean, style, color=colour, linewidth=2.2, markersize=7, label=label)
    axes.fill_between(found.sizes, low, high, color=colour, alpha=0.2, linewidth=0)
