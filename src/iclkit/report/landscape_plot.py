"""A picture of one landscape: log density in the data's units, its context, and samples from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iclkit.ambient import quiet
from iclkit.errors import UserError

LogDensity = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # points [m, d] -> nats [m]

_DEPTH = 8.0  # nats below the peak at which colours end
_SHARES = (0.5, 0.9)  # shares of the mass that the drawn outlines enclose
_CELLS = {1: 600, 2: 180}  # grid cells per axis
_MAP = "viridis"
_INK = "#23252b"
_SAMPLE = "#d1224f"


def plot_landscape(
    log_density: LogDensity,
    context: NDArray[np.float64],
    names: Sequence[str],
    samples: NDArray[np.float64] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a density of one or two columns.

    Args:
        log_density: The density, in the data's units.
        context: Rows that it is conditioned on, [n, d].
        names: Names of the columns, for the axes.
        samples: Draws from it, [m, d].
        title: Title; says the number of context points by default.

    Returns:
        A figure that is independent of pyplot and of any global setting.

    Raises:
        UserError: More than two columns.
    """
    dim = context.shape[1]
    if dim not in _CELLS:
        raise UserError(f"a picture shows 1 or 2 columns, given {dim}")
    figure = Figure(figsize=(7.6, 6.2) if dim == 2 else (7.6, 4.6), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    (_draw_plane if dim == 2 else _draw_line)(figure, axes, log_density, context, names, samples)
    points = "1 point" if len(context) == 1 else f"{len(context)} points"
    axes.set_title(title or f"Density given {points}", loc="left", fontsize=15, color=_INK, pad=12)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=13, color=_INK)
    axes.tick_params(labelsize=11, colors=_INK, length=3)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """The figure as a file's content.

    Args:
        figure: The figure.
        kind: ".png", ".pdf" or ".svg".
    """
    content = io.BytesIO()
    with quiet():  # a column's name may have letters that the font lacks
        figure.savefig(content, format=kind.lstrip("."))
    return content.getvalue()


def _draw_plane(
    figure: Figure,
    axes: Axes,
    log_density: LogDensity,
    context: NDArray[np.float64],
    names: Sequence[str],
    samples: NDArray[np.float64] | None,
) -> None:
    x, y = (_axis(column, _CELLS[2]) for column in _seen(context, samples).T)
    grid = np.stack(np.meshgrid(x, y), -1)  # [y, x, 2]
    values = log_density(grid.reshape(-1, 2)).reshape(len(y), len(x))
    peak = values.max()
    levels = np.linspace(peak - _DEPTH, peak, 17)
    # Below the last colour everything is the same colour: how unlikely there is not to be read off a picture.
    filled = axes.contourf(x, y, values.clip(min=peak - _DEPTH), levels, cmap=_MAP, extend="min")
    bar = figure.colorbar(filled, ax=axes, pad=0.02, aspect=28)
    bar.set_label("log density (nats)", size=13, color=_INK)
    bar.ax.tick_params(labelsize=11, colors=_INK, length=3)
    bar.set_ticks(np.arange(2 * np.ceil((peak - _DEPTH) / 2), peak + 1e-9, 2))

    outlines = dict(sorted((_level(values, share), f"{share:.0%}") for share in _SHARES))
    if len(outlines) == len(_SHARES):
        drawn = axes.contour(x, y, values, list(outlines), colors="white", linewidths=1.2, linestyles="solid")
        axes.clabel(drawn, fmt=outlines, fontsize=10)
    if samples is not None:
        axes.scatter(*samples.T, s=9, color=_SAMPLE, alpha=0.8, linewidths=0, label="samples", zorder=3)
    axes.scatter(*context.T, s=46, color="white", edgecolors=_INK, linewidths=1.1, label="context", zorder=4)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.set_xlabel(names[0], parse_math=False)
    axes.set_ylabel(names[1], parse_math=False)
    _legend(axes, handles=axes.get_legend_handles_labels()[0][::-1])


def _draw_line(
    figure: Figure,
    axes: Axes,
    log_density: LogDensity,
    context: NDArray[np.float64],
    names: Sequence[str],
    samples: NDArray[np.float64] | None,
) -> None:
    x = _axis(_seen(context, samples)[:, 0], _CELLS[1])
    density = np.exp(log_density(x[:, None]))
    colour = "#2a788e"
    axes.fill_between(x, density, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, density, color=colour, linewidth=2, label="density")
    if samples is not None:
        bins = min(40, max(8, len(samples) // 12))
        axes.hist(samples[:, 0], bins, density=True, color="#b8bcc6", alpha=0.5, label="samples", zorder=0)
    axes.plot(context[:, 0], np.zeros(len(context)), "|", color=_INK, markersize=18, label="context")
    axes.set(xlim=(x[0], x[-1]), ylim=(0, None))
    axes.set_xlabel(names[0], parse_math=False)
    axes.set_ylabel("density")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _legend(axes)


def _legend(axes: Axes, **options) -> None:
    """Above the picture, where it hides nothing."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1.005),
        ncols=3,
        frameon=False,
        fontsize=11,
        labelcolor=_INK,
        borderpad=0,
        handletextpad=0.2,
        columnspacing=1.2,
        **options,
    )


def _seen(context: NDArray[np.float64], samples: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Points that the picture must have room for: the context, and nearly all samples."""
    if samples is None or len(samples) < 50:
        spread = np.ptp(context, axis=0)
        return np.concatenate(
            [context, context.min(0) - 0.3 * spread[None], context.max(0) + 0.3 * spread[None]]
        )
    return np.concatenate([context, np.quantile(samples, [0.02, 0.98], axis=0)])


def _axis(column: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    low, high = column.min(), column.max()
    # A single point has no spread to go by.
    margin = 0.08 * (high - low) or max(1.0, 0.1 * abs(high))
    return np.linspace(low - margin, high + margin, cells)


def _level(values: NDArray[np.float64], share: float) -> float:
    """The log density above which the region holds a share of the mass on the grid."""
    ordered = np.sort(values, axis=None)[::-1]
    mass = np.exp(ordered - ordered[0]).cumsum()
    return float(ordered[np.searchsorted(mass, share * mass[-1])])
