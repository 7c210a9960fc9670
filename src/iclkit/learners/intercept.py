"""Linear learners with an intercept: on centred pairs, whose means are added back, or on inputs (1, x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.averaging import Averaging, Zero
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.prefixes import sums_before
from iclkit.learners.regression import LinearLearner, RegressionLearner
from iclkit.learners.ridge import Ridge


@dataclass(frozen=True)
class WithIntercept(RegressionLearner):
    """ŷ = ȳ + wᵀ(x − x̄) with the means of the context and w from its centred pairs; 0 before any pair.

    For least squares and ridge regression that is the fit with an intercept on which there is no penalty. For
    one with a penalty take `OnFeatures(Ridge(0.1), with_one)`.

    Args:
        learner: What finds w: `Zero()` (then it is the mean of the targets), `Averaging()`, `LeastSquares()` or
            `Ridge(penalty)`.

    Raises:
        UserError: Another learner.
    """

    learner: LinearLearner

    def __post_init__(self) -> None:
        if not isinstance(self.learner, Zero | Averaging | LeastSquares | Ridge):
            raise UserError(
                "an intercept goes with Zero(), Averaging(), LeastSquares() or Ridge(penalty), given "
                f"{type(self.learner).__name__}"
            )

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return self._predict_queries(x, y, x[:, :, None], list(range(x.shape[1])))[..., 0]

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        seen = max(prefixes)
        if seen == 0:
            return torch.zeros_like(queries[..., 0])
        # Counted from the first pair, so that an offset of all takes no digits.
        kind, first, level = x.dtype, x[:, :1].double(), y[:, :1].double()
        x, y, queries = (
            x[:, :seen].double() - first,
            y[:, :seen].double() - level,
            queries.double() - first[:, None],
        )
        counts = torch.tensor(prefixes, device=x.device)
        divisor = counts.clamp(min=1).to(x)
        mean_x, mean_y = sums_before(x, prefixes) / divisor[:, None], sums_before(y, prefixes) / divisor
        weights = self.learner._weights(_contrasts(x), _contrasts(y), [max(n - 1, 0) for n in prefixes])
        if isinstance(self.learner, Averaging):
            weights = weights * ((divisor - 1) / divisor)[:, None]  # a mean over n, not over the contrasts
        rest = ((queries - mean_x[:, :, None]) * weights[:, :, None]).sum(-1)
        answers = level[..., None] + mean_y[..., None] + rest
        return torch.where((counts > 0)[:, None], answers, 0.0).to(kind)


def _contrasts(values: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B M *rest"]:
    """Each but the first less the mean of those before it, with k of them times √(k/(k + 1)) (Helmert).

    The rows are orthonormal and orthogonal to ones, so the first n − 1 have the sums of squares and products of
    the first n values about their mean: to fit the ones is to fit the others with an intercept, at every n.
    """
    count = values.shape[1]
    k = torch.arange(1, count, dtype=values.dtype, device=values.device).view(-1, *[1] * (values.ndim - 2))
    before = sums_before(values, list(range(1, count))) / k if count > 1 else values[:, 1:]
    return (values[:, 1:] - before) * (k / (k + 1)).sqrt()


def with_one(x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points e"]:
    """(1, x): for `OnFeatures`, whose learner then has an intercept like any other weight."""
    return torch.cat([torch.ones_like(x[..., :1]), x], -1)
