"""Density estimation in context, as scikit-learn sees it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from iclkit.conditioned import ConditionedDensity, check_context
from iclkit.errors import UserError
from iclkit.estimators.labels import TEXT, refuse_labels
from iclkit.learners.trained import EnergyDensity
from iclkit.training.models import load

Model = str | Path | EnergyDensity


class InContextDensity(DensityMixin, BaseEstimator):
    """Density estimation in context: a drop-in for `sklearn.neighbors.KernelDensity` with nothing to tune.

    `fit` only keeps the data: they are the context of a model whose weights stay frozen. The shipped models
    whiten data by the context's own moments, so no scaling is needed before (and none hurts). Samples have no
    weights.

    Parameters
    ----------
    model : str, path, `EnergyDensity`, or a list of these, default="energy-2d"
        The trained model: name of a shipped one, its folder or a training run's, or the loaded model. Of a
        list, the first that takes the number of features of `X` is used.
    max_context : {"subsample", "error"}, default="subsample"
        What `fit` does with more samples than the model was trained on: condition on a random subset of as many
        as it was, with a warning; or refuse.
    random_state : int, RandomState instance or None, default=0
        Draws that subset.
    transforms : int, default=None
        Average the energy over so many turned and reflected copies of the context, an even number, or 1 for
        none. More (24, say) make the answer depend less on how the features are turned or ordered, and cost as
        many times more. None for the model's own number, 2 for the shipped one.

    Attributes
    ----------
    context_ : ndarray of shape (n_context, n_features)
        The samples that the model is conditioned on.
    model_ : EnergyDensity
        The model in use.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if `X` had any.

    Examples
    --------
    >>> from iclkit.estimators import InContextDensity
    >>> density = InContextDensity().fit(X)             # doctest: +SKIP
    >>> density.score_samples(X_new)                    # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model | Sequence[Model] = "energy-2d",
        *,
        max_context: str = "subsample",
        random_state: int | np.random.RandomState | None = 0,
        transforms: int | None = None,
    ) -> None:
        self.model = model
        self.max_context = max_context
        self.random_state = random_state
        self.transforms = transforms

    def fit(self, X: ArrayLike, y: Any = None) -> InContextDensity:
        """Keep the samples as the model's context.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As many features as the model takes.
        y : None
            Ignored; for pipelines.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Data that the model cannot be conditioned on: NaN, another number of features, a constant column.
        """
        if self.max_context not in ("subsample", "error"):
            raise UserError(f"max_context must be 'subsample' or 'error', given {self.max_context!r}")
        context = self._validated(X, reset=True)
        if len(context) < 2:
            raise UserError(f"n_samples={len(context)}, but 2 are needed to know the units of the data")
        learner = self._choose(context.shape[1])
        if self.transforms is not None:
            learner = dataclasses.replace(learner, transforms=self.transforms)
        if len(context) > learner.limit and self.max_context == "subsample":
            warnings.warn(
                f"X has {len(context)} samples, {learner.name or 'the model'} was trained on contexts of up to "
                f"{learner.limit}: conditioned on a random subset of {learner.limit}",
                stacklevel=2,
            )
            order = check_random_state(self.random_state).permutation(len(context))
            context = context[np.sort(order[: learner.limit])]
        check_context(learner, context, getattr(self, "feature_names_in_", None), allow_longer=False)
        self.model_ = learner
        self.context_ = context
        self._density = _Lazy(learner, context)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log density of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            In nats, per unit of each feature.
        """
        check_is_fitted(self)
        return self._density.get().log_density(self._validated(X, reset=False))

    def score(self, X: ArrayLike, y: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Total log density of the samples, as `KernelDensity.score` gives it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : None
            Ignored; for pipelines.
        """
        return float(self.score_samples(X).sum())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> NDArray[np.float64]:
        """Draw samples from the density.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise UserError(f"n_samples must be at least 1, given {n_samples}")
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        return self._density.get().sample(n_samples, seed)[0]

    def _validated(self, X: ArrayLike, reset: bool) -> NDArray[np.float64]:
        refuse_labels("X", X, TEXT)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=reset)  # pyright: ignore[reportArgumentType]
        return checked

    def _choose(self, features: int) -> EnergyDensity:
        """The first model that takes so many features."""
        models: Sequence[Any] = self.model if isinstance(self.model, (list, tuple)) else [self.model]
        if not models:
            raise UserError("model is an empty list; name at least one")
        accepted = []
        for model in models:
            learner = model if isinstance(model, EnergyDensity) else load(model, "energy")
            if learner.dim == features:
                return learner
            accepted.append(f"{learner.name or 'the model'} takes n_features={learner.dim}")
        raise UserError(f"X has n_features={features}, but {', '.join(accepted)}; choose features or a model")


class _Lazy:
    """The conditioned density, made when it is first needed; not pickled, for it can be made again."""

    def __init__(self, learner: EnergyDensity, context: NDArray[np.float64]) -> None:
        self._learner, self._context = learner, context
        self._made: ConditionedDensity | None = None

    def get(self) -> ConditionedDensity:
        if self._learner.network.listening:
            return self._make()  # interventions change the encoded context and log Z: nothing of them is kept
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> ConditionedDensity:
        # Double precision: the density of one sample may not depend on the samples beside it.
        return ConditionedDensity(self._learner, self._context, double=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}
