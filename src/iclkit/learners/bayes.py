"""`bayes(task)`: the exact reference learner of a task distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner
from iclkit.learners.conjugate import DirichletWeights, KnownIsotropic, NormalInverseWishart, UniformWeights
from iclkit.learners.latent_smc import LatentSMC
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.pool import PoolBayes
from iclkit.learners.regression import RegressionLearner
from iclkit.learners.regression_bayes import regression_bayes
from iclkit.tasks import (
    BroadMixtures,
    ConjugateMixtures,
    DensityTask,
    FinitePool,
    GaussianMixtures,
    RegressionTask,
)


def _gaussian_mixtures(task: GaussianMixtures, **options: Any) -> DensityLearner:
    return MixtureFilter(
        task.dim, UniformWeights(task.components), KnownIsotropic(task.mean_std, task.std), **options
    )


def _conjugate_mixtures(task: ConjugateMixtures, **options: Any) -> DensityLearner:
    assignments = DirichletWeights(task.max_components, task.concentration)
    return MixtureFilter(
        task.dim, assignments, NormalInverseWishart(task.strength, task.dof, task.scale), **options
    )


# Tasks know no learners; a new task with a known reference gets its line here.
REFERENCES: dict[type[DensityTask], Callable[..., DensityLearner]] = {
    GaussianMixtures: _gaussian_mixtures,
    ConjugateMixtures: _conjugate_mixtures,
    BroadMixtures: LatentSMC,
    FinitePool: PoolBayes,
}


@overload
def bayes(task: DensityTask, **options: Any) -> DensityLearner: ...
@overload
def bayes(task: RegressionTask) -> RegressionLearner: ...


def bayes(task: DensityTask | RegressionTask, **options: Any) -> DensityLearner | RegressionLearner:
    """The learner that knows the task distribution and conditions on the context by Bayes' rule.

    Args:
        task: The task distribution.
        **options: Passed to the reference: `particles` and `seed` for the particle methods.

    Raises:
        UserError: No reference is known for the task, or it has no such option.
    """
    if isinstance(task, RegressionTask):
        if options:
            raise UserError(f"references of regression tasks have no options, given {', '.join(options)}")
        return regression_bayes(task)
    for kind in type(task).__mro__:
        if kind in REFERENCES:
            try:
                return REFERENCES[kind](task, **options)
            except TypeError as error:
                raise UserError(f"the reference of {type(task).__name__} has no such option: {error}") from None
    known = ", ".join(sorted(kind.__name__ for kind in REFERENCES))
    raise UserError(
        f"no exact reference is known for {type(task).__name__} (known: {known}); "
        "compare with the classical learners instead"
    )
