"""Task distributions in words, as model cards say them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iclkit.tasks import (
    BroadMixtures,
    DecisionTrees,
    DensityTask,
    DiagonalCovariance,
    GaussianMixtures,
    GaussianProcesses,
    HalfSubspace,
    LabelNoise,
    LinearPool,
    LinearRegression,
    NoiseLevels,
    OrthogonalQueries,
    Padded,
    Polynomials,
    QuadraticRegression,
    RandomOrthants,
    RegressionTask,
    ReluNetworks,
    RepeatedQueries,
    Scaled,
    SignClassification,
    SineCurves,
    Skewed,
    SparseLinearRegression,
    Standardised,
    Task,
    TaskMixture,
    VariableDimension,
)
from iclkit.tasks.shifts import Around

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NORMAL = "x ~ N(0, I)"


def prior_in_words(task: Task) -> str:
    """What a task's datasets look like."""
    return ", ".join(_clauses(task))


def _clauses(task: Task) -> list[str]:
    """What a task is, and what holds of it besides: noise last."""
    if not isinstance(task, RegressionTask):
        return _told(_DENSITIES, task) or [repr(task)]
    if isinstance(task, TaskMixture):
        return [_mixture(task)]
    functions = _functions(task)
    # Classes have no noise: what would it be?
    return functions if isinstance(task, SignClassification) else [*functions, _noise(task)]


def _functions(task: RegressionTask) -> list[str]:
    """The functions and inputs of a task, and what is around it but for noise."""
    found = _told(_FUNCTIONS, task)
    if found:
        return found
    if isinstance(task, Around):
        inner = [_mixture(task.task)] if isinstance(task.task, TaskMixture) else _functions(task.task)
        return [*inner, *(_told(_AROUND, task) or [])]
    return [repr(task)]


def _told(words: dict[type[Any], Callable[[Any], list[str]]], task: Task) -> list[str] | None:
    return next((words[kind](task) for kind in type(task).__mro__ if kind in words), None)


def _noise(task: RegressionTask) -> str:
    if isinstance(task, NoiseLevels):
        more = "" if not task.task.noise_std else f" beside {_noise(task.task)}"
        return f"noise of a standard deviation from {task.least:.2g} to {task.most:.2g} (log-uniform){more}"
    if isinstance(task, Around) and not isinstance(task, LabelNoise):
        return _noise(task.task)
    return f"noise N(0, {task.noise_std**2:.3g})" if task.noise_std else "no noise"


def _mixture(task: TaskMixture) -> str:
    """All kinds; what holds of every one is said once."""
    each = [_clauses(member) for member in task.tasks]
    common = [clause for clause in each[0] if all(clause in clauses for clauses in each)]
    parts = [", ".join(clause for clause in clauses if clause not in common) for clauses in each]
    often = ", equally often"
    if task.weights is not None:
        often = ""
        shares = [f"{100 * weight / sum(task.weights):.0f} %" for weight in task.weights]
        parts = [f"{share} {part}" for share, part in zip(shares, parts, strict=True)]
    always = f", always {', '.join(common)}" if common else ""
    return f"each episode from one of {len(parts)} kinds{often}{always}: {'; '.join(parts)}"


def _gaussian_mixtures(task: GaussianMixtures) -> list[str]:
    return [
        f"equally weighted mixtures of {task.components} isotropic Gaussians of standard deviation "
        f"{task.std:g} in {_dimensions(task)}, with means drawn from N(0, {task.mean_std:g}² I)"
    ]


def _broad_mixtures(task: BroadMixtures) -> list[str]:
    return [
        f"mixtures of 1 to {task.max_components} Gaussians in {_dimensions(task)} with random weights, "
        "rotations and axes, from well separated to strongly overlapping, each data set standardised by "
        "its own moments up to a random error"
    ]


def _linear(task: LinearRegression) -> list[str]:
    variance = "" if task.weight_std == 1 else f"{task.weight_std**2:.3g} "
    inputs = f"coordinates of x from U(-{task.half_width:g}, {task.half_width:g})"
    return [
        f"linear functions wᵀx in {_dimensions(task)}",
        f"w ~ N(0, {variance}I)",
        _NORMAL if task.inputs_law == "normal" else inputs,
    ]


def _sparse(task: SparseLinearRegression) -> list[str]:
    are = f"{_number(task.nonzero)} {'is' if task.nonzero == 1 else 'are'}"
    kind = f"linear functions wᵀx in {_dimensions(task)}"
    return [f"{kind}, of whose weights a random {are} from N(0, 1) and the others 0", _NORMAL]


def _signs(task: SignClassification) -> list[str]:
    return [f"signs of linear functions wᵀx in {_dimensions(task)}", "w ~ N(0, I)", _NORMAL]


def _pool(task: LinearPool) -> list[str]:
    kind = f"linear functions wᵀx in {_dimensions(task)}"
    return [f"a fixed pool of {task.size:,} {kind}, drawn once with w ~ N(0, I) (seed {task.seed})", _NORMAL]


def _quadratic(task: QuadraticRegression) -> list[str]:
    return [f"sums of squares Σ w_i x_i² / √3 in {_dimensions(task)}", "w ~ N(0, I)", _NORMAL]


def _polynomials(task: Polynomials) -> list[str]:
    kind = "trigonometric polynomials" if task.basis == "fourier" else "sums of Chebyshev polynomials"
    return [f"{kind} of degree {task.degree} with normal coefficients, of variance 1", "x ~ U(-1, 1)"]


def _sines(task: SineCurves) -> list[str]:
    width = f"{task.half_width:g}"
    return [
        f"sine curves of random phase with amplitudes from U({task.least:g}, {task.most:g})",
        f"x ~ U(-{width}, {width})",
    ]


def _relu(task: ReluNetworks) -> list[str]:
    kind = f"two-layer ReLU networks of {task.hidden} hidden units with normal weights"
    return [f"{kind} in {_dimensions(task)}", _NORMAL]


def _trees(task: DecisionTrees) -> list[str]:
    kind = f"decision trees of depth {task.depth} over the signs of random coordinates"
    return [f"{kind} in {_dimensions(task)}, leaves from N(0, 1)", _NORMAL]


def _processes(task: GaussianProcesses) -> list[str]:
    kernels = {"rbf": "a squared exponential", "matern32": "a Matérn 3/2", "matern52": "a Matérn 5/2"}
    kernel = kernels.get(task.kernel, f"a {task.kernel}")
    inputs = f"coordinates of x from U(-{task.half_width:g}, {task.half_width:g})"
    return [
        f"draws of Gaussian processes in {_dimensions(task)} with {kernel} covariance of length scale "
        f"{task.length_scale:g} and variance {task.variance:g}",
        _NORMAL if task.inputs_law == "normal" else inputs,
    ]


def _variable(task: VariableDimension) -> list[str]:
    return [f"in {task.least} to {task.dim} columns{' correlated at random' if task.correlated else ''}"]


def _scaled(task: Scaled) -> list[str]:
    factors = [("inputs", task.inputs_factor), ("function values", task.targets_factor)]
    return [f"{name} times {factor:.3g}" for name, factor in factors if factor != 1]


def _dimensions(task: DensityTask | RegressionTask) -> str:
    return f"{task.dim} dimension{'s' * (task.dim > 1)}"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


# A new task gets its line in one of these.
_DENSITIES: dict[type[Any], Callable[[Any], list[str]]] = {
    GaussianMixtures: _gaussian_mixtures,
    BroadMixtures: _broad_mixtures,
}
_FUNCTIONS: dict[type[Any], Callable[[Any], list[str]]] = {
    LinearRegression: _linear,
    SparseLinearRegression: _sparse,
    SignClassification: _signs,
    LinearPool: _pool,
    QuadraticRegression: _quadratic,
    Polynomials: _polynomials,
    SineCurves: _sines,
    ReluNetworks: _relu,
    DecisionTrees: _trees,
    GaussianProcesses: _processes,
}
_AROUND: dict[type[Any], Callable[[Any], list[str]]] = {
    VariableDimension: _variable,
    Scaled: _scaled,
    Padded: lambda task: [f"further columns, up to {task.size}, are 0"],
    Standardised: lambda _: ["every episode in its own standard units"],
    Skewed: lambda _: ["inputs of a skewed covariance"],
    HalfSubspace: lambda _: ["inputs from a random subspace of half the dimension"],
    DiagonalCovariance: lambda _: ["inputs of a diagonal covariance"],
    RandomOrthants: lambda _: ["context and query each in a random orthant"],
    OrthogonalQueries: lambda _: ["queries orthogonal to the context"],
    RepeatedQueries: lambda _: ["queries that are points of the context"],
}
