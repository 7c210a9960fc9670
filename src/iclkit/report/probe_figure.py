"""The figure of a sweep of probes: errors by layer, for each target and prefix.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iclkit.analysis.inside.probe_targets import TITLES
from iclkit.analysis.inside.probing import Probing
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too; the probed model first.
_COLOURS = ("#d55e00", "#0072b2", "#8a8f98", "#009e73", "#cc79a7", "#e69f00")
_STYLES = {"linear": "-", "mlp": (0, (4, 2))}
_MARKERS = {"linear": "o", "mlp": "s"}
_DPI = 160


def probe_figure(found: Probing) -> Figure:
    """Draw normalised errors by layer.

    Args:
        found: What `analysis.probe` returned.

    Returns:
        A row of panels for each target and a panel for each prefix. Lines: a colour for each model, whole for
        linear read-outs and dashed for perceptrons, with 95 % intervals; dotted at 1, where nothing is read.
    """
    rows, columns = len(found.targets), len(found.prefixes)
    size = (3.1 * columns + 2.6, 2.9 * rows + 0.9)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, target in zip(grid, found.targets, strict=True):
        for place, axes in enumerate(row):
            _panel(axes, found, target, place)
        row[0].set_ylabel("squared error / variance", size=11, color=INK)
        # Over the whole row, whose panels share it.
        row[0].annotate(
            TITLES[target],
            (0, 1),
            (0, 24),
            xycoords="axes fraction",
            textcoords="offset points",
            size=12.5,
            weight="bold",
            color=INK,
        )
    for axes in grid[-1]:
        axes.set_xlabel("layer", size=11, color=INK)
    figure.legend(handles=_legend(found), loc="outside right upper", frameon=False, fontsize=11, labelcolor=INK)
    return figure


def _panel(axes: Axes, found: Probing, target: str, place: int) -> None:
    layers = np.arange(1, len(found.layers) + 1)
    axes.axhline(1, color="#9aa1ad", linewidth=1, linestyle=":")
    for model, colour in zip(found.models, _colours(found), strict=True):
        for readout in found.readouts:
            parts = [found.curve(target, readout, layer, model).interval()[place] for layer in found.layers]
            mean, low, high = (np.array([float(getattr(p, n)) for p in parts]) for n in ("mean", "low", "high"))
            axes.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                layers,
                mean,
                color=colour,
                linestyle=_STYLES[readout],
                marker=_MARKERS[readout],
                markersize=4,
                linewidth=1.8,
            )
    axes.set_yscale("log")
    axes.set_xticks(layers)
    axes.set_title(f"after {found.prefixes[place]} points", size=11, color=INK, loc="left")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(found: Probing) -> list[Line2D]:
    models = [
        Line2D([], [], color=colour, linewidth=2.5, label=model)
        for model, colour in zip(found.models, _colours(found), strict=True)
    ]
    readouts = [
        Line2D([], [], color=INK, linestyle=_STYLES[name], marker=_MARKERS[name], markersize=4, label=name)
        for name in found.readouts
    ]
    return [*models, *readouts]


def _colours(found: Probing) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(len(found.models))]
