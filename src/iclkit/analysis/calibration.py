"""Whether a density means what it says: coverage, temperature, log Z, scores, and the order of its context.

Most functions take numbers, not learners: log densities f (unnormalised ones too) on candidates, and on points
that really came next. `calibrate` brings the learners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.density import batches, check_sizes
from iclkit.analysis.importance import Candidates, model_weights
from iclkit.analysis.intervals import Curve
from iclkit.analysis.scoring import scorer
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import DensityLearner
from iclkit.tasks import DensityTask

LEVELS = (0.5, 0.8, 0.95)


def density_rank(
    at_points: Float[Tensor, "B P R"], log_density: Float[Tensor, "B P K"], candidates: Candidates
) -> Float[Tensor, "B P R"]:
    """Mass of the model's highest-density region that has each point on its boundary.

    For a model that is right this is uniform on [0, 1]: half of what comes next lies in its 50 % region.

    Args:
        at_points: Log density of the model at points that were not among the candidates.
        log_density: The same at the candidates.
        candidates: The candidates.
    """
    weights = model_weights(log_density, candidates)
    ordered, order = log_density.sort(-1)
    # Mass of all candidates that are at least as dense as each, from the densest down.
    above = torch.take_along_dim(weights, order, -1).flip(-1).cumsum(-1).flip(-1)
    above = torch.cat([above, torch.zeros_like(above[..., :1])], -1)
    place = torch.searchsorted(ordered, at_points.contiguous())
    return above.gather(-1, place).clamp(0, 1)


def coverage(
    ranks: Float[Tensor, "B P R"], levels: Sequence[float] = LEVELS
) -> dict[float, Float[Tensor, "B P"]]:
    """Share of the points inside the highest-density region of each level."""
    return {level: (ranks <= level).double().mean(-1) for level in levels}


def best_temperature(
    at_points: Float[Tensor, "B P R"], log_density: Float[Tensor, "B P K"], candidates: Candidates
) -> Float[Tensor, " P"]:
    """The temperature T at which exp(f / T) / Z(T) gives the points the highest likelihood.

    It should be 1; above 1 the model is too sharp, below 1 too flat. The likelihood is concave in β = 1/T, with
    the derivative mean f(points) - E_β[f], so bisection finds its maximum. One T for all datasets of a prefix.

    Args:
        at_points: Log density of the model, normalised or not, at points that really came next.
        log_density: The same at the candidates.
        candidates: The candidates.

    Returns:
        The temperatures, within [0.05, 20].
    """
    target = at_points.double().mean((0, 2))
    f = log_density.double()
    low = torch.full_like(target, 0.05)
    high = torch.full_like(target, 20.0)
    for _ in range(40):
        beta = (low * high).sqrt()
        weights = torch.softmax(beta[:, None] * f - candidates.log_proposal.double(), -1)
        expected = (weights * f).sum(-1).mean(0)
        too_small = expected < target
        low, high = torch.where(too_small, beta, low), torch.where(too_small, high, beta)
    return 1 / (low * high).sqrt()


def scores(
    log_density: Callable[[Float[Tensor, "B P K d"]], Float[Tensor, "B P K"]], points: Float[Tensor, "B P K d"]
) -> Float[Tensor, "B P K d"]:
    """Gradient of a log density with respect to the points alone."""
    with torch.enable_grad():
        points = points.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(points).sum(), points)
    return gradient


def score_error(
    model: Float[Tensor, "B P K d"], reference: Float[Tensor, "B P K d"]
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Mean squared error of the model's scores at draws from the reference, and their mean square.

    Args:
        model: Gradients of the model's log density at draws from the reference.
        reference: Gradients of the reference's log density at the same draws.

    Returns:
        E|s_model - s_reference|² (the Fisher divergence) and E|s_reference|², in inverse squared units of x.
    """
    return (model - reference).square().sum(-1).mean(-1), reference.square().sum(-1).mean(-1)


def permutation_sensitivity(
    log_density: Callable[[Float[Tensor, "B n d"]], Float[Tensor, "B K"]],
    context: Float[Tensor, "B n d"],
    permutations: int = 8,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    """How much what a model says depends on the order of its context, which tells nothing.

    Args:
        log_density: Scores fixed candidates under a context.
        context: The contexts.
        permutations: Orders compared, at least two.
        generator: Source of the orders.

    Returns:
        Standard deviation over orders, in nats, root mean square over the candidates.

    Raises:
        UserError: Fewer than two orders.
    """
    if permutations < 2:
        raise UserError(f"permutations must be at least 2, given {permutations}")
    scored = []
    for _ in range(permutations):
        order = torch.rand(context.shape[:2], generator=generator).argsort(1).to(context.device)
        scored.append(log_density(torch.take_along_dim(context, order[..., None], 1)))
    return torch.stack(scored).var(0).mean(-1).sqrt()


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model by context size.

    Args:
        coverage: Share of the points that really came next inside the model's region of each level.
        temperature: The temperature that fits best, over all datasets.
        abs_log_z: |log Z| of exp(-E); zero for a model that is normalised by construction.
        score_error: E|s_model - s_reference|² at draws from the reference.
        score_size: E|s_reference|² there.
        order: Standard deviation, in nats, over orders of the context.
    """

    coverage: dict[float, Curve]
    temperature: Float[Tensor, " P"]
    abs_log_z: Curve
    score_error: Curve
    score_size: Curve
    order: Curve

    def table(self) -> Table:
        """One row per context size."""
        coverage = {level: curve.interval() for level, curve in self.coverage.items()}
        rows = [
            [
                str(n),
                *(f"{100 * c.mean[i]:.1f} ± {100 * c.half_width[i]:.1f}" for c in coverage.values()),
                f"{self.temperature[i]:.3f}",
                f"{self.abs_log_z.mean[i]:.3f}",
                f"{self.score_error.mean[i] / self.score_size.mean[i]:.3f}",
                f"{self.order.mean[i]:.3f}",
            ]
            for i, n in enumerate(self.abs_log_z.context_sizes)
        ]
        heads = [f"in the {100 * level:.0f} % region / %" for level in coverage]
        return Table(
            [
                "context points",
                *heads,
                "best temperature",
                "mean |log Z| / nats",
                "score error, relative",
                "order of context / nats",
            ],
            rows,
        )


def calibrate(
    reference: DensityLearner,
    model: DensityLearner,
    task: DensityTask,
    context_sizes: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    datasets: int = 200,
    candidates: int = 192,
    held_out: int = 8,
    permutations: int = 4,
    seed: int = 0,
) -> Calibration:
    """Calibration on fresh datasets of a task.

    Args:
        reference: The density that is right; candidates and the scores to compare with come from it.
        model: What is judged.
        task: Where datasets and the points that come next are drawn.
        context_sizes: Points in the contexts.
        datasets: How many datasets.
        candidates: Draws from the reference's predictive, per dataset and size.
        held_out: Points of each dataset that no context holds.
        permutations: Orders of the context to compare.
        seed: Seed of all draws.

    Raises:
        UserError: Sizes that the model does not take.
    """
    sizes = check_sizes(model, context_sizes)
    generator = torch.Generator().manual_seed(seed + 2)
    ranks, at_points, log_density, proposals = [], [], [], []
    log_z, error, size, order = [], [], [], []
    for batch in batches(reference, model, task, sizes, datasets, candidates, seed, held_out):
        with torch.no_grad():
            held = batch.held_out[:, None].expand(-1, len(sizes), -1, -1)
            at_points.append(batch.scorer.log_density(held))
            log_density.append(batch.log_density)
            proposals.append(batch.candidates.log_proposal)
            ranks.append(density_rank(at_points[-1], batch.log_density, batch.candidates))
            zero = batch.log_density.new_zeros(batch.log_density.shape[:2])
            log_z.append(zero if batch.log_z is None else batch.log_z.estimate)
            order.append(_order(model, batch.episodes.x[:, : max(sizes)], held, sizes, permutations, generator))
        drawn = batch.candidates.points[:, :, : min(16, candidates)]
        difference, reference_size = score_error(
            scores(batch.scorer.log_density, drawn), scores(batch.reference.log_prob, drawn)
        )
        error.append(difference)
        size.append(reference_size)
    all_candidates = Candidates(torch.empty(0), torch.empty(0), torch.cat(proposals), candidates)
    return Calibration(
        {level: Curve(sizes, c) for level, c in coverage(torch.cat(ranks)).items()},
        best_temperature(torch.cat(at_points), torch.cat(log_density), all_candidates),
        Curve(sizes, torch.cat(log_z).abs()),
        Curve(sizes, torch.cat(error)),
        Curve(sizes, torch.cat(size)),
        Curve(sizes, torch.cat(order)),
    )


def _order(
    model: DensityLearner,
    x: Float[Tensor, "B N d"],
    points: Float[Tensor, "B P R d"],
    sizes: tuple[int, ...],
    permutations: int,
    generator: torch.Generator,
) -> Float[Tensor, "B P"]:
    """Sensitivity to the order of each of the contexts."""
    columns = []
    for p, n in enumerate(sizes):

        def log_density(context: Tensor, p: int = p, n: int = n) -> Tensor:
            return scorer(model, context, [n]).log_density(points[:, p : p + 1])[:, 0]

        columns.append(permutation_sensitivity(log_density, x[:, :n], permutations, generator))
    return torch.stack(columns, 1)
