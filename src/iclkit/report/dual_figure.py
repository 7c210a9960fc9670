"""Figures of dual forms: random features against softmax, and which training examples predictions attend to.

Figure objects alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iclkit.analysis.inside.random_features import FeatureErrors
from iclkit.report.figures import COLOURS, INK

_DPI = 160
_GUIDE = "#9aa0ac"


def feature_error_figure(lines: Mapping[str, FeatureErrors]) -> Figure:
    """Errors of attention by random features, each draw a dot, with the root law as a dashed line.

    Args:
        lines: What `analysis.feature_errors` returned, by the name of what was measured.
    """
    figure = Figure(figsize=(7.6, 5.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, found) in enumerate(lines.items(), 1):
        colour = COLOURS[i % len(COLOURS)]
        counts = np.array(found.counts)
        for errors in found.errors.numpy():
            axes.plot(counts, errors, ".", color=colour, alpha=0.25, markersize=5)
        low, high = found.slope_interval()
        slope = f"slope {found.slope:.2f} [{low:.2f}, {high:.2f}]".replace("-", "\N{MINUS SIGN}")
        axes.plot(
            counts, found.mean.numpy(), "o-", color=colour, linewidth=2, markersize=5, label=f"{name}: {slope}"
        )
        guide = float(found.mean[-1]) * np.sqrt(counts[-1] / counts)
        axes.plot(counts, guide, color=_GUIDE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.plot([], [], color=_GUIDE, linewidth=1.2, linestyle=(0, (4, 3)), label="slope \N{MINUS SIGN}1/2")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("random features m", size=12, color=INK)
    axes.set_ylabel("error / size of the output", size=12, color=INK)
    axes.legend(frameon=False, fontsize=11, labelcolor=INK, loc="lower left")
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=11, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def class_attention_figure(
    panels: Mapping[str, NDArray[np.float64]], classes: Sequence[str], kind: str = "class"
) -> Figure:
    """How much of what a prediction attends to lies in each class.

    Args:
        panels: Shares [class of the query, class of the training example] by the name of the layer; rows sum
            to 1.
        classes: Names of the classes.
        kind: What a class is.
    """
    size = (4.3 * len(panels) + 0.9, 4.8)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    top = max(float(shares.max()) for shares in panels.values())
    image = None
    for axes, (name, shares) in zip(row, panels.items(), strict=True):
        image = axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=top)
        axes.set_title(f"{name}\nsame {kind}: {np.diag(shares).mean():.0%}", size=12, color=INK)
        for ticks in (axes.set_xticks, axes.set_yticks):
            ticks(range(len(classes)), list(classes), size=11)
        axes.set_xlabel(f"{kind} of the training example", size=12, color=INK)
        axes.tick_params(colors=INK, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    row[0].set_ylabel(f"{kind} of the query", size=12, color=INK)
    if image is not None:
        bar = figure.colorbar(image, ax=list(row), pad=0.02, aspect=28)
        bar.set_label("share of the positive attention", size=11, color=INK)
        bar.ax.tick_params(labelsize=10, colors=INK, length=3)
    return figure
