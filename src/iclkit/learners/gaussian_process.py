"""Gaussian-process regression, at every prefix from one Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.learners.regression import ProbabilisticLearner
from iclkit.tasks.kernels import KERNELS, Kernel, covariance

# Variance on the diagonal besides the noise, relative to the kernel's own: float64 can factorise what is left.
_JITTER = 1e-10
# Covariances held at a time.
_NUMBERS = 1 << 22


@dataclass(frozen=True)
class GaussianProcess(ProbabilisticLearner):
    """Bayes' rule for functions drawn from a Gaussian process of mean 0, seen with Gaussian noise.

    Args:
        kernel: "rbf", "matern32", "matern52", "periodic" or "linear", as in `tasks.kernels.covariance`.
        length_scale: In units of the inputs ("periodic": of the radius of the circle).
        variance: That of the function's values.
        noise_std: Standard deviation of the noise; 0 is allowed. The diagonal has 1e-10 of the variance
            besides (scikit-learn: 1e-10).
        period: For "periodic".

    Raises:
        UserError: A kernel of another name, or a number that is not positive (the noise: negative).

    Source: Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, algorithm 2.1.
    """

    kernel: Kernel = "rbf"
    length_scale: float = 1.0
    variance: float = 1.0
    noise_std: float = 0.1
    period: float = 1.0

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise unknown("kernel", str(self.kernel), KERNELS)
        for name in ("length_scale", "variance", "period"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be positive, given {getattr(self, name)}")
        if not 0 <= self.noise_std < float("inf"):
            raise UserError(f"noise_std must not be negative, given {self.noise_std}")

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return self._moments(x, y)[0]

    def _distribution(self, x: Tensor, y: Tensor) -> torch.distributions.Normal:
        mean, std = self._moments(x, y)
        return torch.distributions.Normal(mean, std, validate_args=False)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        seen = max(prefixes)
        if seen == 0:
            return queries[..., 0] * 0.0
        inside = torch.arange(seen, device=x.device)[:, None] < torch.tensor(prefixes, device=x.device)
        rows = max(1, _NUMBERS // (seen * (seen + queries.shape[1] * queries.shape[2])))
        answers = []
        for part in zip(x[:, :seen].split(rows), y[:, :seen].split(rows), queries.split(rows), strict=True):
            inputs, targets, asked = (tensor.double() for tensor in part)
            lower, z = self._factor(inputs, targets)
            # ŷ = k(q, X_n) K_n⁻¹ y_n = Σ_{j<n} s_j z_j with s = L⁻¹ k(X, q), again for the leading n.
            cross = torch.linalg.solve_triangular(
                lower, self._covariance(inputs, asked.flatten(1, 2)), upper=False
            ).unflatten(-1, asked.shape[1:3])
            answers.append(torch.einsum("bnpk,bn,np->bpk", cross, z, inside.double()))
        return torch.cat(answers).to(x.dtype)

    def _moments(self, x: Tensor, y: Tensor) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Mean and standard deviation of every y_n given the pairs before n, noise included.

        With K + σ²I = L Lᵀ and z = L⁻¹ y: y_n = Σ_{j<=n} L_nj z_j, in which the z_j are independent N(0, 1) and
        those before n are known. So the mean is Σ_{j<n} L_nj z_j and the standard deviation L_nn.
        """
        lower, z = self._factor(x.double(), y.double())
        mean = (lower.tril(-1) @ z[..., None])[..., 0]
        return mean.to(x.dtype), lower.diagonal(dim1=-2, dim2=-1).to(x.dtype)

    def _factor(self, x: Tensor, y: Tensor) -> tuple[Float[Tensor, "B N N"], Float[Tensor, "B N"]]:
        """L and z = L⁻¹ y, in float64: smooth kernels make matrices that are singular to float32."""
        own = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        noise = self.noise_std**2 + _JITTER * self.variance
        lower = torch.linalg.cholesky(self._covariance(x, x) + noise * own)
        return lower, torch.linalg.solve_triangular(lower, y[..., None], upper=False)[..., 0]

    def _covariance(self, a: Tensor, b: Tensor) -> Float[Tensor, "B N M"]:
        return covariance(self.kernel, a, b, self.length_scale, self.variance, self.period)
