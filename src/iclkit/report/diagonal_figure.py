"""The figure of Akyürek's diagonal: distances to ridge regressions as a matrix of colours.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from iclkit.analysis.diagonal import Diagonal
from iclkit.report.figures import INK

_DPI = 160


def diagonal_figure(found: Diagonal) -> Figure:
    """Rows λ, columns σ²/τ²; the least entry of each column in a frame, the fitted λ below.

    Args:
        found: What `ridge_diagonal` returned.
    """
    means = np.array([[float(cell.mean.mean()) for cell in row] for row in found.spd])
    means = np.maximum(means, 1e-12)
    table = found.table()
    figure = Figure(figsize=(1.75 * len(found.ratios) + 2.4, 0.8 * len(found.penalties) + 2.2), dpi=_DPI)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    scale = LogNorm(means.min() * 0.9, means.max() * 1.1)
    image = axes.imshow(means, cmap="viridis", norm=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        # Dark ink on light cells, white on dark ones.
        colour = INK if scale(value) > 0.55 else "white"
        axes.text(column, row, f"{value:.1e}", ha="center", va="center", size=12, color=colour)
    for column in range(len(found.ratios)):
        corner = (column - 0.47, found.smallest(column) - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#d55e00", linewidth=3))
    heads = []
    for head, estimate in zip(table.columns[1:], table.rows[-1][1:], strict=True):
        value, _, interval = estimate.partition(" [")
        below = f"\n[{interval}" if interval else ""
        heads.append(f"{head.removeprefix('σ²/τ² = ')}\n\nfitted λ {value}{below}")
    axes.set_xticks(range(len(found.ratios)), heads, size=10.5)
    names = [row[0].removeprefix("λ = ") for row in table.rows[:-1]]
    axes.set_yticks(range(len(found.penalties)), names, size=11)
    axes.set_xlabel("σ²/τ² of the training", size=12, color=INK)
    axes.set_ylabel("penalty λ of ridge", size=12, color=INK)
    axes.set_title("Squared prediction difference / d (frame: least of the column)", size=12, color=INK)
    axes.tick_params(colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(image, ax=axes, pad=0.02).ax.tick_params(labelsize=10, colors=INK)
    return figure
