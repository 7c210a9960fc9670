"""Bayes' rule over learners: which of them is right shows in how well each predicts the targets so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from iclkit.errors import UserError
from iclkit.learners.prefixes import sums_before
from iclkit.learners.regression import ProbabilisticLearner


@dataclass(frozen=True)
class PosteriorMixture(ProbabilisticLearner):
    """The mixture of learners, each weighed by its prior probability times the density of the targets so far.

    If each learner is Bayes' rule under one prior, this is Bayes' rule under the mixture of these priors:
    log p(t | x_<n, y_<n) = log p(t) + Σ_{j<n} log p_t(y_j | x_j, pairs before j) + const. The inputs are
    taken to have one law under all of them, so that they alone tell nothing.

    Args:
        learners: The learners. What they say must be Gaussians, or mixtures of Gaussians.
        weights: Their prior probabilities up to a common factor; equal if None.

    Raises:
        UserError: No learners, such without a distribution or of different dimensions, or weights that do not
            fit them.
    """

    learners: tuple[ProbabilisticLearner, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.learners:
            raise UserError("learners must be at least one, given none")
        for learner in self.learners:
            if not isinstance(learner, ProbabilisticLearner):
                raise UserError(f"{type(learner).__name__} gives no distribution, so that nothing can weigh it")
        dims = {learner.dim for learner in self.learners} - {None}
        if len(dims) > 1:
            raise UserError(f"learners must take inputs of one dimension, given those of {sorted(dims)}")  # pyright: ignore
        if self.weights is not None:
            if len(self.weights) != len(self.learners):
                raise UserError(
                    f"weights must be {len(self.learners)}, one a learner, given {len(self.weights)}"
                )
            if not all(weight > 0 and math.isfinite(weight) for weight in self.weights):
                raise UserError(f"weights must be finite and positive, given {self.weights}")

    @property
    def dim(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of those which have one."""
        return next((learner.dim for learner in self.learners if learner.dim is not None), None)

    @property
    def limit(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The least of theirs."""
        return min((learner.limit for learner in self.learners if learner.limit is not None), default=None)

    def posterior(
        self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: list[int]
    ) -> Float[Tensor, "T B P"]:
        """Log posterior probability of each of T learners after each prefix.

        Args:
            x: Inputs.
            y: Targets.
            prefixes: Context lengths, each in 0..N.
        """
        seen = max(prefixes)
        weights = [1.0] * len(self.learners) if self.weights is None else self.weights
        prior = torch.as_tensor(weights, dtype=torch.float64, device=x.device)
        logits = prior.log()[:, None, None].expand(-1, len(x), len(prefixes))
        if seen:
            scores = [learner.log_prob(x[:, :seen], y[:, :seen]) for learner in self.learners]
            logits = logits + torch.stack([sums_before(score.double(), prefixes) for score in scores])
        return logits.log_softmax(0)

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        shares = self.posterior(x, y, list(range(x.shape[1]))).exp().to(x)
        return (shares * torch.stack([learner.predict(x, y) for learner in self.learners])).sum(0)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        shares = self.posterior(x, y, prefixes).exp().to(x)[..., None]
        said = [learner.predict_queries(x, y, queries, prefixes) for learner in self.learners]
        return (shares * torch.stack(said)).sum(0)

    def _distribution(self, x: Tensor, y: Tensor) -> MixtureSameFamily:
        shares = self.posterior(x, y, list(range(x.shape[1])))
        parts = [_gaussians(learner.distribution(x, y)) for learner in self.learners]
        logits = [share.to(x)[..., None] + part[0] for share, part in zip(shares, parts, strict=True)]
        means, stds = (torch.cat([part[i] for part in parts], -1) for i in (1, 2))
        return MixtureSameFamily(Categorical(logits=torch.cat(logits, -1)), Normal(means, stds))

    def log_prob(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """log p(y_n | x_n, pairs before n) in nats, without the components written out; raises as `predict`."""
        shares = self.posterior(x, y, list(range(x.shape[1])))
        scores = torch.stack([learner.log_prob(x, y) for learner in self.learners])
        return (shares + scores).logsumexp(0).to(x)


def _gaussians(said: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """Log shares, means and standard deviations of the Gaussians in a distribution, along a new last axis."""
    if isinstance(said, Normal):
        return torch.zeros_like(said.loc)[..., None], said.loc[..., None], said.scale[..., None]
    if isinstance(said, MixtureSameFamily) and isinstance(said.component_distribution, Normal):
        normal = said.component_distribution
        return said.mixture_distribution.logits, normal.loc, normal.scale
    raise UserError(f"learners must say Gaussians or mixtures of them, given {type(said).__name__}")
