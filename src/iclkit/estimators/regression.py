"""Regression in context, as scikit-learn sees it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from iclkit.arrays import as_tensor
from iclkit.conditioned_regression import ORDERS, ConditionedRegression, Predictions, check_rows
from iclkit.errors import UserError
from iclkit.estimators.labels import TEXT, refuse_labels
from iclkit.learners.trained_regression import TrainedRegressor
from iclkit.training.models import load

Array = NDArray[np.float64]
_SEEDS = np.iinfo(np.int32).max  # seeds lie below


class InContextRegression(RegressorMixin, BaseEstimator):
    """Regression in context: a regressor with a density of the target, and nothing to tune.

    `fit` only keeps the data: they are the context of a model whose weights stay frozen. The shipped model
    standardises features and target by the context's own moments, so no scaling is needed before (and none
    hurts). Constant features carry nothing and are left out. Samples have no weights.

    Parameters
    ----------
    model : str, path or `TrainedRegressor`, default="general"
        The trained model: name of a shipped one, its folder or a training run's, or the loaded model.
    orders : int, default=4
        Average the densities over so many orders of samples and features, the given one and random ones: what
        a causal network says depends a little on them, and their mean is better than each.
    max_context : {"subsample", "error"}, default="subsample"
        What `fit` does with more samples than the model was trained on: condition on a random subset of as many
        as it was (each order on its own, so that more orders use more of the samples), with a warning; or
        refuse.
    random_state : int, RandomState instance or None, default=0
        Draws the subset and the orders.

    Attributes
    ----------
    X_context_ : ndarray of shape (n_samples, n_features)
        The samples that the model is conditioned on.
    y_context_ : ndarray of shape (n_samples,)
        Their targets.
    model_ : TrainedRegressor
        The model in use.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if `X` had any.

    Examples
    --------
    >>> from iclkit.estimators import InContextRegression
    >>> regression = InContextRegression().fit(X, y)                      # doctest: +SKIP
    >>> mean, std = regression.predict(X_new, return_std=True)            # doctest: +SKIP
    >>> regression.predict_quantiles(X_new, [0.05, 0.5, 0.95])            # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | TrainedRegressor = "general",
        *,
        orders: int = ORDERS,
        max_context: str = "subsample",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.orders = orders
        self.max_context = max_context
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> InContextRegression:
        """Keep the samples as the model's context.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At most as many features as the model takes.
        y : array-like of shape (n_samples,)
            Targets, not all the same.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Data that the model cannot be conditioned on: NaN, too many features, a constant target.
        """
        if self.max_context not in ("subsample", "error"):
            raise UserError(f"max_context must be 'subsample' or 'error', given {self.max_context!r}")
        if self.orders < 1:
            raise UserError(f"orders must be at least 1, given {self.orders}")
        refuse_labels("X", X, TEXT)
        refuse_labels("y", y, "regression predicts numbers: code two classes as 0 and 1, or take a classifier")
        checked: Any = validate_data(
            self,
            X,  # pyright: ignore[reportArgumentType]
            y,  # pyright: ignore[reportArgumentType]
            dtype=np.float64,
            y_numeric=True,
            ensure_min_samples=2,
        )
        context, targets = checked[0], checked[1].astype(np.float64)
        learner = self.model if isinstance(self.model, TrainedRegressor) else load(self.model, "regression")
        features, accepted, name = context.shape[1], learner.network.dim, learner.name or "the model"
        if features > accepted or (features != accepted and not learner.pads):
            takes = f"at most n_features={accepted}" if learner.pads else f"n_features={accepted}"
            raise UserError(
                f"X has n_features={features}, but {name} takes {takes}; choose features, e.g. by "
                f"sklearn.feature_selection.SelectKBest(f_regression, k={accepted})"
            )
        check_rows(learner, context, targets)
        limit = learner.network.max_points
        if len(context) > limit:
            told = f"X has {len(context)} samples, {name} was trained on contexts of up to {limit}"
            if self.max_context == "error":
                raise UserError(f"{told}; give fewer, or max_context='subsample'")
            each = "a random subset" if self.orders == 1 else f"{self.orders} random subsets"
            warnings.warn(f"{told}: conditioned on {each} of {limit}", stacklevel=2)
        self.model_ = learner
        self.X_context_, self.y_context_ = context, targets
        seed = _seed(self.random_state)
        self._conditioned = _Lazy(learner, context, targets, self.orders, seed)
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Array | tuple[Array, Array]:
        """Mean of the target, and its standard deviation if wanted.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False

        Returns
        -------
        mean : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Noise included. Only if `return_std`.
        """
        found = self._predictions(X)
        return (found.mean, found.std) if return_std else found.mean

    def predict_quantiles(self, X: ArrayLike, quantiles: float | Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Values that the target stays below with the given probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        quantiles : float or array-like of shape (n_quantiles,), default=(0.05, 0.5, 0.95)
            Probabilities between 0 and 1.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
        """
        levels = as_tensor(quantiles, "quantiles", dtype=torch.float64)
        if levels.ndim > 1:
            raise UserError(
                f"quantiles must be a number or a list of numbers, given an array of shape {list(levels.shape)}"
            )
        return self._predictions(X).quantiles(levels.reshape(-1).tolist())

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> Array:
        """Log density of each target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,)
            In nats, per unit of the target.
        """
        targets: Any = column_or_1d(y, dtype=np.float64)
        found = self._predictions(X)
        if len(targets) != len(found.mean):
            raise UserError(f"y has {len(targets)} targets for {len(found.mean)} samples of X")
        return found.log_density(targets)

    def sample_y(
        self, X: ArrayLike, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0
    ) -> Array:
        """Draw targets, independently of each other.

        Parameters
        ----------
        X : array-like of shape (n_points, n_features)
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=0

        Returns
        -------
        ndarray of shape (n_points, n_samples)
        """
        if n_samples < 1:
            raise UserError(f"n_samples must be at least 1, given {n_samples}")
        seed = _seed(random_state)
        return self._predictions(X).sample(n_samples, seed)

    def _predictions(self, X: ArrayLike) -> Predictions:
        check_is_fitted(self)
        refuse_labels("X", X, TEXT)
        points: Any = validate_data(self, X, dtype=np.float64, reset=False)  # pyright: ignore[reportArgumentType]
        return self._conditioned.get().predict(points)


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """The number itself, as on the command line, or a drawn one."""
    drawn = int(check_random_state(random_state).randint(_SEEDS))
    return int(random_state) if isinstance(random_state, (int, np.integer)) else drawn


class _Lazy:
    """The conditioned regression, made when it is first needed; not pickled, for it can be made again."""

    def __init__(self, learner: TrainedRegressor, x: Array, y: Array, orders: int, seed: int) -> None:
        self._arguments = learner, x, y
        self._orders, self._seed = orders, seed
        self._made: ConditionedRegression | None = None

    def get(self) -> ConditionedRegression:
        if self._made is None:
            self._made = ConditionedRegression(*self._arguments, orders=self._orders, seed=self._seed)
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}
