"""Section of the report: real data, the petals of irises."""

from __future__ import annotations

from pathlib import Path

import torch

from iclkit.analysis.real_data import PAIRS, compare_on
from iclkit.learners.trained import EnergyDensity
from iclkit.report.demo import Effort
from iclkit.report.figures import Panel, Window, curves, landscapes, sample_rows
from iclkit.report.html import Page
from iclkit.report.sections import Section, difference_table, fitted, likelihood_table, panels

_PAIR = "iris petal"
_SHOWN = (2, 4, 8, 16, 32, 64)
_COMPARED = (8, 16, 32)
_SEED = 2  # of the order of the flowers shown
_DARKEST = -9.0


def write(page: Page, folder: Path, model: EnergyDensity, effort: Effort) -> None:
    """Landscapes, samples and held-out likelihood in centimetres."""
    section, pair = Section(page, folder), PAIRS[_PAIR]()
    sizes = [n for n in _SHOWN if n <= model.limit]
    order = torch.randperm(len(pair.values), generator=torch.Generator().manual_seed(_SEED))
    window = Window((0.3, 7.7), (-0.35, 3.05), pair.columns)
    shown = panels(model, pair.values[order[: max(sizes)]], sizes, window, effort)
    rows = _two_rows(shown)
    limits = (_DARKEST, max(float(panel.log_density.max()) for panel in shown))

    page.heading("Real data: petals of irises")
    page.text(
        f"The model `{model.name}` was trained on a broad family of random mixtures, and on no real data. "
        "It is shown the petals of irises (scikit-learn's data set, 150 flowers, three species). A context is "
        "standardised inside; densities come back per square centimetre."
    )
    section.figure(
        "iris-landscapes",
        landscapes(rows, window, limits, "cm"),
        f"Log density over petal length and width for contexts of {sizes[0]} to {sizes[-1]} flowers",
        "Landscapes of the frozen model as it is shown more flowers (white points). Flowers of one size, which "
        "rounding to millimetres makes common, lie on top of each other.",
    )
    section.figure(
        "iris-samples",
        sample_rows(rows, window, limits),
        f"Samples from the model for contexts of {sizes[0]} to {sizes[-1]} flowers",
        "Flowers that the model makes up, over the landscapes that they were drawn from.",
    )

    compared = [n for n in _COMPARED if n <= model.limit]
    result = compare_on(model, _PAIR, pair.values, compared, effort.splits, against=fitted("mixture"))
    name = f"{model.name} (frozen)"
    lines = {name: result.model, **result.baselines}
    floor = float(result.model.mean.min()) - 1.2
    section.figure(
        "iris-likelihood",
        # The first colour is the exact answer's, which nobody knows here.
        curves(lines, "held-out log-likelihood / nats per flower", floor, first=1),
        "Held-out log-likelihood of iris petals by context size",
        f"Mean log-likelihood of 60 held-out flowers, {effort.splits} random splits. What lies below "
        "the picture is in the table.",
        large=False,
    )
    page.table(likelihood_table(lines, compared))
    page.text("The model's paired differences, split by split, with 95 % intervals:", note=True)
    page.table(difference_table(lines, name, compared))


def _two_rows(shown: list[Panel]) -> dict[str, list[Panel]]:
    """An even number of panels in two rows, whose names are blank."""
    if len(shown) % 2:
        return {"": shown}
    half = len(shown) // 2
    return {"": shown[:half], " ": shown[half:]}
