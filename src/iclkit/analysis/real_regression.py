"""Real tables: a model that is only shown the rows, against regressors that are fitted to them.

    python -m iclkit.analysis.real_regression --model general

Data sets that scikit-learn brings along, and Friedman's three simulated ones. Each split draws a context and
held-out rows; contexts of different sizes are nested, and every regressor sees the same ones.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.fitted_regressors import FITTED, Fitted, fit_predict, require_sklearn
from iclkit.analysis.intervals import Curve
from iclkit.analysis.table import Table, console
from iclkit.errors import UserError, shown, unknown
from iclkit.learners.trained_regression import TrainedProbabilisticRegressor

CONTEXT_SIZES = (16, 32, 64)
_ROWS = 1000  # of a simulated table


@dataclass(frozen=True)
class Rows:
    """A table with one target.

    Args:
        x: Inputs.
        y: Targets.
        target: What is predicted.
    """

    x: Float[Tensor, "M d"]
    y: Float[Tensor, " M"]
    target: str


def _bundled(loader: str, target: int | None, inputs: Sequence[int], name: str) -> Callable[[], Rows]:
    """Columns of a data set; its own target if None."""

    def load() -> Rows:
        data = _datasets(loader)
        y = data["target"] if target is None else data["data"][:, target]
        return Rows(torch.tensor(data["data"][:, list(inputs)]), torch.tensor(y).double(), name)

    return load


def _simulated(maker: str, noise: float, **options: Any) -> Callable[[], Rows]:
    """One of Friedman's, with noise of a third of the signal's standard deviation or as published."""

    def load() -> Rows:
        x, y = _datasets(maker, n_samples=_ROWS, noise=noise, random_state=0, **options)
        return Rows(torch.tensor(x), torch.tensor(y), "simulated")

    return load


# At most eight inputs, which is what the shipped model takes: of more, those that say least anew are left out.
TABLES: dict[str, Callable[[], Rows]] = {
    "diabetes": _bundled("load_diabetes", None, (0, 1, 2, 3, 4, 6, 8, 9), "progression"),
    "wine": _bundled("load_wine", 0, (1, 2, 3, 4, 5, 6, 9, 12), "alcohol"),
    "iris": _bundled("load_iris", 3, (0, 1, 2), "petal width"),
    "breast cancer": _bundled("load_breast_cancer", 0, (1, 4, 5, 6, 8, 9), "mean radius"),
    "concavity": _bundled("load_breast_cancer", 6, (0, 1, 4, 5, 8, 9), "mean concavity"),
    "friedman 1": _simulated("make_friedman1", 1.0, n_features=8),
    "friedman 2": _simulated("make_friedman2", 125.0),
    "friedman 3": _simulated("make_friedman3", 0.1),
}


@dataclass(frozen=True)
class TableResult:
    """How good every regressor is on one table: R² and mean log density of held-out targets, in nats.

    Args:
        table: Name of the table.
        r2: R² per split and context size, about the mean of what is held out; by regressor, the model first.
        log_density: The same of log densities per unit of the target's standard deviation.
    """

    table: str
    r2: Mapping[str, Curve]
    log_density: Mapping[str, Curve]


def compare_on(
    model: TrainedProbabilisticRegressor,
    name: str,
    rows: Rows,
    context_sizes: Sequence[int] = CONTEXT_SIZES,
    splits: int = 30,
    held_out: int = 60,
    seed: int = 0,
    orders: int = 4,
    against: Mapping[str, Fitted] | None = None,
) -> TableResult:
    """Compare a model with the fitted regressors on one table.

    Args:
        model: A learner that says densities.
        name: What to call the table.
        rows: All rows; a split takes `max(context_sizes) + held_out` of them.
        context_sizes: Rows shown.
        splits: Random splits, a function of `seed` alone.
        held_out: Rows predicted.
        seed: Seed of the splits.
        orders: Random orders of rows and columns over which the model's densities are averaged.
        against: The fitted regressors; `FITTED` if None.

    Raises:
        UserError: Too few rows, or context sizes that the model does not take.
    """
    sizes, longest = tuple(context_sizes), max(context_sizes, default=0)
    if not sizes or min(sizes) < 8 or (model.limit is not None and longest > model.limit):
        raise UserError(f"context sizes must lie in 8..{model.limit}, given {list(sizes)}")
    if splits < 2 or held_out < 2 or orders < 1:
        raise UserError(
            f"at least 2 splits, 2 held-out rows and 1 order are needed, given {splits}, {held_out}, {orders}"
        )
    if len(rows.y) < longest + held_out:
        raise UserError(
            f"{name}: {len(rows.y)} rows are too few for {longest} in context and {held_out} held out"
        )
    generator = torch.Generator().manual_seed(seed)
    taken = longest + held_out
    order = torch.stack([torch.randperm(len(rows.y), generator=generator)[:taken] for _ in range(splits)])
    x, y = rows.x.double()[order], (rows.y.double() / rows.y.double().std())[order]
    points, truth = x[:, longest:], y[:, longest:]

    found = {
        "model": _in_context(model, x[:, :longest], y[:, :longest], points, truth, sizes, orders, generator)
    }
    for label, fitted in (FITTED if against is None else against).items():
        answers = [
            [fit_predict(fitted, x[s, :n].numpy(), y[s, :n].numpy(), points[s].numpy()) for n in sizes]
            for s in range(splits)
        ]
        mean, std = torch.tensor(np.array(answers)).unbind(2)  # [splits, sizes, held out]
        normal = torch.distributions.Normal(mean, std)
        found[label] = mean, normal.log_prob(truth[:, None])
    scatter = (truth - truth.mean(1, keepdim=True)).square().sum(1)[:, None]
    r2 = {
        label: Curve(sizes, 1 - (mean - truth[:, None]).square().sum(-1) / scatter)
        for label, (mean, _) in found.items()
    }
    return TableResult(name, r2, {label: Curve(sizes, value.mean(-1)) for label, (_, value) in found.items()})


def _in_context(
    model: TrainedProbabilisticRegressor,
    x: Float[Tensor, "S N d"],
    y: Float[Tensor, "S N"],
    points: Float[Tensor, "S K d"],
    truth: Float[Tensor, "S K"],
    sizes: Sequence[int],
    orders: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "S P K"], Float[Tensor, "S P K"]]:
    """Means and log densities of the model after the first rows of each context, averaged over orders."""
    answers = []
    for size in sizes:
        means, logs = [], []
        for _ in range(orders):
            rows = torch.randperm(size, generator=generator)
            columns = torch.randperm(x.shape[-1], generator=generator)
            with torch.no_grad():
                said = model.distribution_queries(
                    x[:, rows][..., columns], y[:, rows], points[:, None][..., columns], [size]
                )
            means.append(said.mean[:, 0])
            logs.append(said.log_prob(truth[:, None])[:, 0])
        answers.append((torch.stack(means).mean(0), torch.stack(logs).logsumexp(0) - math.log(orders)))
    mean, log = (torch.stack(part, 1) for part in zip(*answers, strict=True))
    return mean, log


def results_table(results: Sequence[TableResult], quantity: str, size: int) -> Table:
    """All tables at one context size; the best regressor of each in bold.

    The gain is the model's mean minus that of the best fitted regressor (the one of the highest mean on that
    table), with the interval of the paired difference over splits.

    Args:
        results: What `compare_on` found.
        quantity: "r2" or "log_density".
        size: Rows shown.
    """
    labels = list(getattr(results[0], quantity))
    rows, best = [], set()
    for row, result in enumerate(results):
        means = [float(curve.at(size).mean) for curve in getattr(result, quantity).values()]
        gain = gained(result, quantity, size).interval()[0]
        interval = [f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}"]
        rows.append([result.table, *(f"{mean:.3f}" for mean in means), *interval])
        best.add((row, 1 + max(range(len(means)), key=means.__getitem__)))
    return Table(["table", *labels, "gain", "95 % interval"], rows, frozenset(best))


def gained(result: TableResult, quantity: str, size: int) -> Curve:
    """The model's value minus that of the best fitted regressor, split by split."""
    curves = {label: curve.at(size) for label, curve in getattr(result, quantity).items()}
    model = curves.pop("model")
    return model - curves[max(curves, key=lambda label: float(curves[label].mean))]


def summary(results: Sequence[TableResult], quantity: str, size: int) -> str:
    """On how many tables the model is above the best fitted regressor, and on how many surely so, or below."""
    gains = [gained(result, quantity, size).interval()[0] for result in results]
    above, surely = sum(float(g.mean) > 0 for g in gains), sum(float(g.low) > 0 for g in gains)
    below = sum(float(g.high) < 0 for g in gains)
    return (
        f"above the best of the others on {above} of {len(gains)} tables "
        f"(the interval above 0 on {surely}, below on {below})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the benchmark's tables."""
    from rich.console import Console

    from iclkit.training.models import load

    parser = argparse.ArgumentParser(prog="python -m iclkit.analysis.real_regression", description=main.__doc__)
    parser.add_argument("--model", default="general", help="name or folder of a regressor that says densities")
    parser.add_argument("--splits", type=int, default=30, help="random splits of each table")
    parser.add_argument("--held-out", type=int, default=60, help="rows predicted in each split")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(CONTEXT_SIZES), help="context sizes")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), help=f"some of: {', '.join(TABLES)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits and orders")
    parser.add_argument("--orders", type=int, default=4, help="orders of the context to average the model over")
    options = parser.parse_args(argv)
    for name in options.tables:
        if name not in TABLES:
            raise unknown("table", name, TABLES)
    model = load(options.model, "regression")
    if not isinstance(model, TrainedProbabilisticRegressor):
        raise UserError(
            f"{options.model} predicts numbers and no densities; name a model of densities: general"
        )
    require_sklearn()
    results = []
    progress = Console(stderr=True)
    for name in options.tables:
        with progress.status(f"{name} ..."):
            given = options.sizes, options.splits, options.held_out, options.seed, options.orders
            results.append(compare_on(model, name, TABLES[name](), *given))
    label = model.name or Path(options.model).name
    titles = {"r2": "R²", "log_density": "log-likelihood, nats per row in units of the target's deviation"}
    for size in options.sizes:
        for quantity, title in titles.items():
            console().print(results_table(results, quantity, size).rich(f"{size} rows shown: {title}"))
            print(shown(f"{label} is {summary(results, quantity, size)}.") + "\n")


def _datasets(function: str, **options: Any) -> Any:
    require_sklearn()
    from sklearn import datasets

    return getattr(datasets, function)(**options)


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
