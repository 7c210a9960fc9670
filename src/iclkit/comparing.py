"""`iclkit.compare`: learners side by side, named as one types them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iclkit.cli.specs import learner_of, task_of

if TYPE_CHECKING:
    from iclkit.analysis.compare import Comparison
    from iclkit.tasks import RegressionTask


def compare(
    learners: Sequence[Any] | Mapping[str, Any],
    task: RegressionTask | str,
    points: int = 40,
    episodes: int = 256,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Put learners side by side on fresh episodes of a task: errors, excess risk over Bayes, distances.

    Args:
        learners: A list, or a dictionary by name, of learners, functions (x, y) -> predictions, and text: a
            textbook learner like "ridge(0.25)", the name of a shipped model, or a model's folder.
        task: Where the episodes come from; text like "LinearRegression(dim=8, noise_std=0.5)" too.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many episodes.
        seed: Seed of the episodes: the same for every learner, which makes all differences paired.
        **options: `reference` and `scale` of `iclkit.analysis.compare.compare`.

    Returns:
        Tables and curves by context size, with bootstrap intervals; `print` shows them.

    Raises:
        UserError: Names that nobody knows, two learners of one name, or one that does not take such episodes.
    """
    from iclkit.analysis.compare import compare as measure

    if isinstance(learners, str):
        learners = [learners]
    if isinstance(learners, Mapping):
        judged: Any = {name: learner_of(learner) for name, learner in learners.items()}
    elif isinstance(learners, Sequence):
        judged = [learner_of(learner) for learner in learners]
    else:
        judged = learners  # refused below
    return measure(judged, task_of(task), points, episodes, seed, **options)
