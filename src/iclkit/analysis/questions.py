"""What regression learners are asked: episodes of a task, a query after every prefix, and the right answers.

Shape letters: B episodes, N queries (one after each prefix 0, 1, ..., N - 1), d coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.analysis.causality import check_causal
from iclkit.errors import UserError
from iclkit.learners import REGRESSION_LEARNERS, RegressionLearner
from iclkit.tasks import Functions, RegressionTask

# Episodes that are predicted at once: a few hundred megabytes in the largest published network.
_AT_ONCE = 256
# Episodes on which it is checked that a learner does not see its answers.
_FEW = 64
# Exact learners hold a matrix of inputs by inputs after every prefix: 8 GB in double precision.
_MOST = 10**9


@dataclass(frozen=True)
class Questions:
    """Episodes with one query after each prefix.

    Args:
        x: Inputs of the episodes.
        y: Their targets.
        queries: The n-th is asked after n pairs. The next input itself, unless the task says otherwise.
        truth: The episodes' functions at the queries, without noise; None where nobody knows them.
        targets: The truth with its noise.
        law: The functions.
    """

    x: Float[Tensor, "B N d"]
    y: Float[Tensor, "B N"]
    queries: Float[Tensor, "B N d"]
    truth: Float[Tensor, "B N"] | None
    targets: Float[Tensor, "B N"]
    law: Functions | None

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """How many pairs come before each query."""
        return tuple(range(self.x.shape[1]))


@neutral()
def ask(
    task: RegressionTask, points: int = 40, episodes: int = 256, generator: torch.Generator | None = None
) -> Questions:
    """Draw episodes of a task with their queries.

    Args:
        task: Where they come from.
        points: Queries of each episode (N); contexts have 0 to N - 1 pairs.
        episodes: How many (B).
        generator: Source of randomness.

    Raises:
        UserError: No task of regression, fewer than one point or two episodes (an interval needs two).
    """
    check_asked(task, points, episodes)
    pairs = task.draw(episodes, points, generator)
    queries = task.queries(pairs.x, generator)
    if queries is pairs.x:
        truth = None if pairs.law is None else pairs.law(pairs.x)
        return Questions(pairs.x, pairs.y, pairs.x, truth, pairs.y, pairs.law)
    if pairs.law is None:
        raise UserError(f"{type(task).__name__} asks elsewhere than at its points, where it knows no answer")
    truth = pairs.law(queries)
    # The noise of y_n is new to whoever has seen n pairs, so it may as well be the query's.
    return Questions(pairs.x, pairs.y, queries, truth, truth + (pairs.y - pairs.law(pairs.x)), pairs.law)


def seeded(seed: int) -> torch.Generator:
    """A generator with a seed.

    Raises:
        UserError: No whole number, or one that is too large.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise UserError(f"seed must be a whole number in 0..2^63-1, given {seed!r}")
    return torch.Generator().manual_seed(int(seed))


def check_asked(task: RegressionTask, points: int, episodes: int) -> None:
    """Refuse what no episodes can be drawn of; raises as `ask`."""
    if not isinstance(task, RegressionTask):
        raise UserError(
            f"task must be a regression task like LinearRegression(dim=8), given {type(task).__name__}"
        )
    if not (isinstance(points, int) and isinstance(episodes, int) and points >= 1 and episodes >= 2):
        raise UserError(
            "points must be at least 1 and episodes at least 2, in whole numbers, "
            f"given {points} and {episodes}"
        )
    if episodes * points * task.dim**2 > _MOST:
        raise UserError(
            f"episodes · points · dim² must be at most {_MOST:.0e}, given {episodes}, {points} and {task.dim}; "
            "make one of them smaller"
        )


def answers(learner: RegressionLearner, asked: Questions) -> Float[Tensor, "B N"]:
    """A learner's predictions at the queries, asked where the learner is and answered where the questions are.

    Raises:
        UserError: The learner does not take such episodes.
    """
    parts = []
    with torch.no_grad():
        for rows in torch.arange(len(asked.x), device=asked.x.device).split(_AT_ONCE):
            x, y = moved(learner, asked.x[rows], asked.y[rows])
            if asked.queries is asked.x:
                said = learner.predict(x, y)
            else:
                (queries,) = moved(learner, asked.queries[rows, :, None])
                said = learner.predict_queries(x, y, queries)[..., 0]
            _check_said(learner, said, y)
            parts.append(said.to(asked.x.device))
    return torch.cat(parts)


def answers_after(learner: RegressionLearner, asked: Questions, sizes: list[int]) -> Float[Tensor, "B S"]:
    """A learner's predictions at the queries that follow some context sizes alone; raises as `answers`."""
    parts, longest = [], max(sizes)
    with torch.no_grad():
        for rows in torch.arange(len(asked.x), device=asked.x.device).split(_AT_ONCE):
            x, y = moved(learner, asked.x[rows, :longest], asked.y[rows, :longest])
            (queries,) = moved(learner, asked.queries[rows][:, sizes, None])
            parts.append(learner.predict_queries(x, y, queries, sizes)[..., 0].to(asked.x.device))
    return torch.cat(parts)


def checked_answers(
    name: str, learner: RegressionLearner, asked: Questions, trusted: bool = False
) -> Float[Tensor, "B N"]:
    """`answers`, after checking that they are finite, and that the learner does not see what it predicts.

    Args:
        name: What the learner is called.
        learner: The learner.
        asked: The questions.
        trusted: Whether it is known to see nothing that it should not.

    Raises:
        UserError: Predictions that are not finite or not of shape [B, N], or that change with the target that
            is predicted or with later pairs; says where.
    """
    try:
        found = answers(learner, asked)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not found.isfinite().all():
        size = int((~found.isfinite()).any(0).nonzero()[0])
        raise UserError(f"{name} predicts NaN or infinite values after {size} pairs, which nothing is near to")
    if not trusted:
        check_learner(name, learner, asked, found)
    return found


def check_learner(
    name: str, learner: RegressionLearner, asked: Questions, said: Float[Tensor, "B N"] | None = None
) -> None:
    """Refuse a learner that sees what it predicts (see `causality.py`).

    Textbook learners are not asked: their contract suite does that.

    Args:
        name: What the learner is called.
        learner: The learner.
        asked: What it has been asked, or is going to be.
        said: Its answers, if it has been asked already.

    Raises:
        UserError: Names the learner, the position, and what changed.
    """
    if textbook(learner):
        return
    few = slice(0, _FEW)
    x, y = asked.x[few], asked.y[few]
    queries = None if asked.queries is asked.x else asked.queries[few]
    if queries is not None and type(learner)._predict_queries is RegressionLearner._predict_queries:
        queries, said = None, None  # it answers them as it predicts

    def respond(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return answers(learner, Questions(x, y, x if queries is None else queries[rows], None, y, None))

    before = respond(x.clone(), y.clone(), torch.arange(len(x), device=x.device)) if said is None else said[few]
    check_causal(name, respond, x, y, before, own_input=queries is not None)


def textbook(learner: RegressionLearner) -> bool:
    """Whether it is one of the package's own textbook learners, of which tests show what they look at."""
    kind = type(learner)
    return kind.__module__.startswith("iclkit.learners.") and kind.__name__ in REGRESSION_LEARNERS


def _check_said(learner: RegressionLearner, said: object, y: Float[Tensor, "B N"]) -> None:
    """Refuse what is no prediction of each target: broadcast against them it would give wrong numbers."""
    name = getattr(learner, "name", "") or type(learner).__name__
    if not isinstance(said, Tensor) or said.shape != y.shape:
        given = list(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise UserError(f"{name} must return predictions of shape {list(y.shape)}, given {given}")
    if said.is_complex() or said.dtype == torch.bool:
        raise UserError(f"{name} must return predictions that are real numbers, given {said.dtype}")


def moved(learner: RegressionLearner, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors where the learner takes them: one whose weights are on a GPU is asked there."""
    return tensors if learner.device is None else tuple(tensor.to(learner.device) for tensor in tensors)
