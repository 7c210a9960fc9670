"""A learner that sees features of the inputs in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.regression import ProbabilisticLearner, RegressionLearner


@dataclass(frozen=True)
class OnFeatures(RegressionLearner):
    """Another learner on φ(x): linear regression on polynomials, say.

    Args:
        learner: The other learner. For one with a distribution see `ProbabilisticOnFeatures`.
        features: φ, from [*points, d] to [*points, F].
        dim: The dimension of x; None if φ takes any.

    Raises:
        UserError: Features that cannot be called.
    """

    learner: RegressionLearner
    features: Callable[[Tensor], Tensor]
    dim: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.features):
            raise UserError(f"features must be a function of x, given {type(self.features).__name__}")

    @property
    def device(self) -> torch.device | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the other learner's arguments must be."""
        return self.learner.device

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return self.learner.predict(self.features(x), y)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        return self.learner.predict_queries(self.features(x), y, self.features(queries), prefixes)


@dataclass(frozen=True)
class ProbabilisticOnFeatures(OnFeatures, ProbabilisticLearner):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`OnFeatures` for a learner that knows how sure it is.

    Args:
        learner: The other learner, a `ProbabilisticLearner`.
        features: φ, from [*points, d] to [*points, F].
        dim: The dimension of x; None if φ takes any.

    Raises:
        UserError: Features that cannot be called, or a learner without a distribution.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.learner, ProbabilisticLearner):
            raise UserError(f"{type(self.learner).__name__} gives no distribution; take OnFeatures")

    def _distribution(self, x: Tensor, y: Tensor) -> torch.distributions.Distribution:
        assert isinstance(self.learner, ProbabilisticLearner)
        return self.learner.distribution(self.features(x), y)
