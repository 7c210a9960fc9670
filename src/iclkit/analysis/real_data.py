"""Real data: a model that is only shown the points, against estimators that are fitted to them.

    python -m iclkit.analysis.real_data --model energy-2d

Pairs of columns of the data sets that scikit-learn brings along. Each split draws a context and held-out points
of one pair; contexts of different sizes are nested, and every estimator sees the same ones.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.density import check_sizes
from iclkit.analysis.intervals import Curve
from iclkit.analysis.table import Table, console
from iclkit.errors import UserError, shown, unknown
from iclkit.learners import (
    AverageLearner,
    DensityLearner,
    DirichletMixtureLearner,
    GaussianMixtureLearner,
    KernelDensityLearner,
    RuleOfThumbLearner,
    ShrunkGaussianLearner,
    StudentLearner,
)

CONTEXT_SIZES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Pair:
    """Two columns of a data set.

    Args:
        values: All rows of the two columns.
        columns: Their names, with units where known.
    """

    values: Float[Tensor, "M 2"]
    columns: tuple[str, str]


def _bundled(loader: str, first: int, second: int, names: tuple[str, str]) -> Callable[[], Pair]:
    def load() -> Pair:
        data = getattr(_datasets(), loader)()["data"]
        return Pair(torch.from_numpy(data[:, [first, second]].copy()).double(), names)

    return load


def _digits(first: int = 0, second: int = 1) -> Pair:
    """Two principal components of the digits' 64 pixels, counted from the largest."""
    data = torch.from_numpy(_datasets().load_digits()["data"].copy()).double()
    centred = data - data.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    names = tuple(f"component {i + 1} / grey levels" for i in (first, second))
    return Pair(centred @ axes[:, [-1 - first, -1 - second]], (names[0], names[1]))


PAIRS: dict[str, Callable[[], Pair]] = {
    "iris petal": _bundled("load_iris", 2, 3, ("petal length / cm", "petal width / cm")),
    "iris sepal": _bundled("load_iris", 0, 1, ("sepal length / cm", "sepal width / cm")),
    "wine": _bundled("load_wine", 0, 6, ("alcohol / % vol", "flavanoids / (g/L)")),
    "breast cancer": _bundled("load_breast_cancer", 0, 1, ("mean radius", "mean texture")),
    "diabetes": _bundled("load_diabetes", 2, 8, ("body mass index", "serum triglycerides (log)")),
    "digits": _digits,
}


def _columns(loader: str, prefix: str, columns: Sequence[int]) -> dict[str, Callable[[], Pair]]:
    """Every pair of some columns of a data set, by name."""
    return {
        f"{prefix} {first + 1}, {second + 1}": _bundled(
            loader, first, second, (f"{prefix} column {first + 1}", f"{prefix} column {second + 1}")
        )
        for first, second in itertools.combinations(columns, 2)
    }


# All pairs of the first four continuous columns of each table, and more components of the digits: chosen before
# any of them was scored. The six pairs above are 6 of these 29 or stand beside them.
MORE_PAIRS: dict[str, Callable[[], Pair]] = {
    name: load
    for name, load in {
        **_columns("load_iris", "iris", range(4)),
        **_columns("load_wine", "wine", range(4)),
        **_columns("load_breast_cancer", "cancer", range(4)),
        **_columns("load_diabetes", "diabetes", (0, 2, 3, 4)),  # column 2 is the sex
        "digits 2, 3": lambda: _digits(1, 2),
        "digits 3, 4": lambda: _digits(2, 3),
    }.items()
    if name not in ("iris 1, 2", "iris 3, 4", "cancer 1, 2")  # iris sepal, iris petal, breast cancer
}
ALL_PAIRS = PAIRS | MORE_PAIRS


def baselines() -> dict[str, DensityLearner]:
    """The estimators that a practitioner would fit. All standardise the columns inside.

    Kernel densities: 30 bandwidths by cross-validation (leave-one-out for up to 16 points, 16 folds above), and
    Scott's and Silverman's rules with the sample's covariance. Mixtures of 1 to 6 components by BIC, in two
    settings, for no regularisation of the covariances is best everywhere: full covariances with 1e-2 of a
    column's variance added, which is strong on few and on rounded data; and full, diagonal, spherical or tied
    ones, by BIC too, with 1e-3 added, which is strong on tight clusters. (scikit-learn's default, 1e-6, loses
    to both by far on contexts this small.) A Dirichlet process mixture. One Gaussian with the covariance of
    Ledoit and Wolf. The Student-t predictive of a normal-inverse-Wishart prior; and its mean with the
    cross-validated kernel density, which is strong on few points.
    """
    forms = ("full", "diag", "spherical", "tied")
    kernels, student = KernelDensityLearner(2, folds=16), StudentLearner(2)
    return {
        "kernel density": kernels,
        "kernel density, Scott": RuleOfThumbLearner(2, "scott"),
        "kernel density, Silverman": RuleOfThumbLearner(2, "silverman"),
        "mixture": GaussianMixtureLearner(2, starts=1, regularisation=1e-2),
        "mixture, any form": GaussianMixtureLearner(2, starts=1, covariances=forms),
        "Dirichlet mixture": DirichletMixtureLearner(2),
        "shrunk Gaussian": ShrunkGaussianLearner(2),
        "Student-t": student,
        "Student-t + kernels": AverageLearner((student, kernels)),
    }


@dataclass(frozen=True)
class PairResult:
    """Mean held-out log-likelihood of every estimator on one pair, in nats per point.

    Args:
        pair: Name of the pair.
        model: The model's, per split and context size.
        baselines: The estimators'.
    """

    pair: str
    model: Curve
    baselines: Mapping[str, Curve]

    def best(self, size: int) -> str:
        """The baseline with the highest mean at a context size."""
        return max(self.baselines, key=lambda name: float(self.baselines[name].at(size).mean))

    def gain(self, size: int) -> Curve:
        """The model's log-likelihood minus that of the best baseline, split by split."""
        return self.model.at(size) - self.baselines[self.best(size)].at(size)


def compare_on(
    model: DensityLearner,
    name: str,
    values: Float[Tensor, "M 2"],
    context_sizes: Sequence[int] = CONTEXT_SIZES,
    splits: int = 30,
    held_out: int = 60,
    seed: int = 0,
    against: Mapping[str, DensityLearner] | None = None,
) -> PairResult:
    """Compare a model with the baselines on one set of points.

    Args:
        model: A learner of two dimensions.
        name: What to call the points.
        values: All points; a split takes `max(context_sizes) + held_out` of them.
        context_sizes: Points shown.
        splits: Random splits, a function of `seed` alone.
        held_out: Points scored.
        seed: Seed of the splits.
        against: The baselines; `baselines()` if None.

    Raises:
        UserError: Too few points, or context sizes that the model does not take.
    """
    sizes = check_sizes(model, context_sizes)
    longest = max(sizes)
    if len(values) < longest + held_out:
        raise UserError(
            f"{name}: {len(values)} rows are too few for {longest} context and {held_out} held-out points"
        )
    generator = torch.Generator().manual_seed(seed)
    orders: list[Tensor] = []
    while len(orders) < splits:
        order = torch.randperm(len(values), generator=generator)[: longest + held_out]
        # Estimators standardise, which a column that happens to be constant in the context forbids.
        smallest = values[order[: max(2, min(sizes))]]
        if (smallest.amax(0) > smallest.amin(0)).all():
            orders.append(order)
    x = values[torch.stack(orders)]
    context, points = x[:, :longest], x[:, longest:, :]
    points = points[:, None].expand(-1, len(sizes), -1, -1)

    def score(learner: DensityLearner) -> Curve:
        with torch.no_grad():
            return Curve(sizes, learner.predictives(context, sizes).log_prob(points).double().mean(-1))

    against = baselines() if against is None else against
    return PairResult(name, score(model), {label: score(learner) for label, learner in against.items()})


def results_table(results: Sequence[PairResult], size: int) -> Table:
    """All pairs at one context size: the model, the best baseline, and the gain of the one over the other.

    The gain is the model's mean minus that of the best baseline, with the interval of the paired difference
    over splits.
    """
    rows = []
    for result in results:
        best, gain = result.best(size), result.gain(size).interval()[0]
        means = [float(result.model.at(size).mean), float(result.baselines[best].at(size).mean)]
        interval = [f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}"]
        rows.append([result.pair, *(f"{mean:.3f}" for mean in means), best, *interval])
    return Table(["pair", "model", "best baseline", "which", "gain", "95 % interval"], rows)


def baselines_table(results: Sequence[PairResult], size: int) -> Table:
    """The baselines' own means on all pairs at one context size; the best of each pair in bold."""
    labels = list(results[0].baselines)
    rows, best = [], set()
    for row, result in enumerate(results):
        means = [float(result.baselines[label].at(size).mean) for label in labels]
        rows.append([result.pair, *(f"{mean:.3f}" for mean in means)])
        best.add((row, 1 + max(range(len(means)), key=means.__getitem__)))
    return Table(["pair", *labels], rows, frozenset(best))


@dataclass(frozen=True)
class Standing:
    """How a model stands against the best baseline of each pair, at one context size.

    Args:
        pairs: Number of pairs.
        above: Pairs on which the model's mean is above the best baseline's.
        surely_above: Those of them whose 95 % interval of the paired difference lies above 0.
        surely_below: Pairs whose interval lies below 0.
        rank: The model's mean rank among all estimators (1 is best).
        estimators: Their number, the model included.
    """

    pairs: int
    above: int
    surely_above: int
    surely_below: int
    rank: float
    estimators: int

    def __str__(self) -> str:
        return (
            f"above the best baseline on {self.above} of {self.pairs} pairs (the 95 % interval excludes 0 on "
            f"{self.surely_above}), below with an interval that excludes 0 on {self.surely_below}; mean rank "
            f"{self.rank:.1f} of {self.estimators}"
        )


def standing(results: Sequence[PairResult], size: int) -> Standing:
    """Count wins and losses at one context size."""
    gains = [result.gain(size).interval()[0] for result in results]
    ranks = [
        1 + sum(float((b.at(size) - result.model.at(size)).mean) > 0 for b in result.baselines.values())
        for result in results
    ]
    return Standing(
        len(results),
        sum(float(gain.mean) > 0 for gain in gains),
        sum(float(gain.low) > 0 for gain in gains),
        sum(float(gain.high) < 0 for gain in gains),
        sum(ranks) / len(ranks),
        1 + len(results[0].baselines),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the benchmark's tables."""
    from rich.console import Console

    from iclkit.training.models import load

    parser = argparse.ArgumentParser(prog="python -m iclkit.analysis.real_data", description=main.__doc__)
    parser.add_argument("--model", default="energy-2d", help="name or folder of a model of two dimensions")
    parser.add_argument("--splits", type=int, default=30, help="random splits of each pair")
    parser.add_argument("--held-out", type=int, default=60, help="points scored in each split")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(CONTEXT_SIZES), help="context sizes")
    parser.add_argument(
        "--pairs", nargs="+", default=list(PAIRS), help=f"'all', or some of: {', '.join(ALL_PAIRS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits")
    options = parser.parse_args(argv)
    pairs = list(ALL_PAIRS) if options.pairs == ["all"] else options.pairs
    for name in pairs:
        if name not in ALL_PAIRS:
            raise unknown("pair", name, ["all", *ALL_PAIRS])
    model = load(options.model, "energy")
    if model.dim != 2:
        raise UserError(f"the pairs have 2 columns, {options.model} takes points of {model.dim}")
    results = []
    progress = Console(stderr=True)
    for name in pairs:
        with progress.status(f"{name} ..."):
            pair = ALL_PAIRS[name]()
            results.append(
                compare_on(
                    model, name, pair.values, options.sizes, options.splits, options.held_out, options.seed
                )
            )
    label = model.name or Path(options.model).name
    for size in options.sizes:
        title = f"{size} context points: held-out log-likelihood, nats per point"
        console().print(results_table(results, size).rich(title))
        console().print(baselines_table(results, size).rich("the baselines"))
        print(shown(f"{label} with {size} context points: {standing(results, size)}.") + "\n")


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError(
            "the bundled data sets need scikit-learn; install it with: pip install 'iclkit[sklearn]'"
        ) from error
    return datasets


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
