"""Bayes' rule for linear functions with few non-zero weights: a posterior for each support, by its evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from iclkit.errors import UserError
from iclkit.learners.prefixes import by_parts
from iclkit.learners.regression import LinearLearner, ProbabilisticLearner, check_pairs

LARGEST = 2**20
"""The most supports that are summed over."""
# Numbers held in the covariances of the supports at a time, so that they stay in a core's cache.
_HELD = 2**16
# The largest predictive that is written out component by component: 256 MB in float64.
_WRITTEN_OUT = 2**25


@dataclass(frozen=True)
class SparseBayesLinear(LinearLearner, ProbabilisticLearner):
    """The posterior mean when all supports of s of the d weights are equally likely, and w ~ N(0, τ² I) on it.

    Given its support S the posterior of w is Gaussian, and the evidence of S is the product of the predictive
    densities N(y_n; w_Sᵀ x_n, x_nᵀ P_S x_n + σ²), with the mean w_S and the covariance P_S after the pairs
    before n. Both follow from pair to pair by a Kalman filter of rank one, all supports and episodes at once;
    no product of inputs is ever inverted. Memory does not grow with the number of supports.

    Without noise σ stands for the rounding of each pair. Up to n = s pairs every support fits, and they are
    weighed by how likely the weights are that they need; from n = s + 1 on only the right one does.

    Args:
        nonzero: Weights that are not 0 (s).
        noise_std: Standard deviation of the noise (σ); may be 0.
        weight_std: Standard deviation of these weights (τ).

    Raises:
        UserError: Fewer than one non-zero weight, a negative noise, or weights of no spread; inputs of fewer
            than s dimensions, or of so many that there are more than 2²⁰ supports.

    Source: Garg et al. (2022), section 5, for the task; they compare with Lasso.
    """

    nonzero: int
    noise_std: float
    weight_std: float = 1.0

    def __post_init__(self) -> None:
        if self.nonzero < 1:
            raise UserError(f"nonzero must be at least 1, given {self.nonzero}")
        if not (0 <= self.noise_std < math.inf and 0 < self.weight_std < math.inf):
            raise UserError(
                "noise_std must not be negative and weight_std must be positive, "
                f"given {self.noise_std} and {self.weight_std}"
            )

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "B P d"]:
        seen = max(prefixes)
        return self._posterior(x[:, :seen], y[:, :seen])[:, prefixes, 1:].to(x)

    def log_prob(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """log p(y_n | x_n, pairs before n) in nats, exactly: a mixture over all supports, streamed.

        Raises:
            UserError: As `predict`; or noise_std is 0, where there is no density.
        """
        self._need_noise()
        check_pairs(x, y, self.dim, self.limit)
        return self._posterior(x, y)[..., 0].diff(dim=1).to(x)

    def _distribution(self, x: Tensor, y: Tensor) -> MixtureSameFamily:
        self._need_noise()
        supports = self._supports(x)
        if y.numel() * len(supports) > _WRITTEN_OUT:
            raise UserError(
                f"the predictive of {list(y.shape)} points with {len(supports)} components each is too large "
                f"to write out, at most {_WRITTEN_OUT} in all; use predict and log_prob, which stream"
            )
        steps = list(self._filter(x.double(), y.double(), self._noise(x, y), supports))[:-1]
        evidence, means, variances = (
            torch.stack([getattr(step, name) for step in steps], 1).to(x)
            for name in ("evidence", "mean", "variance")
        )
        return MixtureSameFamily(Categorical(logits=evidence), Normal(means, variances.sqrt()))

    def _posterior(self, x: Tensor, y: Tensor) -> Float[Tensor, "B N+1 1+d"]:
        """After 0, 1, ..., N pairs: the log evidence of all supports together, and the posterior mean of w."""
        supports = self._supports(x)
        parts = supports.split(max(1, _HELD // self.nonzero**2))
        size = max(len(part) for part in parts) * self.nonzero**2

        def of_all(x: Tensor, y: Tensor) -> Tensor:
            noise = self._noise(x, y)
            found = [self._summed(x.double(), y.double(), noise, part) for part in parts]
            evidence, weights = (torch.stack(values) for values in zip(*found, strict=True))
            shares = evidence.softmax(0)[..., None]
            total = evidence.logsumexp(0) - math.log(len(supports))
            return torch.cat([total[..., None], (shares * weights).sum(0)], -1)

        return by_parts(of_all, x, y, size)

    def _summed(
        self, x: Tensor, y: Tensor, noise: Tensor, supports: Int[Tensor, "c s"]
    ) -> tuple[Float[Tensor, "B N+1"], Float[Tensor, "B N+1 d"]]:
        """Log of the summed evidence of some supports, and the mean of w over them, after 0, ..., N pairs."""
        evidences, means = [], []
        columns = supports.T.flatten()
        for step in self._filter(x, y, noise, supports):
            evidences.append(step.evidence.logsumexp(-1))
            terms = step.weights * step.evidence.softmax(-1)  # [s, B, c]
            sums = x.new_zeros(len(x), x.shape[-1])
            means.append(sums.index_add(1, columns, terms.transpose(0, 1).flatten(1)))
        return torch.stack(evidences, 1), torch.stack(means, 1)

    def _filter(self, x: Tensor, y: Tensor, noise: Tensor, supports: Int[Tensor, "c s"]) -> Iterator[_Step]:
        """What every support says before each pair, and after the last."""
        count = (len(x), len(supports))
        identity = torch.eye(self.nonzero, dtype=x.dtype, device=x.device)
        covariance = self.weight_std**2 * identity[..., None, None].expand(-1, -1, *count)
        weights = x.new_zeros(self.nonzero, *count)
        evidence = x.new_zeros(count)
        for n in range(x.shape[1]):
            inputs = x[:, n, supports.T].transpose(0, 1)  # [s, B, c]
            gain = (covariance * inputs).sum(1)
            # Rounding must not make it negative where the pairs before leave nothing open.
            variance = (gain * inputs).sum(0).clamp_min(0) + noise[:, n, None]
            mean = (weights * inputs).sum(0)
            yield _Step(evidence, weights, mean, variance)
            residual = y[:, n, None] - mean
            weights = weights + gain * (residual / variance)
            covariance = covariance - gain[:, None] * (gain / variance)
            evidence = evidence - 0.5 * (residual.square() / variance + (2 * math.pi * variance).log())
        yield _Step(evidence, weights, evidence, evidence)

    def _noise(self, x: Tensor, y: Tensor) -> Float[Tensor, "B N"]:
        """The variance of each target's noise: that of its rounding at the least, and of the filter's own."""
        info = torch.finfo(x.dtype)
        rounding = 8 * max(info.eps, 1e-8) * (self.weight_std * x.norm(dim=-1) + y.abs()).double()
        return rounding.clamp_min(max(self.noise_std, info.tiny)).square().clamp_min(info.tiny)

    def _supports(self, x: Tensor) -> Int[Tensor, "C s"]:
        dim = x.shape[-1]
        if self.nonzero > dim:
            raise UserError(f"x must have at least {self.nonzero} dimensions, nonzero, given {list(x.shape)}")
        if math.comb(dim, self.nonzero) > LARGEST:
            raise UserError(
                f"{self.nonzero} of {dim} weights make {math.comb(dim, self.nonzero)} supports, "
                f"at most {LARGEST} are summed over; use Lasso"
            )
        return _supports(dim, self.nonzero).to(x.device)

    def _need_noise(self) -> None:
        if self.noise_std == 0:
            raise UserError(
                "noise_std is 0, so that targets have no density; use predict, or a positive noise_std"
            )


@dataclass(frozen=True)
class _Step:
    """What every support says before a pair; after the last pair, the first two alone mean something."""

    evidence: Float[Tensor, "B c"]
    weights: Float[Tensor, "s B c"]
    mean: Float[Tensor, "B c"]
    variance: Float[Tensor, "B c"]


@lru_cache(maxsize=4)
def _supports(dim: int, nonzero: int) -> Int[Tensor, "C s"]:
    """All choices of `nonzero` of `dim` columns. To be read only."""
    return torch.tensor(list(itertools.combinations(range(dim), nonzero)))
