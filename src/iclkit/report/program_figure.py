"""The picture of a compiled program: which layer reads and writes which register.

A Figure object alone: nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from iclkit.compiler.lowering import Plan, PlannedBlock, Traffic
from iclkit.report.figures import INK

_DPI = 160
_ATTENTION, _UNITS = "#0072b2", "#d55e00"
_LIVE, _LOOP, _FAINT = "#dfe3ea", "#009e73", "#7b8290"
_ROW, _LINE = 0.46, 0.24  # heights of a register and of a line of text, in inches
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
    names = _in_order(plan)
    loops = [loop for loop in plan.loops if loop[2] > 1]
    text = _operations(plan)
    above, below = 0.75 + 0.4 * len(loops), 1.0 + _LINE * len(text)
    width, height = max(9.6, 3.6 + 2.0 * len(plan.blocks)), above + _ROW * len(names) + below
    figure = Figure(figsize=(width, height), dpi=_DPI)
    left, right = 1.5 / width, 1 - 1.75 / width
    axes = figure.add_axes((left, below / height, right - left, _ROW * len(names) / height))
    _grid(axes, plan, names)
    for depth, (first, end, times) in enumerate(loops):
        _loop(axes, 2 * first, 2 * end, times, -0.85 - 0.85 * (len(loops) - 1 - depth))
    program = plan.program
    title = (
        f"{program.name}, d = {program.dim}, up to {program.points} pairs: "
        f"{len(plan.order)} layer{'s' * (len(plan.order) > 1)} of width {plan.width}, target {target}"
    )
    figure.text(left, 1 - 0.22 / height, title, va="top", size=13, color=INK)
    figure.legend(
        handles=_legend(),
        loc="upper left",
        bbox_to_anchor=(left, (below - 0.33) / height),
        borderaxespad=0,
        borderpad=0,
        ncols=5,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )
    figure.text(left, (below - 0.75) / height, "\n".join(text), va="top", size=10, color=INK, linespacing=1.45)
    return figure


def _in_order(plan: Plan) -> list[str]:
    """The registers in the order in which the program comes upon them, the data first and the output last."""
    met = ["x", "y", *plan.program.initial]
    for operation in plan.program.operations():
        met += [*operation.reads, operation.target]
    place = {name: place for place, name in reversed(list(enumerate(met)))}
    output = plan.program.output
    # What only a target needs stands behind what it is made for.
    parents = {name: name.partition(".")[0] for name in plan.registers}
    return sorted(
        plan.registers,
        key=lambda name: (name == output, place.get(name, place.get(parents[name], len(met))), name),
    )


def _grid(axes: Axes, plan: Plan, names: list[str]) -> None:
    for index, block in enumerate(plan.blocks):
        _lifetimes(axes, block, names, 2 * index)
        # A head that clears the column's own rows reads no other.
        where = {type(copy.where).__name__.lower() for copy in block.copies} - {"own"}
        _phase(axes, block.attention, names, 2 * index + 0.5, _ATTENTION, " and ".join(sorted(where)))
        _phase(axes, block.units, names, 2 * index + 1.5, _UNITS)
        if index:
            axes.axvline(2 * index, color="#9aa1ad", linewidth=0.9)
    axes.set(xlim=(0, 2 * len(plan.blocks)), ylim=(len(names) - 0.45, -0.55))
    axes.set_yticks(range(len(names)), names, size=11, color=INK)
    for row, name in enumerate(names):
        shape, rows = plan.shapes[name], plan.registers[name]
        span = f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start} to {rows.stop - 1}"
        said = ", ".join(["×".join(map(str, shape)), span] if shape else [span])
        axes.text(1.01, row, said, va="center", size=9, color=_FAINT, transform=axes.get_yaxis_transform())
    middles = [2 * index + 1 for index in range(len(plan.blocks))]
    axes.set_xticks(middles, [f"layer {index + 1}" for index in range(len(plan.blocks))], size=11, color=INK)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _legend() -> list[Line2D | Rectangle]:
    return [
        Line2D([], [], color=_ATTENTION, marker="o", label="attention"),
        Line2D([], [], color=_UNITS, marker="o", label="hidden units"),
        Line2D([], [], color=INK, linestyle="", marker="o", markerfacecolor="white", label="reads"),
        Line2D([], [], color=INK, linestyle="", marker="o", label="writes"),
        Rectangle((0, 0), 1, 1, color=_LIVE, label="value needed"),
    ]


def _lifetimes(axes: Axes, block: PlannedBlock, names: list[str], left: float) -> None:
    spans = ((0.0, 0.5), (0.5, 1.5), (1.5, 2.0))
    for row, name in enumerate(names):
        for live, (start, end) in zip(block.live, spans, strict=True):
            if name in live:
                axes.add_patch(
                    Rectangle((left + start, row - 0.27), end - start, 0.54, color=_LIVE, linewidth=0)
                )


def _phase(axes: Axes, traffic: Traffic, names: list[str], place: float, colour: str, label: str = "") -> None:
    rows = {row: name for row, name in enumerate(names) if name in traffic.reads | traffic.writes}
    if not rows:
        return
    axes.plot([place, place], [min(rows), max(rows)], color=colour, linewidth=1.4, zorder=2)
    axes.text(place, min(rows) - 0.36, label, ha="center", va="bottom", size=9, color=colour)
    for row, name in rows.items():
        if name in traffic.reads:
            axes.plot(place - 0.1, row, "o", color=colour, markerfacecolor="white", markersize=8, zorder=3)
            axes.plot([place - 0.1, place], [row, row], color=colour, linewidth=1.4, zorder=2)
        if name in traffic.writes:
            axes.plot(place + 0.1, row, "o", color=colour, markersize=8, zorder=3)
            axes.plot([place, place + 0.1], [row, row], color=colour, linewidth=1.4, zorder=2)


def _loop(axes: Axes, left: float, right: float, times: int, height: float) -> None:
    """A bracket over the blocks of a loop."""
    ends = [left + 0.05, left + 0.05, right - 0.05, right - 0.05]
    tip = height + 0.16
    axes.plot(ends, [tip, height, height, tip], color=_LOOP, linewidth=2, clip_on=False)
    axes.text(
        (left + right) / 2, height - 0.08, f"{times} times", ha="center", va="bottom", size=11, color=_LOOP
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
