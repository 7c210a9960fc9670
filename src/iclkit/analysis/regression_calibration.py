"""Is a regression learner as sure as it should be? Log-likelihood and coverage by context size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.causality import check_causal
from iclkit.analysis.intervals import Curve, cell
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import moved, seeded, textbook
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import ProbabilisticLearner
from iclkit.learners.trained_regression import TrainedProbabilisticRegressor
from iclkit.tasks import RegressionTask

LEVELS = (0.5, 0.8, 0.9, 0.95)
_AT_ONCE = 256
# Episodes on which it is checked that a learner does not see its answers.
_FEW = 64
# 95 % point of √D sup |F_D - F| for D values of a continuous law (Kolmogorov), and its correction for small D.
_KOLMOGOROV = 1.358


@dataclass(frozen=True)
class RegressionCalibration:
    """Predictive distributions against the targets that came, one of each episode at each context size.

    Args:
        context_sizes: Pairs in the context.
        transform: The probability integral transform F(y) of the predictive distribution function F: uniform on
            [0, 1] if the learner is calibrated.
        log_prob: Log density of the target, in nats.
        blind: That of the normal model which sees targets alone, Student's t with the moments of those in the
            context; 0 where that has fewer than two pairs.
    """

    context_sizes: tuple[int, ...]
    transform: Float[Tensor, "B P"]
    log_prob: Float[Tensor, "B P"]
    blind: Float[Tensor, "B P"]

    @property
    def likelihood(self) -> Curve:
        """Log density of the targets."""
        return Curve(self.context_sizes, self.log_prob)

    def coverage(self, level: float) -> Curve:
        """How often the target lies in the central interval of so much probability.

        Args:
            level: The probability, in (0, 1).

        Raises:
            UserError: Another level.
        """
        if not 0 < level < 1:
            raise UserError(f"level must lie between 0 and 1, given {level}")
        inside = (self.transform - 0.5).abs() <= 0.5 * level
        return Curve(self.context_sizes, inside.double())

    @property
    def deviation(self) -> Float[Tensor, " P"]:
        """Largest distance of the transform's distribution function from that of a uniform law (Kolmogorov)."""
        ordered = self.transform.double().sort(0).values
        count = len(ordered)
        steps = torch.arange(count + 1).to(ordered)[:, None] / count
        return torch.maximum((steps[1:] - ordered).amax(0), (ordered - steps[:-1]).amax(0))

    @property
    def chance(self) -> float:
        """What the deviation of a calibrated learner exceeds at one context size in 20."""
        root = math.sqrt(len(self.transform))
        return _KOLMOGOROV / (root + 0.12 + 0.11 / root)

    def table(self) -> Table:
        """One row for each context size."""
        likelihood, gain = self.likelihood.interval(), Curve(self.context_sizes, self.log_prob - self.blind)
        covered = [self.coverage(level).interval() for level in LEVELS]
        rows = []
        for i, n in enumerate(self.context_sizes):
            shares = [f"{100 * float(c.mean[i]):.1f} ± {100 * float(c.half_width[i]):.1f}" for c in covered]
            above = cell(gain.at(n).interval()[0]) if n > 1 else ""
            rows.append([str(n), cell(likelihood[i]), above, *shares, f"{float(self.deviation[i]):.3f}"])
        heads = [f"in the {100 * level:.0f} % interval / %" for level in LEVELS]
        columns = ["context pairs", "log-likelihood / nats", "gained by x", *heads, "deviation"]
        return Table(columns, rows)


def calibrate_regressor(
    learner: ProbabilisticLearner,
    task: RegressionTask,
    context_sizes: Sequence[int],
    episodes: int = 500,
    seed: int = 0,
) -> RegressionCalibration:
    """Compare a learner's predictive distributions with fresh targets.

    Args:
        learner: The learner; its distributions must know their distribution function.
        task: Where the episodes come from.
        context_sizes: Pairs in the contexts.
        episodes: How many (at least 2).
        seed: Seed of the episodes.

    Raises:
        UserError: The learner does not take such contexts, or sees what it predicts.
    """
    sizes = sorted(set(context_sizes))
    if not sizes or sizes[0] < 0 or episodes < 2:
        raise UserError(
            f"context_sizes must be at least one number of pairs and episodes at least 2, given {sizes} and "
            f"{episodes}"
        )
    pairs = task.draw(episodes, sizes[-1] + 1, seeded(seed))
    with torch.no_grad():
        parts = [
            _judged(learner, x, y, sizes)
            for x, y in zip(pairs.x.split(_AT_ONCE), pairs.y.split(_AT_ONCE), strict=True)
        ]
        _check_causal(learner, pairs.x[:_FEW], pairs.y[:_FEW], sizes)
    transform, log_prob = (torch.cat(tensors).double() for tensors in zip(*parts, strict=True))
    return RegressionCalibration(tuple(sizes), transform, log_prob, _blind(pairs.y.double(), sizes))


def _check_causal(
    learner: ProbabilisticLearner, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], sizes: list[int]
) -> None:
    """Refuse a learner whose densities change with the target, or with later pairs."""
    if textbook(learner):
        return

    def respond(changed: Tensor, others: Tensor, rows: Tensor) -> Tensor:
        found = torch.zeros_like(others)
        # A standardised learner gives its densities in float64, whatever the targets are.
        found[:, sizes] = _judged(learner, changed, others, sizes, y[rows])[1].to(found)
        return found

    before = respond(x.clone(), y.clone(), torch.arange(len(x)))
    check_causal(name_of(learner), respond, x, y, before, positions=sizes)


def _judged(
    learner: ProbabilisticLearner, x: Tensor, y: Tensor, sizes: list[int], target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """F(y_n) and log p(y_n) after some prefixes, both [B, P]; of other targets than y, if they are given."""
    own, (x, y, target) = y.device, moved(learner, x, y, y if target is None else target)
    if isinstance(learner, TrainedProbabilisticRegressor):
        # Each prefix may be a pass of its own, so none is asked that nobody looks at.
        said, target = learner.distribution_queries(x, y, x[:, sizes, None], sizes), target[:, sizes, None]
        return said.cdf(target)[..., 0].to(own), said.log_prob(target)[..., 0].to(own)
    said = learner.distribution(x, y)
    return said.cdf(target)[:, sizes].to(own), said.log_prob(target)[:, sizes].to(own)


def _blind(y: Float[Tensor, "B N"], sizes: list[int]) -> Float[Tensor, "B P"]:
    """Log densities of whoever sees targets alone: Student's t with the moments of the context."""
    columns = []
    for n in sizes:
        if n < 2:
            columns.append(torch.zeros(len(y)).to(y))
            continue
        std, mean = torch.std_mean(y[:, :n], 1)
        scale = (std * math.sqrt(1 + 1 / n)).clamp_min(1e-6)
        columns.append(torch.distributions.StudentT(n - 1, mean, scale, validate_args=False).log_prob(y[:, n]))
    return torch.stack(columns, 1)
