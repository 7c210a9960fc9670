"""The figure of Akyürek's diagonal: distances to ridge regressions as a matrix of colours and as curves.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from iclkit.analysis.diagonal import Diagonal, short
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too.
_COLOURS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#56b4e9", "#23252b")
_FRAME = "#ffffff"
_DPI = 160


def diagonal_figure(found: Diagonal) -> Figure:
    """Draw distances to ridge regressions.

    Args:
        found: What `ridge_diagonal` returned.

    Returns:
        Left: rows λ, columns σ²/τ², the least entry of each column in a frame. Right: the distance of each
        column's learner to ridge regression by λ, with the fitted λ and, dashed, the right one.
    """
    columns, rows = len(found.ratios), len(found.penalties)
    figure = Figure(figsize=(1.15 * columns + 8.8, max(4.4, 0.7 * rows + 1.9)), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # pyright: ignore
    left, right = figure.subplots(1, 2, width_ratios=(1.15 * columns + 1, 5.6))
    _matrix(left, found)
    _curves(right, found)
    return figure


def _matrix(axes: Axes, found: Diagonal) -> None:
    means = np.array([[float(cell.mean.mean()) for cell in row] for row in found.spd])
    means = np.maximum(means, 1e-12)
    scale = LogNorm(means.min() * 0.9, means.max() * 1.1)
    axes.imshow(means, cmap="viridis", norm=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        # Dark ink on light cells, white on dark ones.
        colour = INK if scale(value) > 0.55 else "white"
        text = "< 1e-12" if value <= 1e-12 else f"{value:.1e}"
        axes.text(column, row, text, ha="center", va="center", size=12, color=colour)
    for column in range(len(found.ratios)):
        corner = (column - 0.47, found.smallest(column) - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=_FRAME, linewidth=3))
    axes.set_xticks(range(len(found.ratios)), [short(ratio) for ratio in found.ratios], size=12)
    axes.set_yticks(range(len(found.penalties)), [short(penalty) for penalty in found.penalties], size=12)
    axes.set_xlabel("σ²/τ² that the learner was trained at", size=12, color=INK)
    axes.set_ylabel("penalty λ of ridge regression", size=12, color=INK)
    axes.set_title("Mean squared prediction difference / d\nframe: least of the column", size=12, color=INK)
    axes.tick_params(colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _curves(axes: Axes, found: Diagonal) -> None:
    drawn = np.array(found.drawn)
    for index, (ratio, profile, fitted) in enumerate(
        zip(found.ratios, found.profiles, found.fitted, strict=True)
    ):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(drawn, profile, color=colour, linewidth=2.2)
        if ratio:
            axes.axvline(ratio, color=colour, linewidth=1.3, linestyle=(0, (4, 3)))
        # A fit below the axis stands at its end.
        at = min(max(fitted.value, drawn[0]), drawn[-1])
        height = float(np.exp(np.interp(np.log(at), np.log(drawn), np.log(np.maximum(profile, 1e-12)))))
        sign = "<" if fitted.value < drawn[0] else "o"
        axes.plot(
            at, height, sign, color=colour, markersize=9, markeredgecolor="white", clip_on=False, zorder=4
        )
        label = f"{short(ratio)}: fitted λ {str(fitted).removeprefix('= ').partition(' [')[0]}"
        axes.plot([], [], color=colour, linewidth=2.2, marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlim=(drawn[0], drawn[-1]))
    axes.set_xlabel("penalty λ of ridge regression", size=12, color=INK)
    axes.set_title("The same by λ\ndot: fitted, dashed: σ²/τ²", size=12, color=INK)
    axes.legend(
        title="trained at σ²/τ²",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=11,
        title_fontsize=11,
    )
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=11, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
