"""The figure of a sweep of probes: errors by layer, for each target and prefix.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iclkit.analysis.inside.probe import UNTRAINED
from iclkit.analysis.inside.probe_targets import TITLES
from iclkit.analysis.inside.probing import Probing, short
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too; the probed model first.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
_UNTRAINED = "#8a8f98"
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
    size = (max(5.4, 3.2 * columns + 0.8), 2.9 * rows + 1.3)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.14)  # pyright: ignore
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, target in zip(grid, found.targets, strict=True):
        for place, axes in enumerate(row):
            _panel(axes, found, target, place)
        row[0].set_ylabel("squared error / variance", size=11, color=INK)
        # Over the whole row, whose panels share it.
        head = row[0].annotate(
            TITLES[target],
            (0, 1),
            (0, 23),
            xycoords="axes fraction",
            textcoords="offset points",
            size=12.5,
            weight="bold",
            color=INK,
        )
        head.set_in_layout(False)  # else the first panel alone would make room for all of it
    for axes in grid[-1]:
        _name_layers(axes, found.layers)
    # Below, where no head of a row can reach it.
    figure.legend(
        handles=_legend(found),
        loc="outside lower center",
        ncols=3 if columns == 1 else 5,
        frameon=False,
        fontsize=11,
        labelcolor=INK,
    )
    return figure


def _panel(axes: Axes, found: Probing, target: str, place: int) -> None:
    layers = np.arange(len(found.layers))
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
    # The line above is the target's.
    axes.set_title(f"\nafter {found.prefixes[place]} points", size=11, color=INK, loc="left")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _name_layers(axes: Axes, layers: tuple[str, ...]) -> None:
    names = [short(layer) for layer in layers]
    numbers = [name.removeprefix("blocks.") for name in names]
    if all(number.isdigit() for number in numbers):
        axes.set_xticks(range(len(names)), numbers)
        axes.set_xlabel("behind block", size=11, color=INK)
    else:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")


def _legend(found: Probing) -> list[Line2D]:
    models = [
        Line2D([], [], color=colour, linewidth=2.5, label=model)
        for model, colour in zip(found.models, _colours(found), strict=True)
    ]
    readouts = [
        Line2D(
            [],
            [],
            color=INK,
            linestyle=_STYLES[name],
            marker=_MARKERS[name],
            markersize=4,
            label=f"{name} read-out",
        )
        for name in found.readouts
    ]
    return [*models, *readouts]


def _colours(found: Probing) -> list[str]:
    return [
        _UNTRAINED if model == UNTRAINED else _COLOURS[place % len(_COLOURS)]
        for place, model in enumerate(found.models)
    ]
