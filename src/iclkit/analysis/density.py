"""Densities against a reference, by context size: Kullback-Leibler divergence and held-out log-likelihood.

Shape letters: D datasets, B of them at a time, P context sizes, K candidates, R held-out points, d coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.importance import Candidates, LogZ, log_partition
from iclkit.analysis.intervals import Curve
from iclkit.analysis.scoring import Scorer, check_density, scorer
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import DensityLearner, Predictive
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import DensityTask, Episodes

CONTEXT_SIZES = (0, 1, 2, 4, 8, 16, 32)
# Candidates scored at once: a few hundred megabytes in a network of width 128.
_AT_ONCE = 2**14


@dataclass(frozen=True)
class Divergence:
    """KL(reference ‖ model), in nats.

    Args:
        kl: Per dataset and context size.
        log_z: log Z of the model's exp(-E): 0 for an energy that is normalised; None for a model that is by
            construction.
        z_error: Root mean square standard error of a single dataset's log Z, by context size. The intervals of
            `kl` contain it, for it is independent between datasets.
        reference_error: Root mean square Monte Carlo error of the reference's log density, by context size,
            where the reference estimates it (None otherwise). Draws come from the noisy density itself, so the
            divergence is too large by about half the square of it: KL(p (1 + δ) ‖ p) = E[δ²] / 2 + O(δ³).
    """

    kl: Curve
    log_z: Curve | None
    z_error: Float[Tensor, " P"] | None
    reference_error: Float[Tensor, " P"] | None = None

    def table(self, context_sizes: Sequence[int] | None = None) -> Table:
        """Mean and 95 % interval at some context sizes (default all), and the mean over all measured."""
        sizes = self.kl.context_sizes
        interval, overall = self.kl.interval(), self.kl.overall()
        shown = [sizes.index(n) for n in (context_sizes or sizes)]
        rows = [
            [str(sizes[i]), f"{interval.mean[i]:.3f}", f"{interval.low[i]:.3f} to {interval.high[i]:.3f}"]
            for i in shown
        ]
        rows.append(["mean", f"{overall.mean:.3f}", f"{overall.low:.3f} to {overall.high:.3f}"])
        columns = ["context points", "KL / nats", "95 % interval"]
        if self.log_z is not None and self.z_error is not None:
            columns += ["mean |log Z|", "error of a log Z"]
            size, error = self.log_z.values.abs().mean(0), self.z_error
            for i, row in zip(shown, rows, strict=False):
                row += [f"{size[i]:.3f}", f"{error[i]:.3f}"]
            rows[-1] += [f"{size.mean():.3f}", f"{error.square().mean().sqrt():.3f}"]
        if self.reference_error is not None:
            columns.append("error of the reference")
            for i, row in zip(shown, rows, strict=False):
                row.append(f"{self.reference_error[i]:.3f}")
            rows[-1].append(f"{self.reference_error.square().mean().sqrt():.3f}")
        return Table(columns, rows)


def kl_by_context(
    reference: DensityLearner,
    model: DensityLearner,
    task: DensityTask,
    context_sizes: Sequence[int] = CONTEXT_SIZES,
    datasets: int = 500,
    candidates: int = 96,
    seed: int = 0,
) -> Divergence:
    """KL(reference ‖ model) after contexts of several sizes, on fresh datasets of a task.

    For every dataset and size, candidates are drawn from the reference's predictive; the divergence is the mean
    of log reference - log model over them. An energy is normalised on the same candidates and half as many from
    a density that covers the model (see `cover`); `Divergence.z_error` says how well.

    Args:
        reference: The density that is right: `iclkit.learners.bayes(task)`.
        model: What is judged.
        task: Where the datasets come from.
        context_sizes: Points in the contexts.
        datasets: How many datasets (D).
        candidates: Draws from the reference's predictive, per dataset and size.
        seed: Seed of datasets and candidates; the same for every model, which makes comparisons paired.

    Raises:
        UserError: Sizes below zero or above the model's limit, fewer than two datasets or candidates, or a
            model whose density changes with points that come later.
    """
    sizes = check_sizes(model, context_sizes)
    if datasets < 2 or candidates < 2:
        raise UserError(f"datasets and candidates must be at least 2, given {datasets} and {candidates}")
    kl, log_z, error, reference_error = [], [], [], []
    for batch in batches(reference, model, task, sizes, datasets, candidates, seed):
        first = batch.candidates.from_reference
        mean = (batch.candidates.log_reference - batch.log_density)[..., :first].double().mean(-1)
        kl.append(mean if batch.log_z is None else mean + batch.log_z.estimate)
        if batch.log_z is not None:
            log_z.append(batch.log_z.estimate)
            error.append(batch.log_z.error)
        monte_carlo = getattr(batch.reference, "error", None)
        if monte_carlo is not None:
            own = monte_carlo(batch.candidates.points[:, :, :first]).double()
            reference_error.append(own.square().mean(-1))
    return Divergence(
        Curve(sizes, torch.cat(kl)),
        Curve(sizes, torch.cat(log_z)) if log_z else None,
        torch.cat(error).square().mean(0).sqrt() if error else None,
        torch.cat(reference_error).mean(0).sqrt() if reference_error else None,
    )


@dataclass(frozen=True)
class Batch:
    """A batch of datasets with candidates that the reference drew and the model scored."""

    episodes: Episodes
    reference: Predictive
    scorer: Scorer
    candidates: Candidates
    log_density: Float[Tensor, "B P K"]
    log_z: LogZ | None
    held_out: Float[Tensor, "B R d"]


def batches(
    reference: DensityLearner,
    model: DensityLearner,
    task: DensityTask,
    context_sizes: tuple[int, ...],
    datasets: int,
    candidates: int,
    seed: int,
    held_out: int = 0,
) -> Iterator[Batch]:
    """Draw datasets and candidates and score them, a few datasets at a time."""
    # Two generators: the datasets do not depend on how many candidates are drawn.
    generator = torch.Generator().manual_seed(seed)
    candidate_generator = torch.Generator().manual_seed(seed + 1)
    longest = max(context_sizes)
    extra = candidates // 2
    step = max(1, _AT_ONCE // (len(context_sizes) * (candidates + extra)))
    for start in range(0, datasets, step):
        with torch.no_grad():
            count = min(step, datasets - start)
            episodes = task.draw(count, longest + held_out, generator)
            x, held = episodes.x[:, :longest], episodes.x[:, longest:]
            predictive = reference.predictives(x, context_sizes)
            scores = scorer(model, x, context_sizes)
            drawn = predictive.sample(candidates, candidate_generator)
            if scores.cover is not None:
                drawn = torch.cat([drawn, scores.cover.sample(extra, candidate_generator)], 2)
            log_reference = predictive.log_prob(drawn)
            log_cover = log_reference if scores.cover is None else scores.cover.log_prob(drawn)
            mixed = Candidates.mix(drawn, log_reference, log_cover, candidates)
            log_density = scores.log_density(drawn)
            log_z = None if scores.normalised else log_partition(log_density, mixed)
            if start == 0:
                check_density(type(model).__name__, model, x, context_sizes)
            yield Batch(episodes, predictive, scores, mixed, log_density, log_z, held)


def log_likelihood_by_context(
    learners: Mapping[str, DensityLearner],
    task: DensityTask,
    context_sizes: Sequence[int] = CONTEXT_SIZES,
    datasets: int = 100,
    held_out: int = 60,
    proposal: DensityLearner | None = None,
    candidates: int = 256,
    seed: int = 0,
) -> dict[str, Curve]:
    """Mean log-likelihood, in nats per point, of held-out points under each learner, by context size.

    Args:
        learners: What is compared, by name; all see the same contexts and the same held-out points.
        task: Where the datasets come from.
        context_sizes: Points in the contexts.
        datasets: How many datasets (D).
        held_out: Points of the same law that no learner sees (R).
        proposal: Where candidates that normalise energies are drawn from, `iclkit.learners.bayes(task)` say.
            None: energies are normalised by their own quadrature, which is slower.
        candidates: Draws from the proposal, per dataset and size.
        seed: Seed of datasets and candidates.

    Returns:
        One curve per learner, of equal datasets: differences of curves are paired.
    """
    sizes = tuple(int(n) for n in context_sizes)
    for learner in learners.values():
        check_sizes(learner, sizes)
    generator = torch.Generator().manual_seed(seed)
    x = task.sample(datasets, max(sizes) + held_out, generator)
    curves = {}
    for name, learner in learners.items():
        # One seed for all energies, so that the order of the learners changes nothing.
        values = _held_out(learner, x, sizes, held_out, proposal, candidates, seed)
        check_density(name, learner, x[:, : max(sizes)], sizes)
        curves[name] = Curve(sizes, values)
    return curves


def _held_out(
    learner: DensityLearner,
    x: Float[Tensor, "D N d"],
    sizes: tuple[int, ...],
    held_out: int,
    proposal: DensityLearner | None,
    candidates: int,
    seed: int,
) -> Float[Tensor, "D P"]:
    generator = torch.Generator().manual_seed(seed + 1)
    extra = candidates // 2
    values = []
    step = max(1, _AT_ONCE // (len(sizes) * (candidates + extra + held_out)))
    for rows in x.split(step):
        with torch.no_grad():
            context, points = rows[:, : max(sizes)], rows[:, -held_out:]
            points = points[:, None].expand(-1, len(sizes), -1, -1)
            if proposal is None and isinstance(learner, EnergyDensity):
                values.append(learner.predictives(context, sizes).log_prob(points).double().mean(-1))
                continue
            scores = scorer(learner, context, sizes)
            log_likelihood = scores.log_density(points).double().mean(-1)
            if not scores.normalised:
                assert proposal is not None
                assert scores.cover is not None
                predictive = proposal.predictives(context, sizes)
                drawn = torch.cat(
                    [predictive.sample(candidates, generator), scores.cover.sample(extra, generator)], 2
                )
                mixed = Candidates.mix(
                    drawn, predictive.log_prob(drawn), scores.cover.log_prob(drawn), candidates
                )
                log_likelihood = log_likelihood - log_partition(scores.log_density(drawn), mixed).estimate
            values.append(log_likelihood)
    return torch.cat(values)


def check_sizes(learner: DensityLearner, context_sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes as a tuple, if the learner takes contexts that long."""
    sizes = tuple(int(n) for n in context_sizes)
    limit = getattr(learner, "limit", None)
    if not sizes or min(sizes) < 0:
        raise UserError(f"context sizes must be zero or more, given {list(context_sizes)}")
    if limit is not None and max(sizes) > limit:
        raise UserError(f"the model takes contexts of up to {limit} points, asked for {max(sizes)}")
    return sizes
