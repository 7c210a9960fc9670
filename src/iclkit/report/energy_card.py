"""The card of an energy: how far it is from Bayes, calibrated, and of use on real data, measured afresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from iclkit.analysis.calibration import calibrate
from iclkit.analysis.density import CONTEXT_SIZES, Divergence, kl_by_context
from iclkit.analysis.equivariance import CONTEXT_SIZES as AXES_SIZES
from iclkit.analysis.equivariance import axis_changes, changes_table, prior_sets, real_sets, together
from iclkit.analysis.real_data import ALL_PAIRS, PAIRS, Pair, PairResult, baselines, compare_on, standing
from iclkit.analysis.real_data import CONTEXT_SIZES as REAL_SIZES
from iclkit.analysis.sampling import sample_quality
from iclkit.analysis.table import Table
from iclkit.learners import DensityLearner, bayes
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.trained import EnergyDensity
from iclkit.report.model_facts import facts, identity, limits_section, training_section
from iclkit.report.priors import prior_in_words
from iclkit.tasks import DensityTask, GaussianMixtures

_SEED = 20_000  # far from the seeds of training


def energy_sections(
    learner: EnergyDensity, description: dict[str, Any], size: int, datasets: int = 500, real_splits: int = 30
) -> list[str]:
    """Measure an energy on fresh datasets; the sections of its card.

    Args:
        learner: The model, which says what it was trained on.
        description: The content of model.json.
        size: Bytes of the weights.
        datasets: Held-out datasets behind the divergences; the other measurements take a part of them.
        real_splits: Random splits of each real data set, for a model of two standardised columns; 0 for none.

    Raises:
        UserError: No reference is known for what it was trained on.
    """
    assert learner.task is not None
    sections = [
        _introduction(learner, description, size),
        training_section(description),
        _measured(learner, learner.task, datasets),
    ]
    if learner.standardise and learner.dim == 2 and real_splits:
        sections.append(_real(learner, real_splits))
        sections.append(_axes(learner, learner.task, max(2, datasets // 20), max(1, real_splits // 6)))
    return [*sections, _limits(learner)]


def _introduction(learner: EnergyDensity, description: dict[str, Any], size: int) -> str:
    units = (
        "A context is whitened by its own shrunken moments; densities come back in the data's units."
        if learner.standardise
        else "Data are taken as they are: the model knows the scale of its prior."
    )
    rows = [
        ["points", f"{learner.dim} columns; contexts of 0 to {learner.limit} points"],
        *identity(learner.network, description, size),
    ]
    assert learner.task is not None
    return (
        f"# {learner.name}\n\nAn in-context energy function: shown a data set, and with its weights frozen, it "
        "gives the energy E(x | context) of any point, and with it a density exp(-E) / Z, samples and scores. "
        f"{units}\n\n{facts(rows)}\n"
        f"**Prior** (what it was trained on): {prior_in_words(learner.task)}.\n"
    )


def _measured(learner: EnergyDensity, task: DensityTask, datasets: int) -> str:
    """Divergence, calibration and samples on the prior itself, and outside of it."""
    # On its own prior the data have their units already: what is judged is the network, not the whitening
    # nor the axes.
    averaged, learner = learner.averaged, dataclasses.replace(learner, standardise=False, transforms=1)
    reference = bayes(task)
    shown = [n for n in CONTEXT_SIZES if n <= learner.limit]
    exact = isinstance(reference, MixtureFilter)
    sizes = list(range(max(shown) + 1)) if exact else shown
    found = kl_by_context(reference, learner, task, sizes, datasets, seed=_SEED)
    worst = int(found.kl.mean.argmax())
    some = [n for n in (2, 8, 32) if n <= learner.limit]
    fewer = max(2, datasets * 2 // 5) if exact else max(2, datasets // 10)
    calibration = calibrate(reference, learner, task, some, fewer, seed=_SEED + 1)
    samples = sample_quality(reference, learner, task, some[1:], max(2, min(20, datasets)), seed=_SEED + 2)
    name = "the exact predictive" if exact else "the predictive found by a long tempered particle run"
    where = f"0..{max(shown)}" if exact else ", ".join(map(str, sizes))
    parts = [
        "## On held-out data sets of its prior\n",
        f"KL(Bayes ‖ model) over {datasets} data sets, where Bayes is {name}. The mean is over context sizes "
        f"{where}; the largest value is {found.kl.mean[worst]:.3f}, at {found.kl.context_sizes[worst]} points. "
        f"{_reference_error(found, task, reference, shown, min(40, datasets))}\n",
        found.table(shown).markdown(),
        "" if averaged == 1 else _own_axes(learner, averaged, task, shown, max(2, datasets // 5)),
        f"\n**Calibration** ({fewer} data sets): how much of what comes next lies in the model's regions of "
        "highest density; the temperature that would fit best (right: 1); log Z (right: 0); the mean square "
        "error of the score relative to the score's mean square; the standard deviation over orders of the "
        "context (right: 0).\n",
        calibration.table().markdown(),
        "\n**Samples** (200 draws against 200 of Bayes; in parentheses what draws from Bayes itself get):\n",
        samples.table().markdown(),
    ]
    if isinstance(task, GaussianMixtures) and task.dim == 2:
        parts.append(_elsewhere(learner, reference, max(2, datasets // 5)))
    return "\n".join(parts)


def _own_axes(learner: EnergyDensity, averaged: int, task: DensityTask, sizes: list[int], datasets: int) -> str:
    """What it costs on the prior itself to be shown contexts in their own axes."""
    judged = dataclasses.replace(learner, transforms=averaged)
    reference = bayes(task)
    turned, given = (
        kl_by_context(reference, each, task, sizes, datasets, seed=_SEED).kl for each in (judged, learner)
    )
    means = [float(curve.mean.mean()) for curve in (turned, given)]
    return (
        f"\nThat is the network itself. By default it sees data in {averaged} orientations of their own, which "
        "forget how the prior's axes lay: over the mean of these sizes "
        f"{means[0]:.3f} nats, where the network itself has {means[1]:.3f} ({datasets} of the data sets)."
    )


def _elsewhere(learner: EnergyDensity, trained: DensityLearner, datasets: int) -> str:
    """The published out-of-distribution prior."""
    task = GaussianMixtures(components=5, std=0.13, mean_std=4.5)
    sizes = [n for n in (8, 32) if n <= learner.limit]
    reference = bayes(task)
    rows = []
    for name, judged in (("model", learner), ("Bayes under the model's prior", trained)):
        interval = kl_by_context(reference, judged, task, sizes, datasets, seed=_SEED + 3).kl.interval()
        cells = [f"{interval[i].mean:.2f} ± {interval[i].half_width:.2f}" for i in range(len(sizes))]
        rows.append([name, *cells])
    table = Table(["KL / nats from the right answer", *(f"{n} points" for n in sizes)], rows)
    return (
        f"\n**Out of its distribution**: {prior_in_words(task)}; {datasets} data sets. Whoever believes the "
        f"model's own prior is wrong here too, which is the second row.\n\n{table.markdown()}"
    )


def _real(learner: EnergyDensity, splits: int, pairs: Mapping[str, Callable[[], Pair]] = ALL_PAIRS) -> str:
    """Real data sets against fitted estimators."""
    sizes = [n for n in REAL_SIZES if n <= learner.limit]
    results = [compare_on(learner, name, load().values, sizes, splits) for name, load in pairs.items()]
    counts = []
    for n in sizes:
        found = standing(results, n)
        counts.append(
            [
                str(n),
                f"{found.above} of {found.pairs}",
                str(found.surely_above),
                str(found.surely_below),
                f"{found.rank:.1f} of {found.estimators}",
            ]
        )
    columns = ["context points", "above", "interval above 0", "interval below 0", "mean rank"]
    rows = [[result.pair, *(_gain(result, n) for n in sizes)] for result in results]
    return (
        "## On real data\n\nMean log-likelihood of 60 held-out points minus that of the best of "
        f"{len(baselines())} fitted estimators ({', '.join(baselines())}), the best being chosen afterwards "
        f"for each pair of columns and each size; nats per point, {splits} random splits, 95 % interval of the "
        "paired difference. More: `iclkit evaluate`.\n\n"
        + Table(columns, counts).markdown()
        + "\n"
        + Table(["by context points", *(str(n) for n in sizes)], rows).markdown()
        + "\nWhere it loses at 8 points, the context's own moments are often to blame: it is whitened by them, "
        "and when the spread of so few points is small by chance, all else lies far out.\n"
    )


def _axes(learner: EnergyDensity, task: DensityTask, datasets: int, splits: int) -> str:
    """How far densities move when the data's axes change."""
    sizes = [n for n in AXES_SIZES if n <= learner.limit]
    real = together(real_sets(load().values, splits, max(sizes)) for load in PAIRS.values())
    prior = prior_sets(task, datasets, max(sizes), seed=_SEED + 5)
    tables = [changes_table(axis_changes(learner, sets, sizes), sizes).markdown() for sets in (real, prior)]
    return (
        "## Change of axes\n\nScaling, turning, reflecting or shearing the columns says nothing of the data. "
        "Absolute change of held-out log densities, in nats: the mean, and in parentheses the largest. The "
        f"energy is averaged over {learner.averaged} transforms (the context's own axes and their mirror "
        "image); `transforms=24` averages over more, at as many times the cost. How widths are shrunk still "
        "depends on the columns, most at few points, so turns and triangular maps change something.\n\n"
        f"{len(PAIRS)} pairs of columns of real data, {splits} splits each, in their own units:\n\n"
        f"{tables[0]}\n"
        f"{datasets} data sets of its prior, each seen through a matrix of normal numbers:\n\n{tables[1]}"
    )


def _gain(result: PairResult, size: int) -> str:
    gain = result.gain(size).interval()[0]
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def _limits(learner: EnergyDensity) -> str:
    lines = [
        f"Data of {learner.dim} column{'s' * (learner.dim > 1)} only, and contexts of at most {learner.limit} "
        "points: beyond, nothing is known of its quality, and more data need not make it better.",
        "The order of the context matters a little, though it should not (see calibration); where that counts, "
        "average over orders with `EnergyDensity(..., orders=8)`.",
        "exp(-E) is close to a density by training alone; `log_partition` finds the constant that is missing.",
    ]
    if learner.standardise:
        lines += [
            "Fewer than two points have no units, so such a context is taken to be in standard units already.",
            "A turn of the columns, or a triangular map (one column added to another), changes densities, most "
            "at few points (see change of axes).",
            "Outliers far from all else stretch the units in which the rest is seen; heavy tails, sharp edges, "
            "rings and exact duplicates are not in the prior.",
        ]
    else:
        lines.append(
            "Data on another scale, or of another kind, than the prior's get answers of the prior's kind."
        )
    return limits_section(lines)


def _reference_error(
    found: Divergence, task: DensityTask, reference: DensityLearner, sizes: list[int], datasets: int
) -> str:
    """What is known of the reference's own error."""
    if isinstance(reference, MixtureFilter):
        finer = bayes(task, particles=10 * reference.particles)
        own = kl_by_context(finer, reference, task, sizes, max(2, datasets), seed=_SEED + 4).kl.mean
        return (
            f"At every size the reference is within {max(float(own.max()), 5e-4):.4f} nats of itself with ten "
            f"times as many particles ({datasets} data sets)."
        )
    if found.reference_error is None:
        return ""
    inflation = 0.5 * float(found.reference_error.square().mean())
    return (
        "The reference has a Monte Carlo error (half the difference of two runs, root mean square), "
        f"which makes the divergences too large by about half its square, {inflation:.3f} nats on average."
    )
