"""What an energy network is trained to minimise.

Every objective sees a batch of episodes and compares, at every index n, the energy of the real point x_n with
those of candidates under the same context x_<n. The context is encoded once. f = -E throughout, q is a proposal
density, M the number of negatives.

| objective               | the energy it leads to                                   |
|-------------------------|----------------------------------------------------------|
| ContrastiveDivergence   | unnormalised, of arbitrary scale (as published)           |
| PersistentDivergence    | unnormalised                                             |
| ImportanceLikelihood    | -log p up to a constant of the context                   |
| RankingNCE              | -log p up to a constant of the context                   |
| BinaryNCE               | -log p itself: normalised                                |
| DenoisingScoreMatching  | -log of p smoothed by its noise; weak on mode weights    |
| EnergyDiscrepancy       | -log p up to a constant of the context                   |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from iclkit.energy.langevin import langevin
from iclkit.energy.proposals import Proposal
from iclkit.errors import UserError, unknown
from iclkit.tasks import Episodes

State = dict[str, Tensor]
Result = tuple[Tensor, dict[str, Tensor], State]


@runtime_checkable
class EnergyNetwork(Protocol):
    """What objectives need of a network; `EnergyTransformer` is one."""

    def encode_and_score(self, x: Float[Tensor, "B N d"]) -> tuple[Float[Tensor, "B N"], Any]: ...

    def query(
        self, context: Any, candidates: Float[Tensor, "B P K d"], prefixes: Tensor, twice: bool = False
    ) -> Float[Tensor, "B P K"]: ...


@dataclass(frozen=True)
class Objective(ABC):
    """A loss over a batch of episodes. Members are frozen dataclasses: a recipe can name them completely."""

    @abstractmethod
    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        """Evaluate the loss.

        Args:
            network: The network to train.
            episodes: A batch of datasets.
            generator: Source of every draw.
            state: What the last call returned; empty at first.

        Returns:
            The scalar loss, metrics to log, and the state for the next call (checkpointed with the run).
        """


def _compare(network: EnergyNetwork, x: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Energies of the real points [B, N] and of candidates [B, N, K], all under their own prefixes."""
    real, context = network.encode_and_score(x)
    return real, network.query(context, candidates, torch.arange(x.shape[1], device=x.device))


def _divergence(real: Tensor, negative: Tensor, penalty: float) -> tuple[Tensor, dict[str, Tensor]]:
    loss = real.mean() - negative.mean()
    if penalty:
        loss = loss + penalty * (real.square().mean() + negative.square().mean())
    return loss, {"energy_real": real.mean(), "energy_negative": negative.mean()}


@dataclass(frozen=True)
class ContrastiveDivergence(Objective):
    """Contrastive divergence with short Langevin chains that start from uniform noise, exactly as published.

    The chains move by -step_size ∇E + noise_std ξ, which samples exp(-E/τ) at τ = noise_std² / (2 step_size).
    The published numbers give τ = 1.6e-5, gradient descent in effect: the learned energy's scale means nothing.

    Args:
        negatives: Chains per real point (K).
        steps: Langevin steps (T).
        step_size: α.
        noise_std: σ.
        start: Chains start from the uniform density on [-start, start]^d.
        penalty: Weight of E² over real and negative points.

    Source: Schaeffer, Khona and Koyejo (2024): loss of equation 4, chains of equation 5, pseudocode in
        Figure 2; `start` and `penalty` from their code.
    """

    negatives: int = 3
    steps: int = 15
    step_size: float = 3.16
    noise_std: float = 0.01
    start: float = 15.0
    penalty: float = 1e-3

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        batch, points, dim = x.shape
        uniform = torch.rand(
            batch, points, self.negatives, dim, generator=generator, dtype=x.dtype, device=x.device
        )
        chains = self.start * (2 * uniform - 1)
        real, context = network.encode_and_score(x)
        chains = langevin(network, context, chains, self.steps, self.step_size, self.noise_std, generator)
        negative = network.query(context, chains, torch.arange(points, device=x.device))
        loss, metrics = _divergence(real, negative, self.penalty)
        return loss, metrics, state


@dataclass(frozen=True)
class PersistentDivergence(Objective):
    """Contrastive divergence whose chains go on from step to step, each with the context that it samples.

    Contexts stay in the batch for `reuse` steps on average, with their chains; every step a random share of
    them is replaced by new episodes, whose chains start from uniform noise.

    Args:
        negatives: Chains per real point (K).
        steps: Langevin steps per training step.
        step_size: α; the default noise samples exp(-E) itself, at temperature one.
        noise_std: σ; None for √(2α), temperature one.
        start: New chains start from the uniform density on [-start, start]^d.
        reuse: Mean number of steps that a context stays.
        fresh: Share of chains restarted at every step.
        penalty: Weight of E² over real and negative points.

    Source: Tieleman (2008); the restarts as in Du and Mordatch (2019).
    """

    negatives: int = 3
    steps: int = 10
    step_size: float = 0.01
    noise_std: float | None = None
    start: float = 15.0
    reuse: float = 10.0
    fresh: float = 0.05
    penalty: float = 1e-3

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        batch, points, dim = x.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)

        chains = self.start * (2 * uniform(batch, points, self.negatives, dim) - 1)
        if state:
            _check_state(state, {"contexts": x.shape, "chains": chains.shape})
            replaced = uniform(batch, 1, 1, 1) < 1 / self.reuse
            restarted = replaced | (uniform(batch, points, self.negatives, 1) < self.fresh)
            x = torch.where(replaced[..., 0], x, state["contexts"])
            chains = torch.where(restarted, chains, state["chains"])
        noise_std = math.sqrt(2 * self.step_size) if self.noise_std is None else self.noise_std
        real, context = network.encode_and_score(x)
        chains = langevin(network, context, chains, self.steps, self.step_size, noise_std, generator)
        negative = network.query(context, chains, torch.arange(points, device=x.device))
        loss, metrics = _divergence(real, negative, self.penalty)
        return loss, metrics, {"contexts": x, "chains": chains}


def _check_state(state: State, shapes: dict[str, torch.Size]) -> None:
    """Refuse a state, from a file perhaps, that is none of this objective and batch."""
    if {name: value.shape for name, value in state.items()} != shapes:
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in state.items())
        needed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise UserError(f"the state of the objective is of another batch: it has {found}, not {needed}")


@dataclass(frozen=True)
class ImportanceLikelihood(Objective):
    """Maximum likelihood, -f(x) + log Z, with Z = (1/M) Σ exp(f_j - log q_j) by importance sampling.

    Args:
        proposal: Density of the candidates.
        negatives: Candidates per real point (M).
    """

    proposal: Proposal = field(default_factory=Proposal)
    negatives: int = 8

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        candidates = self.proposal.sample(x, self.negatives, generator)
        real, negative = _compare(network, x, candidates)
        log_ratio = -negative - self.proposal.log_prob(x, candidates)
        log_partition = torch.logsumexp(log_ratio, -1) - math.log(self.negatives)
        loss = (real + log_partition).mean()
        return loss, {"log_partition": log_partition.mean()}, state


@dataclass(frozen=True)
class RankingNCE(Objective):
    """Which of M + 1 points is the real one? A softmax over f - log q.

    Args:
        proposal: Density of the negatives.
        negatives: Negatives per real point (M).

    Source: Ma and Collins (2018), the ranking objective.
    """

    proposal: Proposal = field(default_factory=Proposal)
    negatives: int = 8

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        negatives = self.proposal.sample(x, self.negatives, generator)
        real, negative = _compare(network, x, negatives)
        everyone = torch.cat([x[:, :, None], negatives], 2)
        score = -torch.cat([real[..., None], negative], -1) - self.proposal.log_prob(x, everyone)
        accuracy = (score.argmax(-1) == 0).float().mean()
        return -torch.log_softmax(score, -1)[..., 0].mean(), {"accuracy": accuracy}, state


@dataclass(frozen=True)
class BinaryNCE(Objective):
    """Is a point real or from the proposal? Logistic loss on f - log q - log(M / P), for all points separately.

    Its minimum is the normalised energy, E = -log p. With `labels="law"` the label of a candidate is not which
    of the two it was drawn from, but the probability of that given where it lies: P p / (P p + M q), where p is
    the law that the episode itself was drawn from, which every simulator knows. That is the conditional
    expectation of the hard label given the candidate, the law and the context (Rao-Blackwell), so the minimum
    is the same, the Bayes predictive, and the gradient has less variance. The law enters through the label
    alone, never the network.

    Args:
        proposal: Density of the negatives.
        positives: Points from the episode's law for every prefix (P): x_n, and P - 1 fresh ones (needs a law).
        negatives: Points from the proposal for every prefix (M).
        prefixes: How many prefixes, drawn anew at every step, are compared; None for all. Prefixes of one
            episode have much in common, so that fewer of them from more episodes teach more at the same cost.
        labels: "hard" (no law needed) or "law".

    Raises:
        UserError: Law needed and the task knows none.

    Source: Gutmann and Hyvärinen (2010) for the hard labels.
    """

    proposal: Proposal = field(default_factory=Proposal)
    positives: int = 1
    negatives: int = 8
    prefixes: int | None = None
    labels: Literal["hard", "law"] = "hard"

    def __post_init__(self) -> None:
        if self.labels not in ("hard", "law"):
            raise unknown("labels", self.labels, ("hard", "law"))
        if min(self.positives, self.negatives) < 1:
            raise UserError(
                f"positives and negatives must be at least 1, given {self.positives} and {self.negatives}"
            )

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x, law = episodes.x, episodes.law
        if law is None and (self.positives > 1 or self.labels == "law"):
            raise UserError("this task does not know its law; use positives=1 and labels='hard'")
        batch, points, dim = x.shape
        real, context = network.encode_and_score(x)
        chosen = torch.arange(points, device=x.device)
        if self.prefixes is not None and self.prefixes < points:
            order = torch.rand(points, generator=generator, device=x.device).argsort()
            chosen = order[: self.prefixes].sort().values
        drawn = [self.proposal.sample(x, self.negatives, generator, chosen)]
        if law is not None and self.positives > 1:
            extra = law.sample(len(chosen) * (self.positives - 1), generator)
            drawn.insert(0, extra.view(batch, len(chosen), self.positives - 1, dim))
        candidates = torch.cat(drawn, 2)
        energies = network.query(context, candidates, chosen)
        everyone = torch.cat([x[:, chosen, None], candidates], 2)
        offset = math.log(self.positives / self.negatives) - self.proposal.log_prob(x, everyone, chosen)
        logit = offset - torch.cat([real[:, chosen, None], energies], -1)
        if law is not None and self.labels == "law":
            label = torch.sigmoid(offset + law.log_prob(everyone))
        else:
            label = torch.zeros_like(logit)
            label[..., : self.positives] = 1
        loss = (
            F.binary_cross_entropy_with_logits(logit, label, reduction="none").sum(-1).mean() / self.positives
        )
        return loss, {"nll": real.mean()}, state


@dataclass(frozen=True)
class DenoisingScoreMatching(Objective):
    """Match the score of the smoothed density: ‖∇f(x̃) + (x̃ - x)/s²‖² s², at x̃ = x + sξ.

    Args:
        noise_std: s, in the points' units.
        copies: Noisy copies of every real point.

    Source: Vincent (2011). The factor s² makes the loss of the zero score d, whatever s is.
    """

    noise_std: float = 0.2
    copies: int = 2

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        batch, points, dim = x.shape
        noise = torch.randn(
            batch, points, self.copies, dim, generator=generator, dtype=x.dtype, device=x.device
        )
        noisy = (x[:, :, None] + self.noise_std * noise).requires_grad_()
        _, context = network.encode_and_score(x)
        energy = network.query(context, noisy, torch.arange(points, device=x.device), twice=True)
        (gradient,) = torch.autograd.grad(energy.sum(), noisy, create_graph=True)
        loss = (self.noise_std * gradient - noise).square().sum(-1).mean()
        return loss, {"energy_noisy": energy.mean()}, state


@dataclass(frozen=True)
class EnergyDiscrepancy(Objective):
    """log[w + Σ_j exp(E(x) - E(x + √t ξ + √t ξ'_j))] / M: no proposal and no chain.

    Args:
        time: t, the variance of either perturbation.
        negatives: Perturbed points per real point (M).
        stabiliser: w; it bounds the loss from below.

    Source: Schröder et al. (2023), equation 8.
    """

    time: float = 0.25
    negatives: int = 8
    stabiliser: float = 1.0

    def __call__(
        self, network: EnergyNetwork, episodes: Episodes, generator: torch.Generator, state: State
    ) -> Result:
        x = episodes.x
        batch, points, dim = x.shape

        def noise(count: int) -> Tensor:
            return torch.randn(batch, points, count, dim, generator=generator, dtype=x.dtype, device=x.device)

        # One shared forward perturbation, then M independent ones back.
        candidates = x[:, :, None] + math.sqrt(self.time) * (noise(1) + noise(self.negatives))
        real, negative = _compare(network, x, candidates)
        difference = real[..., None] - negative
        stabiliser = torch.full_like(real, math.log(self.stabiliser))[..., None]
        loss = torch.logsumexp(torch.cat([stabiliser, difference], -1), -1).mean() - math.log(self.negatives)
        return loss, {"energy_difference": difference.mean()}, state


OBJECTIVES: dict[str, type[Objective]] = {
    objective.__name__: objective
    for objective in (
        ContrastiveDivergence,
        PersistentDivergence,
        ImportanceLikelihood,
        RankingNCE,
        BinaryNCE,
        DenoisingScoreMatching,
        EnergyDiscrepancy,
    )
}
