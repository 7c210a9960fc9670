"""The figure of `iclkit fine-tuning`: how alike context and fine-tuning are, layer by layer.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclkit.analysis.inside.fine_tuning_comparison import FineTuningComparison
from iclkit.report.figures import INK

_DPI = 160
_QUIET = "#6b7280"
# Okabe and Ito's colours, which the colour-blind can tell apart too.
_MAIN, _UNTRAINED, _BEFORE, _CHANCE = "#d55e00", "#0072b2", "#009e73", "#8b92a0"


def fine_tuning_figure(found: FineTuningComparison, head: str) -> Figure:
    """Draw a comparison.

    Args:
        found: What `compare_fine_tuning` returned.
        head: What was compared, in a line.

    Returns:
        SimAOU, SimAM and Kendall by layer with 95 % intervals, each beside an untrained network and what there
        is without likeness.
    """
    figure = Figure(figsize=(12.4, 4.6), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # pyright: ignore
    panels = figure.subplots(1, 3, sharey=True)
    updates, scores, orders = panels
    signs = ", signs alone" if found.query_tokens == 1 else ""
    _draw(updates, "updates of attention outputs (SimAOU)", found, "SimAOU", ("random update", _CHANCE))
    _draw(scores, f"scores within the query (SimAM{signs})", found, "SimAM after", ("SimAM before", _BEFORE))
    _draw(orders, "order of demonstrations (Kendall's τ)", found, "Kendall", ("random order", _CHANCE))
    updates.set_ylabel("similarity of context and fine-tuning", size=11, color=INK)
    updates.set_ylim(*_limits(found))
    title = "\n".join([*textwrap.wrap(found.verdict, 130), *textwrap.wrap(head, 150)])
    figure.suptitle(title, size=11, color=INK, x=0.01, ha="left")
    return figure


def _draw(axes: Axes, title: str, found: FineTuningComparison, measure: str, beside: tuple[str, str]) -> None:
    axes.axhline(0.0, color="#c4c8d0", linewidth=1.0, zorder=1)
    curves = [("fine-tuned", found.curves[measure], _MAIN)]
    if found.control is not None:
        curves.append(("untrained", found.control.curves[measure], _UNTRAINED))
    name, colour = beside
    curves.append((name.removeprefix("SimAM "), found.curves[name], colour))
    for place, (name, curve, colour) in enumerate(curves):
        interval = curve.interval()
        layers = np.arange(1, len(interval.mean) + 1) + 0.09 * (1 - place)
        mean, low, high = (part.numpy() for part in (interval.mean, interval.low, interval.high))
        axes.vlines(layers, low, high, color=colour, linewidth=3, alpha=0.45, zorder=2)
        axes.plot(layers, mean, "-o", color=colour, linewidth=1.8, markersize=5.5, label=name, zorder=3)
    count = len(curves[0][1].mean)
    axes.set_xticks(range(1, count + 1) if count <= 12 else range(1, count + 1, -(-count // 12)))
    axes.set_xlim(0.6, count + 0.4)
    axes.set_xlabel("layer with attention", size=11, color=INK)
    axes.set_title(title, loc="left", size=11, color=INK, pad=24)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=9, handlelength=1.4,
        columnspacing=1.2, borderaxespad=0.1, labelcolor=_QUIET,
    )  # fmt: skip
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=10.5, colors=INK, length=3)


def _limits(found: FineTuningComparison) -> tuple[float, float]:
    """From what is least to what is greatest; 0 and 1 are always there."""
    shown = [found] if found.control is None else [found, found.control]
    low = min(float(curve.interval().low.min()) for one in shown for curve in one.curves.values())
    return min(-0.1, low - 0.05), 1.05
