"""The figure of the phase change: losses and scores along the training, with one layer and with two.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclkit.analysis.inside.induction_study import LEARNED, SCORES, Course, InductionStudy, plural
from iclkit.report.figures import INK

# Okabe and Ito's colours, which the colour-blind can tell apart too.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
_DPI = 160


class _Panel(NamedTuple):
    """A quantity of courses, and what it is called."""

    quantity: str
    title: str
    unit: str


_PANELS = (
    _Panel("loss_copies", "loss on the repeats", "nats a token"),
    _Panel("prefix_matching", "prefix matching, best head", "attention on what followed copies"),
    _Panel("in_context_learning", "in-context learning", "late loss − early loss, nats"),
)


def induction_figure(found: InductionStudy) -> Figure:
    """Draw a study of induction heads.

    Args:
        found: The study.

    Returns:
        Three panels over updates, a line for each seed in the colour of its number of layers: the loss on the
        repeats (logarithmic), the prefix-matching score and the in-context-learning score. Grey is where both
        scores jump, from the first window of a seed to the last.
    """
    figure = Figure(figsize=(13.0, 4.6), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # pyright: ignore
    colours = dict(zip(found.layers, _COLOURS * len(found.layers), strict=False))
    jumps = [course.jump(score) for course in found.courses if course.together for score in SCORES]
    axes: Axes
    for axes, panel in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        if jumps:
            span = min(jump.start for jump in jumps), max(jump.end for jump in jumps)
            axes.axvspan(*span, color="#e5e7eb", zorder=0, label="both scores jump")
        named: set[int] = set()
        for course in found.courses:
            label = None if course.layers in named else _name(course, found)
            named.add(course.layers)
            values = getattr(course, panel.quantity)
            axes.plot(
                course.steps, values, color=colours[course.layers], linewidth=1.6, alpha=0.85, label=label
            )
        _finish(axes, panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12)
    return figure


def _name(course: Course, found: InductionStudy) -> str:
    return f"{plural(course.layers, 'layer')} ({plural(len(found.of(course.layers)), 'seed')})"


def _finish(axes: Axes, panel: _Panel) -> None:
    if panel.quantity == "loss_copies":
        axes.set_yscale("log")
        ticks = [0.05, 0.1, LEARNED, 0.5, 1.0, 2.0, 4.0]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.axhline(LEARNED, color="#9aa1ad", linewidth=1.0, linestyle=":")
    elif panel.quantity == "prefix_matching":
        axes.set_ylim(0, 1)
    axes.set_title(panel.title, size=12, color=INK)
    axes.set_xlabel("updates", size=12, color=INK)
    axes.set_ylabel(panel.unit, size=11, color=INK)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=11, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
