"""Families of learners that take seconds to minutes: `identify` tries them where they are asked for by name.

Trees, boosting and networks are fitted to every prefix of every episode. Give few episodes, and few fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable

from iclkit import learners
from iclkit.analysis.families import Family, Parameter
from iclkit.tasks import RegressionTask


def greedy_tree(task: RegressionTask, points: int) -> Family:
    """A regression tree of limited depth."""
    depth = Parameter("max_depth", (1, 2, 3, 4, 6, 8), whole=True)
    return Family("greedy tree", lambda max_depth: learners.GreedyTree(int(max_depth)), (depth,))


def boosted_trees(task: RegressionTask, points: int) -> Family:
    """Gradient boosting with the published settings; for others make a `Family` of your own."""
    return Family("boosted trees", learners.BoostedTrees, note="100 trees of depth 6, rate 0.3, λ = 1")


def trained_network(task: RegressionTask, points: int) -> Family:
    """A network trained on the context, with the published settings and the initial weights of seed 0.

    From other initial weights it says otherwise: a learner of that kind is nearest to this one, but is not it.
    """
    note = "100 hidden units, 100 steps of Adam with rate 0.005 on each context, initial weights of seed 0"
    return Family("trained network", learners.TrainedNetwork, note=note)


SLOW_FAMILIES: dict[str, Callable[[RegressionTask, int], Family | None]] = {
    "greedy tree": greedy_tree,
    "boosted trees": boosted_trees,
    "trained network": trained_network,
}
"""Those that are tried only where they are named; as in `FAMILIES`."""
