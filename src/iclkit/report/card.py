"""Model cards: what a model is, how it was trained, and how far it can be trusted, measured afresh.

python -m iclkit.report.card energy-mixtures
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iclkit.analysis.calibration import calibrate
from iclkit.analysis.density import CONTEXT_SIZES, Divergence, kl_by_context
from iclkit.analysis.real_data import CONTEXT_SIZES as REAL_SIZES
from iclkit.analysis.real_data import PAIRS, PairResult, compare_on
from iclkit.analysis.sampling import sample_quality
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import DensityLearner, bayes
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import BroadMixtures, DensityTask, GaussianMixtures
from iclkit.training import files
from iclkit.training.models import load, shipped

_SEED = 20_000  # far from the seeds of training


def write_card(
    model: str | Path, out: str | Path | None = None, datasets: int = 500, real_splits: int = 30
) -> Path:
    """Measure a model on fresh datasets and write its card.

    Args:
        model: Name of a shipped model, or a model folder.
        out: File to write; the folder's card.md by default.
        datasets: Held-out datasets behind the divergences; the other measurements take a part of them.
        real_splits: Random splits of each real data set, for a model of two standardised columns; 0 for none.

    Returns:
        The card.

    Raises:
        UserError: No such model folder, or no reference is known for what it was trained on.
    """
    folder = shipped().get(str(model), Path(model))
    if not (folder / "model.json").exists():
        raise UserError(
            f"{model} is neither a shipped model ({', '.join(shipped()) or 'none here'}) nor a model folder; "
            "make one of a run with: iclkit export RUN DIR"
        )
    learner, description = load(folder, "energy"), files.read_json(folder / "model.json")
    if learner.task is None:
        raise UserError(f"{model} does not say what it was trained on, so there is nothing to measure it by")
    sections = [
        _introduction(learner, description, (folder / "model.safetensors").stat().st_size),
        _training(description),
        _measured(learner, learner.task, datasets),
    ]
    if learner.standardise and learner.dim == 2 and real_splits:
        sections.append(_real(learner, real_splits))
    command = f"iclkit card {learner.name}" + (f" --datasets {datasets}" if datasets != 500 else "")
    sections += [_limits(learner), f"## This card\n\nWritten by `{command}`; every number is measured by it.\n"]
    target = folder / "card.md" if out is None else Path(out)
    files.write_file(target, "\n".join(sections).encode())
    return target


def prior_in_words(task: DensityTask) -> str:
    """What a task's datasets look like."""
    if isinstance(task, GaussianMixtures):
        return (
            f"equally weighted mixtures of {task.components} isotropic Gaussians of standard deviation "
            f"{task.std:g} in {task.dim} dimension{'s' * (task.dim > 1)}, "
            f"with means drawn from N(0, {task.mean_std:g}² I)"
        )
    if isinstance(task, BroadMixtures):
        return (
            f"mixtures of 1 to {task.max_components} Gaussians in {task.dim} dimensions with random weights, "
            "rotations and axes, from well separated to strongly overlapping, each data set standardised by "
            "its own moments up to a random error"
        )
    return repr(task)


def _introduction(learner: EnergyDensity, description: dict[str, Any], size: int) -> str:
    network = description["network"]
    parameters = sum(p.numel() for p in learner.network.parameters())
    units = (
        "A context is whitened by its own shrunken moments; densities come back in the data's units."
        if learner.standardise
        else "Data are taken as they are: the model knows the scale of its prior."
    )
    rows = [
        ["points", f"{learner.dim} columns; contexts of 0 to {learner.limit} points"],
        [
            "network",
            f"{network['layers']} layers, width {network['width']}, {network['heads']} heads, "
            f"{parameters:,} weights",
        ],
        ["size", f"{size / 1e6:.2f} MB, SHA-256 `{description['sha256'][:16]}…`"],
    ]
    assert learner.task is not None
    return (
        f"# {learner.name}\n\nAn in-context energy function: shown a data set, and with its weights frozen, it "
        "gives the energy E(x | context) of any point, and with it a density exp(-E) / Z, samples and scores. "
        f"{units}\n\n{_facts(rows)}\n"
        f"**Prior** (what it was trained on): {prior_in_words(learner.task)}.\n"
    )


def _training(description: dict[str, Any]) -> str:
    recipe, training = description["recipe"], description["training"]
    steps = training.get("steps", recipe["steps"])
    drawn = steps * recipe["episodes"] * recipe["accumulate"]
    objective = {k: v for k, v in recipe["objective"].items() if k != "type"}
    rows = [
        ["recipe", f"`{recipe['name']}` (reproduce: `iclkit train {recipe['name']} --out RUN`)"],
        ["objective", f"{recipe['objective']['type']} ({_fields(objective)})"],
        ["seed", str(recipe["seed"])],
        ["updates", f"{steps:,} of {recipe['episodes'] * recipe['accumulate']} data sets: {drawn:,} data sets"],
    ]
    if "seconds" in training:
        rows.append(["time", _duration(training["seconds"])])
    for start in training.get("starts", [])[-1:]:
        processes = (
            f"{start['processes']} process{'es' * (start['processes'] > 1)} of {start['threads']} thread"
        )
        rows += [
            [
                "hardware",
                f"{start['device']}: {start['processor']}, {start['processor_count']} cores, "
                f"{processes}{'s' * (start['threads'] > 1)}",
            ],
            ["software", f"{_fields(start['packages'], ' ')}, Python {start['python']}"],
            ["date", start["date"]],
        ]
    return f"## Training\n\n{_facts(rows)}"


def _measured(learner: EnergyDensity, task: DensityTask, datasets: int) -> str:
    """Divergence, calibration and samples on the prior itself, and outside of it."""
    # On its own prior the data have their units already: what is judged is the network, not the whitening.
    learner = dataclasses.replace(learner, standardise=False)
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


def _real(learner: EnergyDensity, splits: int) -> str:
    """Real data sets against fitted estimators."""
    sizes = [n for n in REAL_SIZES if n <= learner.limit]
    results = [compare_on(learner, name, load().values, sizes, splits) for name, load in PAIRS.items()]
    rows = [[result.pair, *(_gain(result, n) for n in sizes)] for result in results]
    return (
        "## On real data\n\nMean log-likelihood of 60 held-out points minus that of the better of a "
        "cross-validated kernel density estimate and a BIC-chosen Gaussian mixture, in nats per point; "
        f"{splits} random splits, 95 % interval of the paired difference. More: `iclkit evaluate`.\n\n"
        + Table(["by context points", *(str(n) for n in sizes)], rows).markdown()
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
            "Outliers far from all else stretch the units in which the rest is seen; heavy tails, sharp edges, "
            "rings and exact duplicates are not in the prior.",
        ]
    else:
        lines.append(
            "Data on another scale, or of another kind, than the prior's get answers of the prior's kind."
        )
    return "## Limits of use\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


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


def _facts(rows: Sequence[Sequence[str]]) -> str:
    """Named facts as a list."""
    return "".join(f"- {name}: {fact}\n" for name, fact in rows)


def _fields(values: dict[str, Any], equals: str = "=") -> str:
    parts = []
    for key, value in values.items():
        inner = (
            f"({_fields({k: v for k, v in value.items() if k != 'type'})})" if isinstance(value, dict) else ""
        )
        parts.append(f"{key}{inner}" if inner else f"{key}{equals}{value}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a model and write its card."""
    parser = argparse.ArgumentParser(prog="python -m iclkit.report.card", description=main.__doc__)
    parser.add_argument("model", help="name of a shipped model, or a model folder")
    parser.add_argument("--out", type=Path, help="file to write; the model's card.md by default")
    parser.add_argument("--datasets", type=int, default=500, help="held-out data sets")
    options = parser.parse_args(argv)
    print(f"wrote {write_card(options.model, options.out, options.datasets)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
