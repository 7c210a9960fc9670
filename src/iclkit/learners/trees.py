"""Regression trees, alone and boosted, grown by scikit-learn for every prefix of every episode."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.regression import RegressionLearner


@dataclass(frozen=True)
class _TreeLearner(RegressionLearner):
    """A learner that fits one of scikit-learn's regressors to each prefix; before any pair it predicts 0."""

    @abstractmethod
    def _regressor(self) -> Any:
        """A regressor to be fitted, of scikit-learn."""

    @property
    @abstractmethod
    def _processes(self) -> int:
        """How many processes fit side by side."""

    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return self._predict_queries(x, y, x[:, :, None], list(range(x.shape[1])))[..., 0]

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        try:
            from joblib import Parallel, delayed
        except ImportError as error:
            raise _missing(self) from error
        self._regressor()  # one that cannot be made says so here, not in another process
        inputs, targets, asked = (value.detach().cpu().double().numpy() for value in (x, y, queries))
        answers: Any = Parallel(n_jobs=self._processes)(
            delayed(_answer)(self, *episode, prefixes) for episode in zip(inputs, targets, asked, strict=True)
        )
        return torch.from_numpy(np.stack(answers)).to(x)


def _answer(
    learner: _TreeLearner, x: np.ndarray, y: np.ndarray, queries: np.ndarray, prefixes: list[int]
) -> np.ndarray:
    """Predictions [P, K] for one episode."""
    return np.stack(
        [
            learner._regressor().fit(x[:n], y[:n]).predict(asked) if n else np.zeros(len(asked))
            for n, asked in zip(prefixes, queries, strict=True)
        ]
    )


def _missing(learner: _TreeLearner) -> UserError:
    name = type(learner).__name__
    return UserError(f"{name} needs scikit-learn; install it with: pip install 'iclkit[sklearn]'")


def _check(learner: Any, **least: int) -> None:
    """Refuse fields that lie below their least value; None, where a field allows it, is no limit."""
    for name, bound in least.items():
        value = getattr(learner, name)
        if value is not None and value < bound:
            raise UserError(f"{name} of {type(learner).__name__} must be at least {bound}, given {value}")
    if learner.jobs == 0:
        raise UserError("jobs must be a number of processes, or -1 for one on each core, given 0")


@dataclass(frozen=True)
class GreedyTree(_TreeLearner):
    """A regression tree: each node is split where that lessens the squared error most.

    Args:
        max_depth: Greatest depth; None splits until every leaf is pure.
        jobs: Processes that fit side by side, each an episode; -1 for one on each core.

    Raises:
        UserError: A depth below one, no processes, or scikit-learn not installed.

    Source: Breiman et al. (1984); Garg et al. (2022), section 5, with depth 4, that of the trees to be learned
    (their code also tries an unlimited one).
    """

    max_depth: int | None = 4
    jobs: int = 1

    def __post_init__(self) -> None:
        _check(self, max_depth=1)

    @property
    def _processes(self) -> int:
        return self.jobs

    def _regressor(self) -> Any:
        try:
            from sklearn.tree import DecisionTreeRegressor
        except ImportError as error:
            raise _missing(self) from error
        # The seed decides between splits that are equally good.
        return DecisionTreeRegressor(max_depth=self.max_depth, random_state=0)


@dataclass(frozen=True)
class BoostedTrees(_TreeLearner):
    """Gradient-boosted regression trees: each tree is fitted to what those before it left, and shrunk.

    Args:
        trees: Number of trees.
        max_depth: Greatest depth of each; None for no limit.
        rate: By how much each is shrunk.
        penalty: What is added to the number of pairs in a leaf, which shrinks it too (λ).
        jobs: Processes that fit side by side, each an episode; -1 for one on each core.

    Raises:
        UserError: A count or depth below one, a rate that is not positive, a negative penalty, no processes, or
            scikit-learn not installed.

    Source: Friedman (2001). Garg et al. (2022), section 5, use XGBoost with its defaults, which are kept here:
    100 trees of depth 6, rate 0.3, λ = 1, leaves of any size. They are fitted by scikit-learn's
    `HistGradientBoostingRegressor`, which splits between neighbouring values as XGBoost's method "exact" does,
    its default when the paper was written, on contexts of up to 255 pairs (its bins). It starts from the mean
    of the targets, as newer versions of XGBoost do (older: from 0.5). XGBoost's default of today, "hist", is
    another: on a sine of one input their predictions differ by 0.75, root mean square.
    """

    trees: int = 100
    max_depth: int | None = 6
    rate: float = 0.3
    penalty: float = 1.0
    jobs: int = 1

    def __post_init__(self) -> None:
        _check(self, trees=1, max_depth=1)
        if not (0 < self.rate < math.inf and 0 <= self.penalty < math.inf):
            raise UserError(
                "rate of BoostedTrees must be positive and penalty not negative, "
                f"given {self.rate} and {self.penalty}"
            )

    @property
    def _processes(self) -> int:
        return self.jobs

    def _regressor(self) -> Any:
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as error:
            raise _missing(self) from error
        settings: dict[str, Any] = {
            "max_iter": self.trees,
            "max_depth": self.max_depth,
            "learning_rate": self.rate,
            "l2_regularization": self.penalty,
            "max_leaf_nodes": None,
            "min_samples_leaf": 1,
            "early_stopping": False,
            "random_state": 0,
        }
        return HistGradientBoostingRegressor(**settings)
