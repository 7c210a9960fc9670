"""Bayes by brute force: every assignment of the points to components, for contexts of a few points.

Written apart from the particle filter on purpose, so that one can test the other: assignments carry labels, the
evidence of a component's points is one formula for all of them rather than a product of predictives, and the
number of components is summed over like everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner
from iclkit.learners.mixture_predictive import MixturePredictive, stack_components
from iclkit.tasks import ConjugateMixtures, GaussianMixtures

MAX_ASSIGNMENTS = 20_000


@dataclass(frozen=True)
class EnumerationBayes(DensityLearner):
    """Bayes' predictive of a mixture task, by summing over all k^n labelled assignments.

    Args:
        task: A task whose components integrate out.

    Raises:
        UserError: From `predictives`, for contexts with more than 20,000 assignments.
    """

    task: GaussianMixtures | ConjugateMixtures

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.task.dim

    @neutral()
    def predictives(
        self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None
    ) -> MixturePredictive:
        x, lengths = self._given(x, prefixes)
        parts = [self._predictive(x[:, :n]) for n in lengths]
        log_weights, means, whiten, dof = zip(*parts, strict=True)
        return MixturePredictive(
            stack_components(log_weights, -math.inf),
            stack_components(means, 0.0),
            stack_components(whiten, 1.0),
            None if dof[0] is None else stack_components(dof, 1.0),
        )

    def _predictive(self, x: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Log weights, means, whiteners and degrees of freedom of all (assignment, component) pairs."""
        if isinstance(self.task, GaussianMixtures):
            counts = [self.task.components]
        else:
            counts = list(range(1, self.task.max_components + 1))
        if sum(k ** x.shape[1] for k in counts) > MAX_ASSIGNMENTS:
            raise UserError(
                f"{x.shape[1]} points have more than {MAX_ASSIGNMENTS} assignments to components; "
                "use the particle filter, iclkit.learners.bayes(task)"
            )
        blocks = [self._one_count(x, k) for k in counts]
        log_weights, means, whiten, dof = zip(*blocks, strict=True)
        joint = torch.cat(log_weights, 1)
        return (
            joint - torch.logsumexp(joint, -1, keepdim=True),
            torch.cat(means, 1),
            torch.cat(whiten, 1),
            None if dof[0] is None else torch.cat(dof, 1),
        )

    def _one_count(self, x: Float[Tensor, "B n d"], k: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The same for k components; log weights are log p(k, z, x, next component) up to one constant."""
        member = torch.nn.functional.one_hot(_assignments(x.shape[1], k).to(x.device), k).to(x)  # [A, n, k]
        sizes = member.sum(1)
        sums = torch.einsum("ank,bnd->bakd", member, x)
        products = torch.einsum("ank,bnd,bne->bakde", member, x, x)
        if isinstance(self.task, GaussianMixtures):
            log_prior = torch.full_like(sizes, -(x.shape[1] + 1) * math.log(k))
            evidence, means, whiten, dof = self._gaussian(sizes, sums, products)
        else:
            alpha = self.task.concentration
            weights = torch.lgamma(sizes + alpha) - math.lgamma(alpha)
            total = math.lgamma(k * alpha) - math.lgamma(k * alpha + x.shape[1] + 1)
            # p(z, next = j | k): the Dirichlet-multinomial formula with slot j one larger.
            log_prior = weights.sum(-1, keepdim=True) + (sizes + alpha).log() + total
            evidence, means, whiten, dof = self._wishart(sizes, sums, products)
        log_weights = log_prior + evidence.sum(-1, keepdim=True)
        return (
            log_weights.flatten(1),
            means.flatten(1, 2),
            whiten.flatten(1, 2),
            None if dof is None else dof.expand(len(x), -1, -1).flatten(1),
        )

    def _gaussian(
        self, sizes: Float[Tensor, "A k"], sums: Float[Tensor, "B A k d"], products: Float[Tensor, "B A k d d"]
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Log evidence of a component's points, N(0, s² I + τ² 11ᵀ) along each axis, and its predictive."""
        assert isinstance(self.task, GaussianMixtures)
        signal, noise, dim = self.task.mean_std**2, self.task.std**2, self.dim
        squares = products.diagonal(dim1=-2, dim2=-1).sum(-1)
        total = noise + sizes * signal
        quadratic = (squares - sums.square().sum(-1) * signal / total) / noise
        log_det = sizes * math.log(noise) + (total / noise).log()
        evidence = -0.5 * (quadratic + dim * (log_det + sizes * math.log(2 * math.pi)))
        std = (noise + signal * noise / total).sqrt()
        return evidence, sums * (signal / total)[..., None], (1 / std).expand(len(sums), -1, -1), None

    def _wishart(
        self, sizes: Float[Tensor, "A k"], sums: Float[Tensor, "B A k d"], products: Float[Tensor, "B A k d d"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same with mean and covariance integrated out: a ratio of normal-inverse-Wishart constants."""
        assert isinstance(self.task, ConjugateMixtures)
        dim, nu, kappa = self.dim, self.task.dof, self.task.strength
        after = kappa + sizes
        means = sums / after[..., None]
        prior = self.task.scale * torch.eye(dim, dtype=sums.dtype, device=sums.device)
        scale = prior + products - after[..., None, None] * means[..., :, None] * means[..., None, :]
        evidence = (
            -0.5 * sizes * dim * math.log(math.pi)
            + torch.mvlgamma(0.5 * (nu + sizes), dim)
            - torch.mvlgamma(sums.new_tensor(0.5 * nu), dim)
            + 0.5 * nu * dim * math.log(self.task.scale)
            - 0.5 * (nu + sizes) * torch.logdet(scale)
            + 0.5 * dim * (kappa / after).log()
        )
        dof = nu + sizes - dim + 1
        shape = scale * ((after + 1) / (after * dof))[..., None, None]
        whiten = torch.linalg.inv(torch.linalg.cholesky(shape))
        return evidence, means, whiten, dof


def _assignments(points: int, k: int) -> Int[Tensor, "A n"]:
    """All k^n label vectors, by counting in base k."""
    number = torch.arange(k**points)[:, None]
    return number // k ** torch.arange(points) % k
