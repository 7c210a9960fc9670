"""A learner that sees features of the inputs in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        UserError: Features that cannot be called; later, when it predicts, features that are not one row of
            numbers for each point, by itself.
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
        return self.learner.predict(self._seen(x), y)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        return self.learner.predict_queries(self._seen(x), y, self._seen(queries), prefixes)

    def _seen(self, x: Tensor) -> Tensor:
        """φ(x), after checking that it is one row of features for each point, whatever points are beside it."""
        found: Any = self.features(x)
        if not isinstance(found, Tensor) or found.shape[:-1] != x.shape[:-1] or not found.is_floating_point():
            given = (
                f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            )
            raise UserError(
                f"features must be a floating-point tensor, {[*x.shape[:-1], 'F']} for points {list(x.shape)}, "
                f"given {given}"
            )
        first = tuple(slice(0, 1) for _ in x.shape[:-1])
        alone, beside = self.features(x[first]), found[first]
        size = beside.detach().abs().nan_to_num()
        margin = 1e-6 + (1e-3 * float(size.amax()) if size.numel() else 0.0)
        alike = alone.shape == beside.shape
        if not alike or not torch.allclose(alone, beside, rtol=0, atol=margin, equal_nan=True):
            raise UserError("the features of a point change with the points beside it; make them of each alone")
        return found


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
        return self.learner.distribution(self._seen(x), y)
