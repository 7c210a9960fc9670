"""The picture of a compiled program: which layer reads and writes which register.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle

from iclkit.compiler.lowering import Plan, PlannedBlock, Traffic
from iclkit.report.figures import INK

_DPI = 160
_ATTENTION, _UNITS = "#0072b2", "#d55e00"
_LIVE, _LOOP = "#dfe3ea", "#009e73"
_LETTERS = 100


def program_figure(plan: Plan, target: str) -> Figure:
    """Draw a planned transformer.

    Args:
        plan: What `iclkit.compiler.compilation.planned` returned.
        target: What it was planned for.

    Returns:
        A row for each register, grey where its value is needed; a column for each phase of each layer, open
        dots where it reads and filled ones where it writes. Below, what each layer does.
    """
    names = sorted(plan.registers, key=lambda name: (plan.registers[name].start, name))
    text = _operations(plan)
    columns = 2 * len(plan.blocks)
    size = (max(8.6, 3.2 + 1.0 * columns), 2.0 + 0.46 * len(names) + 0.21 * len(text))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(1.5 + 0.46 * len(names), 0.1 + 0.21 * len(text)))
    _grid(upper, plan, names)
    lower.set_axis_off()
    lower.text(0, 1, "\n".join(text), va="top", size=10, color=INK, linespacing=1.45, transform=lower.transAxes)
    program = plan.program
    upper.set_title(
        f"{program.name}, d = {program.dim}, up to {program.points} pairs: "
        f"{len(plan.order)} layers of width {plan.width}, target {target}",
        size=13,
        color=INK,
        loc="left",
        pad=12 + 18 * bool(plan.loops) + 28 * len(plan.loops),
    )
    return figure


def _grid(axes: Axes, plan: Plan, names: list[str]) -> None:
    for index, block in enumerate(plan.blocks):
        _lifetimes(axes, block, names, 2 * index)
        _phase(axes, block.attention, names, 2 * index + 0.5, _ATTENTION)
        _phase(axes, block.units, names, 2 * index + 1.5, _UNITS)
        if index:
            axes.axvline(2 * index, color="#9aa1ad", linewidth=0.9)
    for depth, (first, end, times) in enumerate(plan.loops):
        _loop(axes, 2 * first, 2 * end, times, -1.05 - 0.75 * (len(plan.loops) - 1 - depth))
    axes.set(xlim=(0, 2 * len(plan.blocks)), ylim=(len(names) - 0.4, -0.6))
    shapes = [plan.shapes[name] for name in names]
    labels = [
        f"{name}  {'×'.join(map(str, shape))}" if shape else name
        for name, shape in zip(names, shapes, strict=True)
    ]
    axes.set_yticks(range(len(names)), labels, size=11, color=INK)
    axes.set_xticks(
        [2 * index + 1 for index in range(len(plan.blocks))],
        [f"layer {index + 1}" for index in range(len(plan.blocks))],
        size=11,
        color=INK,
    )
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    handles = [
        Line2D([], [], color=_ATTENTION, marker="o", label="attention"),
        Line2D([], [], color=_UNITS, marker="o", label="hidden units"),
        Line2D([], [], color=INK, linestyle="", marker="o", markerfacecolor="white", label="reads"),
        Line2D([], [], color=INK, linestyle="", marker="o", label="writes"),
        Rectangle((0, 0), 1, 1, color=_LIVE, label="value needed"),
    ]
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )


def _lifetimes(axes: Axes, block: PlannedBlock, names: list[str], left: float) -> None:
    spans = ((0.0, 0.5), (0.5, 1.5), (1.5, 2.0))
    for row, name in enumerate(names):
        for live, (start, end) in zip(block.live, spans, strict=True):
            if name in live:
                axes.add_patch(
                    Rectangle((left + start, row - 0.27), end - start, 0.54, color=_LIVE, linewidth=0)
                )


def _phase(axes: Axes, traffic: Traffic, names: list[str], place: float, colour: str) -> None:
    rows = {row: name for row, name in enumerate(names) if name in traffic.reads | traffic.writes}
    if not rows:
        return
    axes.plot([place, place], [min(rows), max(rows)], color=colour, linewidth=1.4, zorder=2)
    for row, name in rows.items():
        if name in traffic.reads:
            axes.plot(place - 0.1, row, "o", color=colour, markerfacecolor="white", markersize=8, zorder=3)
            axes.plot([place - 0.1, place], [row, row], color=colour, linewidth=1.4, zorder=2)
        if name in traffic.writes:
            axes.plot(place + 0.1, row, "o", color=colour, markersize=8, zorder=3)
            axes.plot([place, place + 0.1], [row, row], color=colour, linewidth=1.4, zorder=2)


def _loop(axes: Axes, left: float, right: float, times: int, height: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.06, height),
            right - left - 0.12,
            0.1,
            boxstyle="round,pad=0.02",
            color=_LOOP,
            clip_on=False,
        )
    )
    axes.text(
        (left + right) / 2, height - 0.1, f"{times} times", ha="center", va="bottom", size=11, color=_LOOP
    )


def _operations(plan: Plan) -> list[str]:
    lines = []
    for index, block in enumerate(plan.blocks):
        line = f"layer {index + 1}:"
        for operation in block.operations:
            if len(line) + len(operation) > _LETTERS:
                lines.append(line)
                line = " " * 8
            line += f"  {operation};"
        lines.append(line.removesuffix(";"))
    return lines
