"""Trees of each context against scikit-learn's own, one prefix at a time."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners import BoostedTrees, GreedyTree
from iclkit.tasks import DecisionTrees

LEARNERS = [GreedyTree(), BoostedTrees(trees=5)]


def data(episodes: int = 2, points: int = 12, dim: int = 4) -> tuple[Tensor, Tensor]:
    x, y = DecisionTrees(dim=dim).sample(episodes, points, torch.Generator().manual_seed(0))
    return x.double(), y.double()


@pytest.mark.parametrize("depth", [2, None])
def test_greedy_tree_is_scikit_learns_at_every_prefix(depth: int | None) -> None:
    x, y = data()
    found = GreedyTree(max_depth=depth).predict(x, y)
    assert (found[:, 0] == 0).all()
    for b in range(2):
        for n in range(1, 12):
            tree = DecisionTreeRegressor(max_depth=depth, random_state=0)
            expected = tree.fit(x[b, :n].numpy(), y[b, :n].numpy()).predict(x[b, n : n + 1].numpy())
            np.testing.assert_allclose(found[b, n : n + 1], expected, atol=1e-12)


def test_boosted_trees_are_scikit_learns() -> None:
    x, y = data()
    queries = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    found = BoostedTrees(trees=5).predict_queries(x, y, queries, [1, 12])
    for b in range(2):
        for p, n in enumerate((1, 12)):
            model = HistGradientBoostingRegressor(
                max_iter=5, max_depth=6, learning_rate=0.3, l2_regularization=1, max_leaf_nodes=None,
                min_samples_leaf=1, early_stopping=False,
            )  # fmt: skip
            expected = model.fit(x[b, :n].numpy(), y[b, :n].numpy()).predict(queries[b, p].numpy())
            np.testing.assert_allclose(found[b, p], expected, atol=1e-12)


def test_a_boosted_stump_by_hand() -> None:
    """Two pairs at ±1 with targets ±1: each tree puts each into its leaf, whose value is residual / (1 + λ)."""
    x, y = torch.tensor([[[-1.0], [1.0]]]).double(), torch.tensor([[-1.0, 1.0]]).double()
    found = BoostedTrees(trees=3, rate=0.3, penalty=1.0).predict_queries(x, y, x[:, None], [2])
    left = (1 - 0.3 / 2) ** 3
    # scikit-learn keeps residuals in float32.
    torch.testing.assert_close(found[0, 0], (1 - left) * y[0], rtol=0, atol=1e-7)


def test_processes_change_nothing() -> None:
    x, y = data(points=5)
    assert torch.equal(GreedyTree(jobs=2).predict(x, y), GreedyTree().predict(x, y))


def test_a_tree_that_was_learned_from_a_tree_answers_better_than_the_mean() -> None:
    # Depth 2 in two dimensions and 200 pairs leave little to guess; the mean alone has the variance of y, near
    # 1.
    x, y = DecisionTrees(dim=2, depth=2).sample(20, 201, torch.Generator().manual_seed(1))
    found = GreedyTree().predict_queries(x, y, x[:, None, -1:], [200])[:, 0, 0]
    assert (found - y[:, -1]).square().mean() < 0.2 * y[:, -1].square().mean()


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
@pytest.mark.parametrize("module", ["sklearn.tree", "sklearn.ensemble", "joblib"])
def test_says_what_to_install(
    learner: GreedyTree | BoostedTrees, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{type(learner).__name__} needs scikit-learn.*iclkit\[sklearn\]"):
        learner.predict(*data())


def test_refuses() -> None:
    with pytest.raises(UserError, match="max_depth of GreedyTree must be at least 1, given 0"):
        GreedyTree(max_depth=0)
    with pytest.raises(UserError, match="jobs"):
        GreedyTree(jobs=0)
    with pytest.raises(UserError, match="trees of BoostedTrees must be at least 1, given 0"):
        BoostedTrees(trees=0)
    with pytest.raises(UserError, match="rate"):
        BoostedTrees(rate=0.0)
    with pytest.raises(UserError, match="penalty"):
        BoostedTrees(penalty=-1.0)
