"""What the report's sections share: panels of a learner, tables of curves, pictures on the page and on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from iclkit import disk
from iclkit.analysis.intervals import Curve
from iclkit.analysis.real_data import baselines
from iclkit.analysis.table import Table
from iclkit.learners import DensityLearner
from iclkit.report.demo import Effort
from iclkit.report.figures import Panel, Window, png
from iclkit.report.html import Page


@dataclass(frozen=True)
class Section:
    """Where a section writes to."""

    page: Page
    folder: Path

    def figure(self, name: str, figure: Figure, description: str, caption: str, large: bool = True) -> None:
        """Put a picture on the page and into the folder."""
        content = png(figure)
        disk.write_file(self.folder / f"{name}.png", content, follow=True)
        self.page.figure(content, description, caption, large)


def fitted(mixture: str) -> dict[str, DensityLearner]:
    """The estimators that a practitioner would fit, as the report names them.

    Args:
        mixture: Which setting of the mixture (see `baselines`): the one that is better at 32 points.
    """
    known = baselines()
    both = {name: known[name] for name in ("Student-t", "Student-t + kernels")}
    return {"kernel density (CV)": known["kernel density"], "EM mixture (BIC)": known[mixture], **both}


def panels(
    learner: DensityLearner, x: Float[Tensor, "N 2"], sizes: Sequence[int], window: Window, effort: Effort
) -> list[Panel]:
    """The learner's landscape after the first n points, with draws from it, for every n of `sizes`."""
    predictive = learner.predictives(x[None], sizes)
    grid = torch.from_numpy(window.grid(effort.cells)).to(x).flatten(0, 1)
    values = predictive.log_prob(grid.expand(1, len(sizes), -1, -1))[0]
    draws = predictive.sample(effort.samples, torch.Generator().manual_seed(0))[0]
    return [
        Panel(
            values[p].double().numpy().reshape(effort.cells, effort.cells),
            x[:n].double().numpy(),
            draws[p].double().numpy(),
        )
        for p, n in enumerate(sizes)
    ]


def likelihood_table(lines: Mapping[str, Curve], sizes: Sequence[int]) -> Table:
    """Means and half-widths of their intervals. Of each column the best but the exact answer is in bold."""
    rows, best = [], {}
    for i, (name, curve) in enumerate(lines.items()):
        interval = curve.interval()
        row = [name]
        for j, n in enumerate(sizes, 1):
            if n not in curve.context_sizes:
                row.append("–")
                continue
            here = interval[curve.context_sizes.index(n)]
            row.append(f"{here.mean:.2f} ± {here.half_width:.2f}")
            if not name.startswith("exact") and float(here.mean) > best.get(j, (-math.inf, 0))[0]:
                best[j] = (float(here.mean), i)
        rows.append(row)
    bold = frozenset((i, j) for j, (_, i) in best.items())
    return Table(["nats per point, by context points", *(str(n) for n in sizes)], rows, bold)


def difference_table(lines: Mapping[str, Curve], name: str, sizes: Sequence[int]) -> Table:
    """Paired differences of one curve to all others, with their intervals."""
    rows = []
    for other, curve in lines.items():
        if other == name:
            continue
        row = [f"minus {other}"]
        for n in sizes:
            if n not in curve.context_sizes:
                row.append("–")
                continue
            gain = (lines[name].at(n) - curve.at(n)).interval()[0]
            row.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
        rows.append(row)
    return Table([name, *(str(n) for n in sizes)], rows)
