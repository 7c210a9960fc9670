"""Families of learners that take seconds to minutes: `identify` tries them where they are asked for by name.

Trees, boosting and networks are fitted to every prefix of every episode. Give few episodes, and few fresh ones.
GD++ on the mean curvature has three parameters to search, as GD++ has, and few learners are nearer to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from iclkit import learners
from iclkit.analysis import responses
from iclkit.analysis.family import Family, Parameter, log_grid
from iclkit.analysis.prompts import Spectrum
from iclkit.tasks import RegressionTask


def greedy_tree(task: RegressionTask, points: int) -> Family:
    """A regression tree of limited depth."""
    depth = Parameter("max_depth", (1, 2, 3, 4, 6, 8), whole=True)
    return Family("greedy tree", lambda max_depth: learners.GreedyTree(int(max_depth)), (depth,), by_size=False)


def boosted_trees(task: RegressionTask, points: int) -> Family:
    """Gradient boosting with the published settings; for others make a `Family` of your own."""
    return Family("boosted trees", learners.BoostedTrees, note="100 trees of depth 6, rate 0.3, λ = 1")


def trained_network(task: RegressionTask, points: int) -> Family:
    """A network trained on the context, with the published settings and the initial weights of seed 0.

    From other initial weights it says otherwise: a learner of that kind is nearest to this one, but is not it.
    """
    note = "100 hidden units, 100 steps of Adam with rate 0.005 on each context, initial weights of seed 0"
    return Family("trained network", learners.TrainedNetwork, note=note)


def averaged_correction(task: RegressionTask, points: int) -> Family:
    """Gradient descent that moves its inputs by the mean curvature, as layers of linear attention can.

    At one context size it is "GD++" with n times the γ.
    """
    parameters = (
        Parameter("steps", (2, 3, 4, 6, 8), whole=True),
        Parameter("rate", log_grid(1e-2, 100, 3), symbol="η"),
        Parameter("gamma", log_grid(1e-3, 10, 3), symbol="γ"),
    )
    return Family(
        "mean-curvature GD++",
        partial(learners.GradientDescentPlusPlus, curvature="mean"),
        parameters,
        _averaged_correction,
        "y ← y − (η/n) (Σ y x)ᵀ x and x ← (I − (γ/n) X Xᵀ) x in each step",
    )


def _averaged_correction(
    spectrum: Spectrum, steps: float | Tensor, rate: float | Tensor, gamma: float | Tensor
) -> Float[Tensor, "B N d"]:
    return responses.corrected_descent(spectrum, steps, rate, gamma / spectrum.counts.clamp(min=1))


SLOW_FAMILIES: dict[str, Callable[[RegressionTask, int], Family | None]] = {
    "greedy tree": greedy_tree,
    "boosted trees": boosted_trees,
    "trained network": trained_network,
    "mean-curvature GD++": averaged_correction,
}
"""Those that are tried only where they are named; as in `FAMILIES`."""
