"""Section of the report: data sets whose best possible density is known."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.density import CONTEXT_SIZES, log_likelihood_by_context
from iclkit.errors import UserError
from iclkit.learners import DensityLearner, bayes
from iclkit.learners.trained import EnergyDensity
from iclkit.report.demo import Effort
from iclkit.report.figures import Window, curves, landscapes, sample_rows
from iclkit.report.html import Page
from iclkit.report.sections import Section, difference_table, fitted, likelihood_table, panels
from iclkit.tasks import DensityTask

_DARKEST = -12.0  # nats: a density that is practically nothing
_MARGIN = 3.0  # around the points shown
_ENOUGH = 4  # points, to fit an estimator to


def write(page: Page, folder: Path, model: EnergyDensity, effort: Effort) -> None:
    """Landscapes, samples and held-out likelihood, beside the exact Bayes predictive."""
    if model.task is None:
        raise UserError(
            f"the model {model.name} does not say what it was trained on, so no exact answer is known"
        )
    section, task, reference = Section(page, folder), model.task, bayes(model.task)
    sizes = [n for n in CONTEXT_SIZES if n <= model.limit]
    page.heading("Known laws: the exact answer exists")
    page.text(
        f"The model `{model.name}` was trained on random mixtures of Gaussians. For these the best possible "
        "answer is known: Bayes' predictive density, which knows how the data sets are made and averages over "
        "all mixtures that could have produced the context. The model had to find it by itself."
    )
    _pictures(section, model, reference, task, sizes, effort)

    page.heading("How good is it?", 3)
    name = f"{model.name} (frozen)"
    lines = log_likelihood_by_context(
        {"exact Bayes": reference, name: model}, task, sizes, effort.datasets, proposal=reference
    )
    enough = [n for n in sizes if n >= _ENOUGH]
    lines |= log_likelihood_by_context(fitted("mixture, any form"), task, enough, effort.datasets)
    # What the fitted estimators lose on too few points would squeeze the rest.
    floor = float(lines["exact Bayes"].mean[0]) - 0.7
    section.figure(
        "likelihood",
        curves(lines, "held-out log-likelihood / nats per point", floor),
        "Held-out log-likelihood by context size",
        f"Mean log-likelihood of 60 held-out points, {effort.datasets} data sets. Without a context, at 0, "
        "the model gives what all data sets have in common. The fitted estimators start at "
        f"{_ENOUGH} points; what lies "
        "below the picture is in the table.",
        large=False,
    )
    page.table(likelihood_table(lines, sizes))
    page.text("The model's paired differences, data set by data set, with 95 % intervals:", note=True)
    page.table(difference_table(lines, name, sizes))


def _pictures(
    section: Section,
    model: EnergyDensity,
    reference: DensityLearner,
    task: DensityTask,
    sizes: list[int],
    effort: Effort,
) -> None:
    pictures = []
    for seed in effort.seeds:
        x = task.sample(1, max(sizes), torch.Generator().manual_seed(seed))[0]
        window = _square(x)
        learners = {"model": model, "exact Bayes": reference}
        rows = {name: panels(learner, x, sizes, window, effort) for name, learner in learners.items()}
        limits = (_DARKEST, max(float(panel.log_density.max()) for panel in rows["exact Bayes"]))
        pictures.append((landscapes(rows, window, limits), sample_rows(rows, window, limits)))
    for number, (picture, _) in enumerate(pictures, 1):
        section.figure(
            f"landscapes-{number}",
            picture,
            "Log density of the model and of exact Bayes as the context grows from 0 to 32 points",
            "Landscapes as the context (white points) grows. Top: the frozen model. Bottom: the exact Bayes "
            f"predictive for the same contexts. One colour scale, which ends at {_DARKEST:.0f} nats.",
        )
    section.page.heading("Samples", 3)
    section.page.text("Points drawn from each landscape, over the landscape that they were drawn from.")
    for number, (_, picture) in enumerate(pictures, 1):
        section.figure(
            f"samples-{number}",
            picture,
            "Samples from the model and from exact Bayes as the context grows from 0 to 32 points",
            "Samples from the model (top) and from exact Bayes (bottom), given the same contexts; any outside "
            "the window are not shown.",
        )


def _square(x: Float[Tensor, "N 2"]) -> Window:
    """A square window around all points."""
    low, high = x.amin(0), x.amax(0)
    half = 0.5 * float((high - low).max()) + _MARGIN
    (a, b) = (0.5 * (low + high)).tolist()
    return Window((a - half, a + half), (b - half, b + half), ("x₁", "x₂"), equal=True)
