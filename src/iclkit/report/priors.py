"""Task distributions in words, as model cards say them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iclkit.tasks import (
    BroadMixtures,
    DecisionTrees,
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

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def prior_in_words(task: Task) -> str:
    """What a task's datasets look like."""
    for kind in type(task).__mro__:
        if kind in _WORDS:
            return _WORDS[kind](task)
    return repr(task)


def _gaussian_mixtures(task: GaussianMixtures) -> str:
    return (
        f"equally weighted mixtures of {task.components} isotropic Gaussians of standard deviation "
        f"{task.std:g} in {dimensions(task.dim)}, with means drawn from N(0, {task.mean_std:g}² I)"
    )


def _broad_mixtures(task: BroadMixtures) -> str:
    return (
        f"mixtures of 1 to {task.max_components} Gaussians in {dimensions(task.dim)} with random weights, "
        "rotations and axes, from well separated to strongly overlapping, each data set standardised by "
        "its own moments up to a random error"
    )


def _linear(task: LinearRegression) -> str:
    inputs = (
        _NORMAL
        if task.inputs_law == "normal"
        else f"coordinates of x from U(-{task.half_width:g}, {task.half_width:g})"
    )
    return (
        f"linear functions wᵀx in {dimensions(task.dim)}, w ~ N(0, {_variance(task.weight_std)}I), {inputs}, "
        f"{_noise(task.noise_std)}"
    )


def _sparse(task: SparseLinearRegression) -> str:
    return (
        f"linear functions wᵀx in {dimensions(task.dim)}, of whose weights a random {_number(task.nonzero)} "
        f"{'is' if task.nonzero == 1 else 'are'} from N(0, 1) and the others 0, {_NORMAL}, "
        f"{_noise(task.noise_std)}"
    )


def _signs(task: SignClassification) -> str:
    return f"signs of linear functions wᵀx in {dimensions(task.dim)}, w ~ N(0, I), {_NORMAL}"


def _pool(task: LinearPool) -> str:
    return (
        f"a fixed pool of {task.size:,} linear functions wᵀx in {dimensions(task.dim)}, drawn once with "
        f"w ~ N(0, I) (seed {task.seed}), {_NORMAL}, {_noise(task.noise_std)}"
    )


def _quadratic(task: QuadraticRegression) -> str:
    return (
        f"sums of squares Σ w_i x_i² / √3 in {dimensions(task.dim)}, w ~ N(0, I), {_NORMAL}, "
        f"{_noise(task.noise_std)}"
    )


def _polynomials(task: Polynomials) -> str:
    kind = "trigonometric polynomials" if task.basis == "fourier" else "sums of Chebyshev polynomials"
    return (
        f"{kind} of degree {task.degree} with normal coefficients, x ~ U(-1, 1), variance 1, "
        f"{_noise(task.noise_std)}"
    )


def _sines(task: SineCurves) -> str:
    return (
        f"sine curves of random phase with amplitudes from U({task.least:g}, {task.most:g}), "
        f"x ~ U(-{task.half_width:g}, {task.half_width:g}), {_noise(task.noise_std)}"
    )


def _relu(task: ReluNetworks) -> str:
    return (
        f"two-layer ReLU networks of {task.hidden} hidden units with normal weights in {dimensions(task.dim)}, "
        f"{_NORMAL}, {_noise(task.noise_std)}"
    )


def _trees(task: DecisionTrees) -> str:
    return (
        f"decision trees of depth {task.depth} over the signs of random coordinates in {dimensions(task.dim)}, "
        f"leaves from N(0, 1), {_NORMAL}, {_noise(task.noise_std)}"
    )


def _processes(task: GaussianProcesses) -> str:
    kernels = {"rbf": "a squared exponential", "matern32": "a Matérn 3/2", "matern52": "a Matérn 5/2"}
    inputs = _NORMAL if task.inputs_law == "normal" else f"x from ±{task.half_width:g} in every coordinate"
    kernel = kernels.get(task.kernel, f"a {task.kernel}")
    return (
        f"draws of Gaussian processes in {dimensions(task.dim)} with {kernel} covariance of length "
        f"scale {task.length_scale:g} and variance {task.variance:g}, {inputs}, {_noise(task.noise_std)}"
    )


def _mixture(task: TaskMixture) -> str:
    parts = [prior_in_words(member) for member in task.tasks]
    if task.weights is None:
        return f"each episode from one of {len(parts)} kinds, equally often: {'; '.join(parts)}"
    shares = [f"{100 * weight / sum(task.weights):.0f} %" for weight in task.weights]
    told = "; ".join(f"{share} {part}" for share, part in zip(shares, parts, strict=True))
    return f"each episode from one of {len(parts)} kinds: {told}"


def _variable(task: VariableDimension) -> str:
    mixed = ", correlated at random" if task.correlated else ""
    return f"{prior_in_words(task.task)}, seen in {task.least} to {task.dim} columns{mixed}"


def _levels(task: NoiseLevels) -> str:
    return (
        f"{prior_in_words(task.task)}, and noise whose standard deviation each episode draws, log-uniform from "
        f"{task.least:.2g} to {task.most:.2g}"
    )


def _scaled(task: Scaled) -> str:
    factors = [("inputs", task.inputs_factor), ("function values", task.targets_factor)]
    times = " and ".join(f"{name} times {factor:.3g}" for name, factor in factors if factor != 1)
    return f"{prior_in_words(task.task)}; {times or 'unscaled'}"


def _around(words: str) -> Callable[[Any], str]:
    return lambda task: f"{prior_in_words(task.task)}; {words.format(task=task)}"


def dimensions(count: int) -> str:
    """A dimension with its noun."""
    return f"{count} dimension{'s' * (count > 1)}"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _noise(std: float) -> str:
    return f"noise N(0, {std**2:.3g})" if std else "no noise"


def _variance(std: float) -> str:
    """A variance as a factor of what follows; 1 goes without saying."""
    return "" if std == 1 else f"{std**2:.3g} "


_NORMAL = "x ~ N(0, I)"
# A new task gets its line here.
_WORDS: dict[type[Task], Callable[[Any], str]] = {
    GaussianMixtures: _gaussian_mixtures,
    BroadMixtures: _broad_mixtures,
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
    TaskMixture: _mixture,
    VariableDimension: _variable,
    NoiseLevels: _levels,
    Scaled: _scaled,
    Padded: _around("further columns, up to {task.size}, are 0"),
    Standardised: _around("every episode in its own standard units"),
    Skewed: _around("inputs of a skewed covariance"),
    HalfSubspace: _around("inputs from a random subspace of half the dimension"),
    DiagonalCovariance: _around("inputs of a random diagonal covariance"),
    LabelNoise: _around("further noise of standard deviation {task.std:g}"),
    RandomOrthants: _around("context and query each in a random orthant"),
    OrthogonalQueries: _around("queries orthogonal to the context"),
    RepeatedQueries: _around("queries that are points of the context"),
}
