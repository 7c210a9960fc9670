"""The card of an in-context regressor: which learner it has become, and how far it can be trusted."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from iclkit.analysis.compare import known_bayes
from iclkit.analysis.identify import identify
from iclkit.analysis.regression_calibration import LEVELS, RegressionCalibration, calibrate_regressor
from iclkit.learners.trained_regression import TrainedProbabilisticRegressor, TrainedRegressor
from iclkit.report.bayes_section import against_bayes, shifted
from iclkit.report.kinds_section import by_kind
from iclkit.report.model_facts import facts, identity, limits_section, training_section
from iclkit.report.priors import prior_in_words
from iclkit.tasks import RegressionTask

SEED = 20_000  # far from the seeds of training


def regression_sections(
    learner: TrainedRegressor, description: dict[str, Any], size: int, episodes: int = 500
) -> list[str]:
    """Measure a regressor on fresh episodes; the sections of its card.

    Args:
        learner: The model, which says what it was trained on.
        description: The content of model.json.
        size: Bytes of the weights.
        episodes: Held-out episodes behind each table.
    """
    task = learner.task
    assert task is not None
    sections = [_introduction(learner, task, description, size), training_section(description, "episodes")]
    if known_bayes(task) is None:
        sections.append(by_kind(learner, task, episodes, SEED))
    else:
        sections.append(against_bayes(learner, task, episodes, SEED))
    sections.append(_identified(learner, task, episodes))
    if isinstance(learner, TrainedProbabilisticRegressor):
        sections.append(_calibrated(learner, task, episodes))
    if known_bayes(task) is not None:
        sections.append(shifted(learner, task, episodes, SEED + 2))
    return [*sections, _limits(learner, task)]


def _introduction(
    learner: TrainedRegressor, task: RegressionTask, description: dict[str, Any], size: int
) -> str:
    says = "a density of y" if isinstance(learner, TrainedProbabilisticRegressor) else "y"
    units = (
        "Columns and targets may be in any units: each context is brought into its own standard units, and "
        "what is said comes back in the data's."
        if learner.standardise
        else "Data are taken as they are: the model knows the scale of its prior."
    )
    columns = f"1 to {learner.network.dim}" if learner.pads else str(learner.network.dim)
    rows = [
        ["pairs", f"inputs of {columns} columns; contexts of 0 to {learner.network.max_points} pairs"],
        *identity(learner.network, description, size),
    ]
    return (
        f"# {learner.name}\n\nAn in-context regressor: shown pairs (x, y), and with its weights frozen, it "
        f"predicts {says} at any further x. {units}\n\n{facts(rows)}\n"
        f"**Prior** (what it was trained on): {prior_in_words(task)}.\n"
    )


def _identified(learner: TrainedRegressor, task: RegressionTask, episodes: int) -> str:
    """Which textbook learner it has become."""
    # What is fitted needs few; the distances are measured on 8 times as many.
    fitted, points = max(16, episodes // 4), min(40, learner.network.max_points + 1)
    found = identify(learner, task, points, fitted, SEED + 1)
    parts = [f"## Which algorithm it has become\n\n**{found.verdict}**"]
    if 2 * task.dim < points:
        # Apart, for an average over all sizes is mostly of those about d, where contexts are nearly singular.
        late = range(2 * task.dim, points)
        after = identify(learner, task, points, fitted, SEED + 1, context_sizes=late)
        parts.append(f"**After 2d = {2 * task.dim} pairs or more: {after.verdict}**")
    table = found.table()
    kept = [match is found.nearest or found.share(match) <= 1 for match in found.matches]
    near = [row for row, keep in zip(table.rows, kept, strict=True) if keep]
    marked = frozenset(place for place in table.best if place[0] < len(near))
    parts += [
        f"Measured on {found.nearest.spd.datasets} episodes of its prior, after 0 to {points - 1} pairs. "
        f"Families that are further from it than predicting 0 is are left out ({len(kept) - sum(kept)}). "
        "More: `iclkit identify`.",
        dataclasses.replace(table, rows=near, best=marked).markdown() + "\n" + " ".join(found.notes),
    ]
    return "\n\n".join(parts) + "\n"


def _calibrated(learner: TrainedProbabilisticRegressor, task: RegressionTask, episodes: int) -> str:
    """Log-likelihood and coverage."""
    sizes = [n for n in (2, 4, 8, 16, 32, 64) if n <= learner.network.max_points]
    found = calibrate_regressor(learner, task, sizes, episodes, SEED + 3)
    return (
        f"## Calibration\n\n{_surest(found)} {episodes} episodes of its prior: log density of the targets, in "
        "nats, and how much of it is owed to x (Student's t with the moments of the targets in the context "
        "knows no x); how often the target lies in the central intervals; and the largest distance of the "
        "distribution of F(y), the probability integral transform, from a uniform one (a calibrated model "
        f"exceeds {found.chance:.3f} at one context size in 20).\n\n{found.table().markdown()}"
    )


def _surest(found: RegressionCalibration) -> str:
    """The worst coverage in a sentence."""
    gaps = {
        (level, n): float(value) - level
        for level in LEVELS
        for n, value in zip(found.context_sizes, found.coverage(level).mean, strict=True)
    }
    level, n = max(gaps, key=lambda place: abs(gaps[place]))
    return (
        f"**Furthest from its level is the {100 * level:.0f} % interval after {n} pairs: "
        f"{100 * (level + gaps[level, n]):.1f} % of the targets lie in it.**"
    )


def _order(learner: TrainedRegressor, task: RegressionTask, episodes: int = 64, orders: int = 8) -> str:
    """How much predictions change with the order of the context."""
    size = learner.network.max_points // 2
    generator = torch.Generator().manual_seed(SEED + 4)
    pairs = task.draw(episodes, size + 1, generator)
    places = torch.rand(orders, episodes, size, generator=generator).argsort(-1).flatten(0, 1)
    x, y = (part.repeat(orders, *[1] * (part.ndim - 1)) for part in (pairs.x, pairs.y))
    context = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1])), y.gather(1, places)
    said = learner.predict_queries(*context, x[:, None, -1:], [size]).view(orders, episodes).double()
    share = float((said.var(0).mean() / pairs.y.double().var(1).mean()).sqrt())
    return (
        "The order of the context should not matter, but does a little: over random orders of "
        f"{size} pairs, a prediction has a standard deviation of {share:.2g} of that of the targets."
    )


def _limits(learner: TrainedRegressor, task: RegressionTask) -> str:
    columns = f"1 to {learner.network.dim}" if learner.pads else f"exactly {learner.network.dim}"
    lines = [
        f"Inputs of {columns} columns, and contexts of at most {learner.network.max_points} pairs: beyond, "
        "nothing is known of its quality, and more data need not make it better.",
        _order(learner, task),
    ]
    if learner.standardise:
        lines += [
            "Fewer than two pairs have no units, so such a context is taken to be in standard units already.",
            "Outliers far from all else stretch the units in which the rest is seen. Columns are numbers: "
            "categories must be encoded, and missing values filled in.",
            "Its noise is normal and of one size within a data set; heavy tails, or noise that depends on x, "
            "are not in its prior.",
        ]
    else:
        lines.append(
            "Data of another scale, other inputs or other functions than its prior's get answers of its "
            "prior's kind. There is no intercept: centre the data."
        )
    if not isinstance(learner, TrainedProbabilisticRegressor):
        lines.append("It gives a number alone and does not say how sure it is.")
    if not task.noise_std:
        lines.append("It was trained without noise and takes every digit of the targets at its word.")
    return limits_section(lines)
