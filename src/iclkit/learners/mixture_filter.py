"""Bayes' predictive of conjugate mixtures: a collapsed particle filter over assignments, exact at first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner
from iclkit.learners.conjugate import AssignmentPrior, ComponentFamily, Density
from iclkit.learners.mixture_predictive import MixturePredictive, stack_components


@dataclass(frozen=True)
class MixtureFilter(DensityLearner):
    """Bayes' predictive of a mixture whose components' parameters are integrated out, at every prefix.

    A particle is an assignment of the points so far to components. Each new point turns a particle into one
    child per component that it may have come from, with exact weights. While all children fit, all are kept
    and the predictive is exact; from then on an unbiased choice of least variance keeps `particles` (`thin`).

    Args:
        dim: Dimension of the points.
        assignments: Prior of the assignments.
        family: The components.
        particles: Assignments kept per episode (S).
        seed: Seed of the thinning. An episode's answer depends on it and on the episode, not on the batch.

    Raises:
        UserError: Fewer than one particle.

    Source: Chen and Liu (2000), Mixture Kalman filters (the collapsed filter); Fearnhead and Clifford (2003),
        On-line inference for hidden Markov models via particle filters (the thinning).
    """

    dim: int
    assignments: AssignmentPrior
    family: ComponentFamily
    particles: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise UserError(f"particles must be at least 1, given {self.particles}")

    @neutral()
    def predictives(
        self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None
    ) -> MixturePredictive:
        x, lengths = self._given(x, prefixes)
        wanted = set(lengths)
        kept: dict[int, tuple[Tensor, Density]] = {}
        for step in self._steps(x[:, : max(lengths)]):
            if step.seen in wanted:
                kept[step.seen] = self._mixture(step, len(x))
        log_weights, densities = zip(*(kept[n] for n in lengths), strict=True)
        means, whiten, dof = zip(*densities, strict=True)
        return MixturePredictive(
            stack_components(log_weights, -math.inf),
            stack_components(means, 0.0),
            stack_components(whiten, 1.0),
            None if dof[0] is None else stack_components(dof, 1.0),
        )

    def components(
        self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "B P k d"], Float[Tensor, "B P"]]:
        """What is known of the components after each prefix, in the order in which they are first seen.

        Args:
            x: Episodes; N may be 0.
            prefixes: Context lengths P, each in 0..N; all of 0, 1, ..., N if None.

        Returns:
            The posterior means of the components' means (their prior mean where none has been seen), and of how
            many components the points come from.

        Raises:
            UserError: Points of another dimension, or a prefix that is not in 0..N.
        """
        x, lengths = self._given(x, prefixes)
        wanted = set(lengths)
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        for step in self._steps(x[:, : max(lengths)]):
            if step.seen in wanted:
                weights = step.log_weights.exp()
                means = (weights[..., None, None] * self.family.density(step.state)[0]).sum(1)
                counts = (weights * (step.state[0] > 0).sum(-1)).sum(1)
                kept[step.seen] = means.expand(len(x), -1, -1), counts.expand(len(x))
        means, counts = zip(*(kept[n] for n in lengths), strict=True)
        return torch.stack(means, 1), torch.stack(counts, 1)

    def log_prob(self, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N"]:
        # The filter's own normalising constants: the same numbers as through `predictives`, for nothing.
        x, _ = self._given(x, None)
        evidence = [step.log_evidence for step in self._steps(x)][1:]
        return torch.stack(evidence, 1) if evidence else x.new_zeros(x.shape[:2])

    def _mixture(self, step: _Step, batch: int) -> tuple[Tensor, Density]:
        """The predictive after one step, its particles and slots flattened into one axis of components."""
        prior = self.assignments.log_assign(step.state[0], step.seen)
        log_weights = (step.log_weights[..., None] + prior).flatten(1)

        def flat(part: Tensor) -> Tensor:
            return part.flatten(1, 2).expand(batch, *[-1] * (part.ndim - 2))

        means, whiten, dof = self.family.density(step.state)
        density = Density(flat(means), flat(whiten), None if dof is None else flat(dof))
        return log_weights.expand(batch, -1), density

    def _steps(self, x: Float[Tensor, "B N d"]) -> Iterator[_Step]:
        """The filter before any point and after each."""
        generator = torch.Generator().manual_seed(self.seed)
        slots = self.assignments.slots
        # While all assignments are kept they are the same for every episode: only how many slots each occupies
        # matters for its children. None once thinning has begun.
        occupied: Tensor | None = torch.zeros(1, dtype=torch.long)
        step = _Step(0, x.new_zeros(len(x), 1), self.family.empty(x, slots), x.new_zeros(len(x)))
        yield step
        for seen, point in enumerate(x.unbind(1)):
            # One uniform number for all episodes: each is thinned without bias, whatever batch it is in.
            offset = torch.rand((), generator=generator, dtype=torch.float64).to(x)
            children = (
                step.log_weights[..., None]
                + self.assignments.log_assign(step.state[0], seen)
                + self.family.log_density(step.state, point)
            ).flatten(1)
            log_evidence = torch.logsumexp(children, -1)
            children = children - log_evidence[:, None]
            chosen, occupied = self._all_children(occupied)
            if chosen is None:
                chosen, log_weights = thin(children, self.particles, offset)
            else:
                chosen = chosen.to(x.device).expand(len(x), -1)
                log_weights = children.gather(1, chosen)
            state = self._descend(step.state, chosen // slots, chosen % slots, point)
            step = _Step(seen + 1, log_weights, state, log_evidence)
            yield step

    def _all_children(self, occupied: Int[Tensor, " S"] | None) -> tuple[Tensor | None, Tensor | None]:
        """Indices (particle * slots + slot) and occupied slots of every child of a full set of assignments.

        Both are None when the children are more than `particles`, or the set is no longer full.
        """
        if occupied is None:
            return None, None
        slot = torch.arange(self.assignments.slots)
        possible = slot <= occupied[:, None]
        if possible.sum() > self.particles:
            return None, None
        grown = torch.maximum(occupied[:, None], slot + 1)
        return possible.flatten().nonzero().squeeze(1), grown[possible]

    def _descend(self, state: tuple, parent: Int[Tensor, "B S"], slot: Int[Tensor, "B S"], x: Tensor) -> tuple:
        """The chosen parents' statistics with the point added to the chosen slots."""
        episode = torch.arange(len(x), device=x.device)[:, None]
        particle = torch.arange(parent.shape[1], device=x.device)
        whole = [part.expand(len(x), *part.shape[1:])[episode, parent] for part in state]
        grown = self.family.add(type(state)(*(part[episode, particle, slot] for part in whole)), x)
        for part, new in zip(whole, grown, strict=True):
            part[episode, particle, slot] = new
        return type(state)(*whole)


@dataclass(frozen=True)
class _Step:
    """The filter after `seen` points; the batch axis of `state` is 1 before the first."""

    seen: int
    log_weights: Float[Tensor, "B S"]
    state: tuple
    log_evidence: Float[Tensor, " B"]


def thin(
    log_weights: Float[Tensor, "B C"], size: int, offset: Float[Tensor, ""]
) -> tuple[Int[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Choose `size` of C weighted candidates without bias and with the least variance of the weights.

    With c the solution of Σ min(1, w/c) = size, candidates of w >= c are kept with their weights, and each
    other one with probability w/c and weight c; so every expected weight is the old one, and none comes twice.

    Args:
        log_weights: Normalised log weights; C > size.
        size: How many to keep (S).
        offset: A uniform number in [0, 1), the only randomness (systematic resampling).

    Returns:
        Indices and log weights of those kept.

    Source: Fearnhead and Clifford (2003), section 3.2.
    """
    ordered, order = log_weights.sort(-1, descending=True)
    weights = ordered.exp()
    tail = weights.flip(-1).cumsum(-1).flip(-1)  # Σ_{i >= a}, so that tail[a] is left if the first a are kept
    rest = torch.arange(size, 0, -1, dtype=weights.dtype, device=weights.device)
    threshold = tail[:, :size] / rest
    # The fewest that can be kept outright; at a = size - 1 the condition always holds.
    fits = weights[:, :size] <= threshold
    fits[:, -1] = True
    outright = fits.to(torch.uint8).argmax(-1, keepdim=True)
    level = threshold.gather(1, outright)
    left = (size - outright).to(weights)

    sure = torch.arange(weights.shape[1], device=weights.device) < outright
    share = (weights / level.clamp_min(torch.finfo(weights.dtype).tiny)).masked_fill(sure, 0.0)
    reached = torch.minimum(share.cumsum(-1), left)
    reached[:, -1:] = left  # so that rounding loses nobody
    copies = torch.floor(reached + offset).diff(dim=-1, prepend=torch.zeros_like(left)).masked_fill(sure, 1.0)
    # Rounding may give a candidate two copies; `topk` then fills up with one of none, whose log weight is -inf.
    count, position = copies.topk(size, -1)
    new = torch.where(sure.gather(1, position), ordered.gather(1, position), level.log() + count.log())
    new = new.masked_fill(ordered.gather(1, position) == -math.inf, -math.inf)
    return order.gather(1, position), new
