"""Bayes' predictions for a finite pool of linear functions, streamed over the pool in bounded memory.

With prior mass 1/M on each weight vector w_m and Gaussian noise, what a context says of the members is

    log p(m | x_<n, y_<n) = const - ½ Σ_{j<n} (ỹ_j - w_mᵀ x̃_j)²,

where the pairs are divided by the noise's standard deviation or, where the noise of pairs is correlated,
whitened by the Cholesky factor L of its covariance: [x̃, ỹ] = L⁻¹ [x, y]. The leading blocks of L are the
factors of the leading blocks, so one factor serves every prefix, and the sum is one running sum of squares.
Squares of residuals, not products of quadratic features: those would cancel, for the members that matter have
residuals far below y.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from iclkit.errors import UserError
from iclkit.learners.regression import LinearLearner, ProbabilisticLearner, check_pairs
from iclkit.tasks import LinearPool

# Log posteriors that are held at a time, and the most episodes' rows among them: some 8 times this many numbers
# in all at the peak.
_HELD, _ROWS = 2**21, 2**11
# The largest predictive that is written out component by component: 256 MB in float32.
_WRITTEN_OUT = 2**26


@dataclass(frozen=True, eq=False)
class _PoolLearner(LinearLearner, ProbabilisticLearner):
    """What both learners of pools do once noise is white.

    Args:
        pool: The pool: a `LinearPool`, or weights [M, d].
        noise_std: Standard deviation of the noise (σ).
    """

    pool: LinearPool | Float[Tensor, "M d"]
    noise_std: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.pool, Tensor):
            if self.pool.ndim != 2 or not self.pool.numel() or not self.pool.is_floating_point():
                raise UserError(
                    f"pool must be a LinearPool or weights of shape [members, dim], "
                    f"given {list(self.pool.shape)} of {self.pool.dtype}"
                )
            if not self.pool.isfinite().all():
                raise UserError(f"pool of shape {list(self.pool.shape)} holds NaN or infinite values")
        elif not isinstance(self.pool, LinearPool):
            raise UserError(
                "pool must be a LinearPool or weights of shape [members, dim], "
                f"given {type(self.pool).__name__}"
            )
        if not (self.noise_std >= 0 and math.isfinite(self.noise_std)):
            raise UserError(f"noise_std of {name} must not be negative, given {self.noise_std}")

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pool.shape[1] if isinstance(self.pool, Tensor) else self.pool.dim

    @property
    def size(self) -> int:
        """Members of the pool (M)."""
        return len(self.pool) if isinstance(self.pool, Tensor) else self.pool.size

    @abstractmethod
    def _whiten(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Float[Tensor, "B N"]]:
        """x̃, ỹ, and the standard deviation of each y_n given its member and the pairs before it (L_nn)."""

    def _members(self, like: Tensor, count: int) -> Iterator[Float[Tensor, "m d"]]:
        """The pool, `count` members at a time."""
        for start in range(0, self.size, count):
            stop = min(start + count, self.size)
            part = self.pool[start:stop] if isinstance(self.pool, Tensor) else self.pool.weights(start, stop)
            yield part.to(like)

    def _posterior(
        self, x: Tensor, y: Tensor, prefixes: list[int]
    ) -> tuple[Float[Tensor, "B P d"], Float[Tensor, "B P"]]:
        """Posterior mean of the members after each prefix of white pairs, and log p(ỹ_<n) up to constants."""
        step = max(1, _ROWS // (max(prefixes) + 1))
        parts = [
            self._stream(x[start : start + step], y[start : start + step], prefixes)
            for start in range(0, len(x), step)
        ]
        means, evidence = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(evidence)

    def _stream(self, x: Tensor, y: Tensor, prefixes: list[int]) -> tuple[Tensor, Tensor]:
        points = max(prefixes)
        x, y, before = x[:, :points], y[:, :points], _before(prefixes, x[:, :points])
        highest = x.new_full((len(x), len(prefixes)), -math.inf)
        total = torch.zeros_like(highest)
        weighted = x.new_zeros(*highest.shape, self.dim)
        for members in self._members(x, max(1, _HELD // (len(x) * max(len(prefixes), points)))):
            # Softmax over a stream: sums are kept relative to the highest log posterior so far.
            scores = _scores(x, y, members, before)
            rise = torch.maximum(highest, scores.amax(-1))
            kept = (highest - rise).exp()
            # Cut off where it adds nothing; numbers below the normal ones of float32 are slow to work with.
            scores.sub_(rise[..., None]).clamp_(min=-80.0).exp_()
            total = total * kept + scores.sum(-1)
            weighted = weighted * kept[..., None] + scores @ members
            highest = rise
        return weighted / total[..., None], highest + total.log() - math.log(self.size)

    def _distribution(self, x: Tensor, y: Tensor) -> MixtureSameFamily:
        self._need_noise()
        if x.shape[0] * x.shape[1] * self.size > _WRITTEN_OUT:
            raise UserError(
                f"the predictive of {list(y.shape)} points with {self.size} components each is too large to "
                f"write out, at most {_WRITTEN_OUT} in all; use predict and log_prob, which stream"
            )
        white_x, white_y, scale = self._whiten(x, y)
        (members,) = self._members(white_x, self.size)
        scores = _scores(white_x, white_y, members, _before(list(range(x.shape[1])), white_x))
        # y_n = (part that the pairs before tell) + L_nn (w_mᵀ x̃_n + white noise).
        told = y - scale * white_y
        means = told[..., None] + scale[..., None] * (white_x @ members.mT)
        return MixtureSameFamily(
            Categorical(logits=scores.to(x)), Normal(means.to(x), scale[..., None].expand_as(means).to(x))
        )

    def log_prob(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """log p(y_n | x_n, pairs before n) in nats, exactly: a mixture over all members, streamed.

        Raises:
            UserError: As `predict`; or noise_std is 0, where there is no density.
        """
        self._need_noise()
        check_pairs(x, y, self.dim, self.limit)
        white_x, white_y, scale = self._whiten(x, y)
        evidence = self._posterior(white_x, white_y, list(range(x.shape[1] + 1)))[1]
        return (evidence.diff(dim=1) - scale.log() - 0.5 * math.log(2 * math.pi)).to(x)

    def _need_noise(self) -> None:
        if self.noise_std == 0:
            raise UserError(
                "noise_std is 0, so that targets have no density; use predict, or a positive noise_std"
            )


def _scores(
    x: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
    members: Float[Tensor, "m d"],
    before: Float[Tensor, "P N"],
) -> Float[Tensor, "B P m"]:
    """-½ Σ_{j<n} (y_j - w_mᵀ x_j)² after each prefix.

    The sum is a product with zeros and ones: running sums along any but the last axis are several times slower.
    """
    fitted = x @ members.mT
    return (-0.5 * before) @ fitted.sub_(y[..., None]).square_()


def _before(prefixes: list[int], x: Float[Tensor, "B N d"]) -> Float[Tensor, "P N"]:
    """1 for the pairs of each prefix, 0 for those after it."""
    places = torch.arange(x.shape[1], device=x.device)
    return (places < torch.tensor(prefixes, device=x.device)[:, None]).to(x)


class PoolPosterior(_PoolLearner):
    """The posterior mean over a pool of linear functions (dMMSE, the discrete minimum mean squared error).

    Before any pair that is the mean of the pool. Without noise it is the member that fits, or the mean of those
    that fit alike up to the rounding of the pairs. Memory does not grow with the pool: 2²⁰ members take no more
    than 2¹⁰.

    Args:
        pool: The pool: a `LinearPool`, or weights [M, d].
        noise_std: Standard deviation of the noise (σ); may be 0.

    Raises:
        UserError: A pool that is neither, or a negative standard deviation.

    Source: Raventós et al. (2023), equation 3.
    """

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "B P d"]:
        white_x, white_y, _ = self._whiten(x, y)
        return self._posterior(white_x, white_y, prefixes)[0]

    def _whiten(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Float[Tensor, "B N"]]:
        # No residual is known better than the rounding of its pair.
        info = torch.finfo(x.dtype)
        rounding = 8 * info.eps * (x.norm(dim=-1) + y.abs())
        scale = rounding.clamp_min(max(self.noise_std, info.tiny))
        return x / scale[..., None], y / scale, scale


@dataclass(frozen=True, eq=False)
class SmoothedPoolPosterior(_PoolLearner):
    """The posterior mean when every member is widened to a Gaussian: w ~ (1/M) Σ_m N(w_m, spread² I).

    All members share the posterior covariance, so only their means and evidences differ: with C = σ² I +
    spread² XXᵀ and w̄ the mean of the members under their evidences N(y; X w_m, C), it is w̄ + spread² Xᵀ C⁻¹
    (y - X w̄). Between memorising and generalising: `PoolPosterior` for spread → 0; for a pool N(0, τ² I) of
    many, ridge regression of prior variance τ² + spread².

    Args:
        pool: The pool: a `LinearPool`, or weights [M, d].
        noise_std: Standard deviation of the noise (σ).
        spread: Standard deviation of the weights around each member.

    Raises:
        UserError: As `PoolPosterior`; or a standard deviation that is not positive.

    Source: Raventós et al. (2023), section 2, with the pool's prior smoothed by a kernel.
    """

    spread: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.noise_std > 0 and self.spread > 0 and math.isfinite(self.spread)):
            raise UserError(
                f"noise_std and spread must be positive, given {self.noise_std} and {self.spread}; "
                "without a spread use PoolPosterior"
            )

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "B P d"]:
        white_x, white_y, _ = self._whiten(x, y)
        centre = self._posterior(white_x, white_y, prefixes)[0]
        # Xᵀ C⁻¹ (y - X w̄) = X̃ᵀ (ỹ - X̃ w̄), both over the pairs of the prefix.
        rest = white_y[:, None] - centre @ white_x.mT
        rest = rest * _before(prefixes, white_x)
        return (centre + self.spread**2 * rest @ white_x).to(x)

    def _whiten(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Float[Tensor, "B N"]]:
        # In float64: the factor of C passes its condition, σ⁻² spread² |X|², on to what it whitens.
        x, y = x.double(), y.double()
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(self.noise_std**2 * identity + self.spread**2 * (x @ x.mT))
        white = torch.linalg.solve_triangular(factor, torch.cat([x, y[..., None]], -1), upper=False)
        return white[..., :-1], white[..., -1], factor.diagonal(dim1=-2, dim2=-1)
