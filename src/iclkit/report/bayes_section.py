"""What the card of a regressor says where Bayes' rule has a closed form: how far from it, also under shifts."""

from __future__ import annotations

from iclkit.analysis.compare import BAYES, Comparison, compare
from iclkit.analysis.intervals import Interval, cell
from iclkit.analysis.shifts import compare_shifts
from iclkit.analysis.table import Table
from iclkit.learners import Averaging, LeastSquares, NearestNeighbors, RegressionLearner, Ridge
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.tasks import LinearRegression, RegressionTask

_SIZES = (0, 2, 4, 8, 12, 16, 24, 32, 40, 64)


def against_bayes(learner: TrainedRegressor, task: RegressionTask, episodes: int, seed: int) -> str:
    """Errors, excess risk and distances to the textbook by context size.

    Args:
        learner: The model.
        task: Its prior, of which Bayes is known.
        episodes: Held-out episodes.
        seed: Their seed.
    """
    others = _textbook(task)
    named = {learner.name: learner, **others}
    found = compare(named, task, learner.network.max_points + 1, episodes, seed)
    sizes = [n for n in _SIZES if n in found.context_sizes]
    noisy = task.noise_std > 0
    parts = [
        "## On held-out episodes of its prior\n",
        f"{episodes} episodes; squared differences per dimension (divided by d = {task.dim}), ± half of a 95 % "
        "bootstrap interval over episodes. Bayes is the exact posterior mean. The excess is E(ŷ − ŷ_Bayes)², "
        "which is the model's risk less Bayes'."
        + (" The risk ratio is that of predicting noisy targets." if noisy else "")
        + f"\n\n{_asked(learner.name, found)}\n",
        _errors(learner.name, found, sizes).markdown(),
        "\n**Squared prediction difference to textbook learners**, per dimension:\n",
        _distances(learner.name, found, list(others), sizes).markdown(),
    ]
    return "\n".join(parts)


def _textbook(task: RegressionTask) -> dict[str, RegressionLearner]:
    """The textbook learners that a card compares with."""
    found: dict[str, RegressionLearner] = {"least squares": LeastSquares()}
    if isinstance(task, LinearRegression) and task.noise_std:
        penalty = (task.noise_std / task.weight_std) ** 2
        found[f"ridge, λ = σ²/τ² = {penalty:.3g}"] = Ridge(penalty)
    return {**found, "averaging": Averaging(), "3 nearest neighbours": NearestNeighbors(3)}


def _asked(name: str, found: Comparison) -> str:
    """The largest distance from what is optimal, from twice as many pairs as dimensions on."""
    dim = found.task.dim
    late = [n for n in found.context_sizes if n >= 2 * dim]
    if not late:
        return f"No context here has 2d = {2 * dim} pairs."
    if found.task.noise_std > 0:
        risk, quiet = found.bayes_ratio(name), found.bayes_ratio(name, noise=False)
        return (
            f"**Largest ratio to Bayes' risk for n ≥ 2d: {_worst(risk, late)}**; "
            f"against the noiseless function: {_worst(quiet, late)}."
        )
    spd = found.spd(name, "least squares").interval()
    return (
        f"**Largest squared prediction difference to least squares, per d, for n ≥ 2d: {_worst(spd, late)}**."
    )


def _worst(found: Interval, late: list[int]) -> str:
    """The largest value over some context sizes (here also their indices)."""
    n = max(late, key=lambda n: float(found.mean[n]))
    low, high = float(found.low[n]), float(found.high[n])
    return f"{float(found.mean[n]):.3g} [{low:.3g}, {high:.3g}] at n = {n}"


def _errors(name: str, found: Comparison, sizes: list[int]) -> Table:
    columns = {
        "error of the model": found.error(name),
        "error of Bayes": found.error(BAYES),
        "excess": found.excess(name),
    }
    cells = {head: curve.interval() for head, curve in columns.items()}
    overall = [cell(curve.overall()) for curve in columns.values()]
    if found.task.noise_std > 0:
        cells["risk / Bayes' risk"] = found.bayes_ratio(name)
        overall.append("")
    rows = [[str(n), *(cell(interval[n]) for interval in cells.values())] for n in sizes]
    return Table(["context pairs", *cells], [*rows, ["mean", *overall]])


def _distances(name: str, found: Comparison, others: list[str], sizes: list[int]) -> Table:
    curves = [found.spd(name, other) for other in others]
    intervals = [curve.interval() for curve in curves]
    rows = [[str(n), *(cell(interval[n]) for interval in intervals)] for n in sizes]
    rows.append(["mean", *(cell(curve.overall()) for curve in curves)])
    return Table(["context pairs", *others], rows)


def shifted(learner: TrainedRegressor, task: RegressionTask, episodes: int, seed: int) -> str:
    """Errors under the published shifts; arguments as of `against_bayes`."""
    judged = {learner.name: learner, "least squares": LeastSquares()}
    found = compare_shifts(judged, task, learner.network.max_points + 1, episodes, seed)
    tables = list(found.tables().items())
    # After d pairs an error is mostly that of the nearly singular contexts among them.
    shown = [tables[0], *tables[-2:]] if len(tables) > 2 else tables
    parts = [
        "## Out of its distribution\n",
        f"Squared error per dimension against the noiseless function, {episodes} episodes of each shift. "
        "“Bayes, no shift” believes in the model's own prior and is what the model should do at best; “Bayes” "
        "knows the shift. More: `iclkit shifts`.\n",
    ]
    parts += [f"{title}:\n\n{table.markdown()}" for title, table in shown]
    return "\n".join(parts)
