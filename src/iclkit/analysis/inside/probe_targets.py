"""What probes look for: numbers that an algorithm would compute on the way from a context to its answer.

Shape letters: E episodes, N points, d dimension, P prefixes, D entries of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.learners import LeastSquares, bayes
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.prefixes import sums_before
from iclkit.tasks import DensityTask, RegressionTask

Values = Float[Tensor, "E P D"]


def _moments(x: Tensor, y: Tensor, prefixes: list[int]) -> Values:
    return sums_before(x * y[..., None], prefixes)


def _least_squares(x: Tensor, y: Tensor, prefixes: list[int]) -> Values:
    return LeastSquares().weights(x, y, prefixes)


REGRESSION_TARGETS: dict[str, tuple[str, Callable[[Tensor, Tensor, list[int]], Values]]] = {
    "moments": ("Xᵀy", _moments),
    "least_squares": ("w of least squares (of smallest norm)", _least_squares),
}
"""By name: what it is, and how it follows from the pairs before each prefix."""

DENSITY_TARGETS = {
    "component_means": "posterior means of the components",
    "component_count": "posterior mean number of components",
}
"""By name: what it is (see `MixtureFilter.components`). The exact reference of the task computes it."""

TITLES = {name: title for name, (title, _) in REGRESSION_TARGETS.items()} | DENSITY_TARGETS


def check_targets(task: RegressionTask | DensityTask, targets: Sequence[str] | None) -> tuple[str, ...]:
    """The targets to probe for; all that the task provides if None.

    Raises:
        UserError: A name that nobody knows, or a target that the task cannot provide.
    """
    provided: Sequence[str] = list(REGRESSION_TARGETS)
    if isinstance(task, DensityTask):
        provided = list(DENSITY_TARGETS) if isinstance(_reference(task), MixtureFilter) else []
    if not provided:
        raise UserError(
            f"{type(task).__name__} has no targets to probe for: no exact reference knows its components; "
            "give GaussianMixtures or ConjugateMixtures"
        )
    chosen = list(provided) if targets is None else list(dict.fromkeys(targets))
    if not chosen:
        raise UserError(f"targets names none; give at least one of {', '.join(provided)}")
    for name in chosen:
        if name not in TITLES:
            raise unknown("target", name, provided)
        if name not in provided:
            raise UserError(
                f"{type(task).__name__} cannot provide the target {name} (accepted: {', '.join(provided)})"
            )
    return tuple(chosen)


def target_values(
    task: RegressionTask | DensityTask,
    targets: Sequence[str],
    x: Float[Tensor, "E N d"],
    y: Float[Tensor, "E N"] | None,
    prefixes: list[int],
) -> dict[str, Values]:
    """Every target after every prefix; arguments as `check_targets` has checked them."""
    if y is not None:
        x, y = x.double(), y.double()
        return {name: REGRESSION_TARGETS[name][1](x, y, prefixes) for name in targets}
    reference = _reference(task)
    assert isinstance(reference, MixtureFilter)  # as `check_targets` has seen
    means, counts = reference.components(x[:, : max(prefixes)], prefixes)
    both = {"component_means": means.flatten(2), "component_count": counts[..., None]}
    return {name: both[name] for name in targets}


def _reference(task: RegressionTask | DensityTask) -> object:
    try:
        return bayes(task)
    except UserError:
        return None


def scaled(values: Values, training: int, what: Sequence[str]) -> tuple[Values, Float[Tensor, " P"]]:
    """Targets without their mean over the training episodes, over their root mean square there.

    Returns:
        The targets in these units, and their mean square on the other episodes, around the mean there.

    Raises:
        UserError: A target that is the same in all episodes.
    """
    values = values.double()
    values = values - values[:training].mean(0)
    size = values[:training].square().mean((0, 2)).sqrt()
    for place, text in enumerate(what):
        if not size[place] > 1e-9:
            raise UserError(f"{text} is the same in all episodes, so there is nothing to find; take another")
    values = values / size[:, None]
    rest = values[training:]
    return values.float(), (rest - rest.mean(0)).square().mean((0, 2))
