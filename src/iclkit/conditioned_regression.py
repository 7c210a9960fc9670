"""A trained regressor with a user's rows as its context: what the command line and scikit-learn see of it.

Shape letters: n rows of the context, d columns, m points, O orders, R contexts that are answered at once.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.errors import UserError
from iclkit.learners.trained_regression import TrainedProbabilisticRegressor, TrainedRegressor
from iclkit.networks import finite
from iclkit.networks.hooks import copy_with_hooks
from iclkit.regression.mixture import GaussianMixture, mixture_of
from iclkit.regression.units import Units

Array = NDArray[np.float64]

# Points that are predicted in one pass, and pairs of contexts that are encoded in one.
_POINTS = 8192
_PAIRS = 131_072
# Orders that are averaged by default; more cost more and add little.
ORDERS = 4


@dataclass(frozen=True)
class Predictions:
    """Distributions of the target at m points, in the data's units.

    Args:
        mixture: A mixture of Gaussians for each point, batch shape [m].
    """

    mixture: GaussianMixture

    @property
    def mean(self) -> Array:
        """Means [m]."""
        return self.mixture.mean.numpy()

    @property
    def std(self) -> Array:
        """Standard deviations [m], noise included."""
        return self.mixture.stddev.numpy()

    @neutral()
    def quantiles(self, levels: Sequence[float]) -> Array:
        """Values [m, levels] that the target stays below with the given probabilities.

        Raises:
            UserError: A probability outside of (0, 1).
        """
        wanted = torch.tensor(levels, dtype=torch.float64)
        if not ((wanted > 0) & (wanted < 1)).all():
            raise UserError(f"probabilities of quantiles must lie between 0 and 1, given {list(levels)}")
        return self.mixture.icdf(wanted).T.numpy()

    @neutral()
    def log_density(self, targets: Array) -> Array:
        """Log densities [m] of one target at each point, in nats, per unit of the target.

        Raises:
            UserError: A target that is NaN.
        """
        if np.isnan(targets).any():
            raise UserError("the targets hold NaN; leave those rows out")
        return self.mixture.log_prob(as_tensor(targets, "the targets", allow="infinite").double()).numpy()

    @neutral()
    def sample(self, size: int, seed: int) -> Array:
        """Draw targets [m, size], independently of each other."""
        weights, parts = self.mixture.mixture_distribution.probs, self.mixture.component_distribution
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(weights, size, replacement=True, generator=generator)
        means, stds = parts.mean.gather(-1, chosen), parts.stddev.gather(-1, chosen)
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype)
        return (means + stds * noise).numpy()


class ConditionedRegression:
    """The regression that frozen weights see behind one context; arrays in and out, in the data's own units.

    Everything is computed in double precision: what is said of one point does not depend on those beside it.
    A column that is constant carries nothing and is left out.

    Args:
        learner: The trained model.
        x: Inputs of the context, [n, d], finite.
        y: Its targets, [n].
        target: Name of the target, for messages.
        allow_longer: Take more rows than the model was trained on, with a warning. If not, each order (see
            below) takes as many as it was trained on, drawn at random.
        orders: What a causal network returns depends a little on the order of rows and columns. Average its
            densities over so many orders: of the rows the given one, and random ones; of the columns one that
            their values decide, and random ones of that, so that the same columns in another order give the
            same answer. The mean density of several is also the better one: by Jensen's inequality its
            log-likelihood is above the mean of theirs. 1 takes rows and columns as they are given.
        seed: Seed of the orders.

    Raises:
        UserError: Rows that the model cannot be conditioned on.
    """

    @neutral()
    def __init__(
        self,
        learner: TrainedRegressor,
        x: Array,
        y: Array,
        target: str = "y",
        *,
        allow_longer: bool = False,
        orders: int = ORDERS,
        seed: int = 0,
    ) -> None:
        self._learner = _in_double(check_rows(learner, x, y, target), allow_longer and len(x) > _limit(learner))
        if orders < 1:
            raise UserError(f"orders must be at least 1, given {orders}")
        longest = len(x) if allow_longer else min(len(x), _limit(learner))
        if longest > _limit(learner):
            warnings.warn(f"{_too_long(learner, len(x))}: nothing is known of its quality beyond", stacklevel=2)
        self._longest = longest
        self._kept = np.flatnonzero((x != x[:1]).any(0))
        x = x[:, self._kept]
        # A context of some of the rows may be constant where all are not. Its scale is then that of all rows.
        inputs, targets = as_tensor(x, "x"), as_tensor(y, "y")
        rows = len(x) if learner.standardise else 0  # without rows there are no units
        self._units = Units.fit(inputs[None], targets[None], torch.tensor([rows]))
        self._x, self._y = self._units.inputs(inputs[None])[0], self._units.targets(targets[None])[0]
        generator = torch.Generator().manual_seed(seed)
        self._rows = _orders(orders, len(x), generator, first=longest == len(x))
        self._columns = _orders(orders, x.shape[1], generator)
        if orders > 1:
            self._columns = _by_values(self._x, self._y)[self._columns]

    @neutral()
    def predict(self, points: Array) -> Predictions:
        """The distributions of the target at points [m, d] after the whole context."""
        rows = self._rows[:, None, : self._longest]
        parts = self._inputs(points[:, self._kept]).split(_POINTS)
        return self._combined([self._answer(rows, part[None]) for part in parts])

    @neutral()
    def leave_one_out(self) -> Predictions:
        """The distribution of each row's target after the other rows.

        Raises:
            UserError: Fewer than three rows.
        """
        count = len(self._x)
        if count < 3:
            raise UserError(f"{count} rows are too few to leave one out; give at least 3, or points to predict")
        most = min(count - 1, self._longest)
        size = max(1, _PAIRS // (most * len(self._rows)))
        parts = []
        for chosen in torch.arange(count).split(size):
            others = self._rows[:, None, :].expand(-1, len(chosen), -1)
            others = others[others != chosen[:, None]].view(len(self._rows), len(chosen), count - 1)
            parts.append(self._answer(others[..., :most], self._x[chosen][:, None]))
        return self._combined(parts)

    def _inputs(self, x: Array) -> Float[Tensor, "m d"]:
        return finite(self._units.inputs(as_tensor(x, "x")[None])[0])

    def _answer(self, rows: Int[Tensor, "O R n"], queries: Float[Tensor, "R K d"]) -> GaussianMixture:
        """What the model says at K queries after each of R contexts in O orders; batch shape [R K]."""
        orders, contexts, _ = rows.shape
        columns = self._columns[:, None, None, :]
        x, y = self._x[rows[..., None], columns], self._y[rows]
        asked = queries.expand(orders, -1, -1, -1).gather(
            -1, columns.expand(-1, contexts, queries.shape[1], -1)
        )
        # A column that does not vary in a context has no meaning there.
        asked = torch.where((x == x[:, :, :1]).all(2, keepdim=True), x[:, :, :1], asked)
        with torch.no_grad():
            said = self._learner.distribution_queries(
                x.flatten(0, 1), y.flatten(0, 1), asked.flatten(0, 1)[:, None], [rows.shape[-1]]
            )
        return _averaged(said, orders)

    def _combined(self, parts: Sequence[GaussianMixture]) -> Predictions:
        """All points, in the data's units."""
        mean, std = self._units.y_mean, self._units.y_std
        logits = torch.cat([part.mixture_distribution.logits for part in parts])
        means, stds = (
            torch.cat([getattr(part.component_distribution, name) for part in parts])
            for name in ("mean", "stddev")
        )
        return Predictions(mixture_of(logits, mean + std * means, std * stds))


def check_rows(
    learner: TrainedRegressor, x: Array, y: Array, target: str = "y"
) -> TrainedProbabilisticRegressor:
    """Whether a model can be conditioned on rows; arguments and errors as of `ConditionedRegression`."""
    name, (rows, columns) = learner.name or "the model", x.shape
    if not isinstance(learner, TrainedProbabilisticRegressor):
        raise UserError(f"{name} predicts numbers and no densities; name a model of densities: general")
    dim = learner.network.dim
    if columns > dim or (columns != dim and not learner.pads):
        takes = f"up to {dim}" if learner.pads else f"{dim}"
        raise UserError(f"there are {columns} columns of inputs, {name} takes {takes}; choose columns")
    if rows < 2:
        raise UserError(f"{name} needs at least 2 rows to know the units of the data, given {rows}")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise UserError("the data hold NaN or infinite values; leave those rows out")
    if (y == y[0]).all():
        raise UserError(f"the target {target!r} is constant (always {y[0]:g}): there is nothing to predict")
    if (x == x[:1]).all():
        raise UserError("every column of inputs is constant: there is nothing to predict from")
    return learner


def _limit(learner: TrainedRegressor) -> int:
    return learner.network.max_points


def _too_long(learner: TrainedRegressor, rows: int) -> str:
    return f"the context has {rows} rows, {learner.name or 'the model'} was trained on up to {_limit(learner)}"


def _in_double(learner: TrainedProbabilisticRegressor, longer: bool) -> TrainedProbabilisticRegressor:
    network = copy_with_hooks(learner.network).double()
    return dataclasses.replace(learner, network=network, allow_longer=longer)


def _orders(count: int, size: int, generator: torch.Generator, first: bool = True) -> Int[Tensor, "O size"]:
    """Random orders of so many things; the first is the given one, unless that is to be random too."""
    drawn = torch.rand(count, size, generator=generator, dtype=torch.float64).argsort(-1)
    if first:
        drawn[0] = torch.arange(size)
    return drawn


def _by_values(x: Float[Tensor, "n d"], y: Float[Tensor, " n"]) -> Int[Tensor, " d"]:
    """An order of the columns that does not depend on the given one: by kurtosis, then by correlation with y.

    Neither changes with a column's units or sign. The targets decide between equals alone (two columns of zeros
    and ones, say), so a row that is left out is not told by the order of the columns.
    """
    centred = x - x.mean(0)
    centred = centred / centred.abs().amax(0)
    variance = centred.square().mean(0)
    kurtosis = centred.pow(4).mean(0) / variance.square()
    slope = ((centred * (y - y.mean())[:, None]).mean(0) / variance.sqrt()).abs()
    # Rounded: sums in another order of the rows must not decide.
    keys = [(float(f"{k:.9g}"), float(f"{s:.9g}")) for k, s in zip(kurtosis, slope, strict=True)]
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))


def _averaged(said: GaussianMixture, orders: int) -> GaussianMixture:
    """The mean of the densities of batch shape [O R, 1, K] over the orders, as one of batch shape [R K]."""

    def merged(part: Tensor) -> Tensor:  # [O R, 1, K, components] -> [R K, O components]
        part = part[:, 0].unflatten(0, (orders, -1))
        return part.permute(1, 2, 0, 3).flatten(0, 1).flatten(1)

    parts = said.component_distribution
    return mixture_of(merged(said.mixture_distribution.logits), merged(parts.mean), merged(parts.stddev))
