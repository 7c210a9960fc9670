"""Regressors that are fitted to one small table: what a model that is only shown the rows has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclkit.ambient import quiet
from iclkit.errors import UserError

Array = NDArray[np.float64]
# Context and targets, and points: means and standard deviations of their targets.
Fitted = Callable[[Array, Array, Array], tuple[Array, Array]]

_FOLDS = 5


def ridge(x: Array, y: Array, points: Array) -> tuple[Array, Array]:
    """Ridge regression; its penalty by leave-one-out from 25 between 1e-3 and 1e3."""
    from sklearn.linear_model import RidgeCV

    model: Any = RidgeCV(np.logspace(-3, 3, 25)).fit(x, y)
    # best_score_ is minus the mean squared error of leaving one out.
    return model.predict(points), _spread(points, float(np.sqrt(-model.best_score_)))


def nearest_neighbours(x: Array, y: Array, points: Array) -> tuple[Array, Array]:
    """k nearest neighbours, k and the weights (uniform or by distance) by 5-fold cross-validation."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsRegressor

    most = len(x) - -(-len(x) // _FOLDS)  # as many as the smallest part has that is fitted
    grid = {
        "n_neighbors": [k for k in (1, 2, 3, 4, 6, 8, 12, 16) if k <= most],
        "weights": ["uniform", "distance"],
    }
    search = GridSearchCV(KNeighborsRegressor(), grid, cv=_FOLDS, scoring="neg_mean_squared_error").fit(x, y)
    return search.predict(points), _spread(points, float(np.sqrt(-search.best_score_)))


def random_forest(x: Array, y: Array, points: Array) -> tuple[Array, Array]:
    """200 trees in scikit-learn's default setting; the spread from the rows that trees have not seen."""
    from sklearn.ensemble import RandomForestRegressor

    with quiet():  # a row that every tree has seen, which is left out here
        model = RandomForestRegressor(200, oob_score=True, random_state=0).fit(x, y)
    errors = y - model.oob_prediction_
    return model.predict(points), _spread(points, float(np.sqrt(np.mean(errors**2))))


def gaussian_process(x: Array, y: Array, points: Array) -> tuple[Array, Array]:
    """A Gaussian process with squared-exponential covariance; scales and noise by likelihood, 2 restarts."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(2.0, (0.1, 1e3)) + WhiteKernel(0.1, (1e-4, 10.0))
    with quiet():  # scales at the end of their range
        model: Any = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0).fit(x, y)
        mean, std = model.predict(points, return_std=True)
    return mean, std  # noise included: it is part of the covariance


FITTED: dict[str, Fitted] = {
    "ridge": ridge,
    "neighbours": nearest_neighbours,
    "forest": random_forest,
    "process": gaussian_process,
}


def fit_predict(fitted: Fitted, x: Array, y: Array, points: Array) -> tuple[Array, Array]:
    """Fit in standard units and predict in the data's own.

    Args:
        fitted: One of `FITTED`.
        x: Rows to fit to, [n, d].
        y: Their targets, [n].
        points: Rows to predict, [m, d].

    Returns:
        Means and standard deviations of the targets, [m].
    """
    shift, scale = x.mean(0), np.where(np.ptp(x, axis=0) > 0, x.std(0), 1.0)
    centre, unit = y.mean(), y.std() or 1.0
    mean, std = fitted((x - shift) / scale, (y - centre) / unit, (points - shift) / scale)
    return centre + unit * mean, unit * std


def require_sklearn() -> None:
    """Refuse to go on without scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError("this needs scikit-learn; install it with: pip install 'iclkit[sklearn]'") from error


def _spread(points: Array, std: float) -> Array:
    # A fit that meets every row would say that it never errs.
    return np.full(len(points), max(std, 1e-3))
