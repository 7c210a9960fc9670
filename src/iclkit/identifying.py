"""`iclkit.identify`: which textbook learner a learner has become, both named as one types them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iclkit.cli.specs import learner_of, task_of

if TYPE_CHECKING:
    from iclkit.analysis.identification import Identification
    from iclkit.tasks import RegressionTask


def identify(
    learner: Any,
    task: RegressionTask | str,
    points: int | None = None,
    episodes: int = 256,
    seed: int = 0,
    **options: Any,
) -> Identification:
    """Find the textbook learner whose predictions are nearest to those of a learner.

    Args:
        learner: Anything with predict(x [B, N, d], y [B, N]) -> [B, N], such a function, or text: a textbook
            learner like "ridge(0.25)", the name of a shipped model, or a model's folder.
        task: Where the episodes come from; text like "LinearRegression(dim=8, noise_std=0.5)" too.
        points: Queries of each episode, after contexts of 0 to points - 1 pairs. The default is 40, or as many
            as the learner takes.
        episodes: On how many the parameters of the textbook learners are fitted.
        seed: Seed of the episodes.
        **options: `families`, `context_sizes`, `level`, `dtype`, `name` and `fresh` of
            `iclkit.analysis.identify.identify`.

    Returns:
        The matches, nearest first, with a verdict; `print` shows them.

    Raises:
        UserError: Names that nobody knows, too few points or episodes, or a learner that does not take such
            episodes.
    """
    from iclkit.analysis.identify import identify as measure

    return measure(learner_of(learner), task_of(task), points, episodes, seed, **options)
