"""Pictures of predictions with their uncertainty, for a user's own table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

_INK = "#23252b"
_LINE = "#2a788e"
_SAMPLE = "#d1224f"
_GRID = 400  # points of a curve


class Predicted(Protocol):
    """What is drawn of predictions at m points."""

    @property
    def mean(self) -> Array: ...

    def quantiles(self, levels: Sequence[float]) -> Array: ...

    def sample(self, size: int, seed: int) -> Array: ...


def plot_curve(
    predict: Callable[[Array], Predicted],
    context: Array,
    names: Sequence[str],
    interval: float = 0.9,
    samples: int = 200,
    seed: int = 0,
) -> Figure:
    """Draw predictions over one column of inputs: mean, two bands, samples, and the context.

    Args:
        predict: Predictions at points [m, 1].
        context: Rows (x, y) that they are conditioned on, [n, 2].
        names: Names of x and of y.
        interval: Probability of the wide band; the narrow one has 0.5.
        samples: How many draws of y to show, at random x.
        seed: Seed of the draws.

    Returns:
        A figure that is independent of pyplot and of any global setting.
    """
    x, y = context.T
    margin = 0.1 * np.ptp(x)
    low, high = x.min() - margin, x.max() + margin
    grid = np.linspace(low, high, _GRID)
    found = predict(grid[:, None])
    figure, axes = _axes((7.6, 4.8), f"{names[1]} given {len(x)} points")
    bands = sorted({interval, 0.5}, reverse=True)
    for share, alpha in zip(bands, (0.16, 0.28), strict=False):
        below, above = found.quantiles([0.5 - share / 2, 0.5 + share / 2]).T
        axes.fill_between(
            grid, below, above, color=_LINE, alpha=alpha, linewidth=0, label=f"{share:.4g} interval"
        )
    axes.plot(grid, found.mean, color=_LINE, linewidth=2, label="mean")
    if samples:
        places = np.random.default_rng(seed).uniform(low, high, samples)
        drawn = predict(places[:, None]).sample(1, seed)[:, 0]
        axes.scatter(places, drawn, s=7, color=_SAMPLE, alpha=0.6, linewidths=0, label="samples", zorder=3)
    axes.scatter(x, y, s=40, color="white", edgecolors=_INK, linewidths=1.1, label="context", zorder=4)
    axes.set(xlim=(low, high), ylim=_range(y, found.quantiles([0.5 - interval / 2, 0.5 + interval / 2])))
    axes.set_xlabel(names[0], parse_math=False)
    axes.set_ylabel(names[1], parse_math=False)
    _legend(axes)
    return figure


def plot_left_out(found: Predicted, observed: Array, name: str, interval: float = 0.9) -> Figure:
    """Draw predictions of left-out rows against what was observed, with intervals.

    Args:
        found: Predictions, one for each row.
        observed: The targets of these rows, [n].
        name: Name of the target.
        interval: Probability of the intervals that are drawn.

    Returns:
        A figure that is independent of pyplot and of any global setting.
    """
    below, above = found.quantiles([0.5 - interval / 2, 0.5 + interval / 2]).T
    inside = (observed >= below) & (observed <= above)
    score = 1 - ((observed - found.mean) ** 2).sum() / ((observed - observed.mean()) ** 2).sum()
    figure, axes = _axes((6.4, 6.2), f"{len(observed)} rows, each after the others: R² {score:.2f}")
    ends = _range(observed, np.stack([below, above], -1))
    axes.axline((ends[0], ends[0]), slope=1, color="#9aa0ad", linewidth=1.2, zorder=1)
    for chosen, colour, label in ((inside, _LINE, "inside"), (~inside, _SAMPLE, "outside")):
        if chosen.any():
            axes.vlines(observed[chosen], below[chosen], above[chosen], color=colour, alpha=0.35, linewidth=1.4)
            told = f"{chosen.sum()} {label} their {interval:.4g} interval"
            axes.scatter(observed[chosen], found.mean[chosen], s=24, color=colour, label=told, zorder=3)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(f"{name}, observed", parse_math=False)
    axes.set_ylabel(f"{name}, predicted", parse_math=False)
    _legend(axes)
    return figure


def _axes(size: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=14, color=_INK, pad=28, parse_math=False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=13, color=_INK)
    axes.tick_params(labelsize=11, colors=_INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _range(seen: Array, bands: Array) -> tuple[float, float]:
    """Room for all that was seen and for nearly all of the bands, a few of which may be very wide."""
    low = min(seen.min(), np.quantile(bands[:, 0], 0.02))
    high = max(seen.max(), np.quantile(bands[:, 1], 0.98))
    margin = 0.05 * (high - low)
    return float(low - margin), float(high + margin)


def _legend(axes: Axes) -> None:
    """Above the picture, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=5,
        frameon=False,
        fontsize=10,
        labelcolor=_INK,
        borderpad=0,
        handletextpad=0.4,
        columnspacing=1.2,
    )
