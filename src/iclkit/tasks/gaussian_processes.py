"""Functions drawn from Gaussian processes, exactly, wherever they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.tasks.kernels import KERNELS, covariance
from iclkit.tasks.regression import RegressionTask, check_task, flat_points, uniform_inputs

JITTER = 1e-8
"""Share of the variance that is added to it, so that points which (nearly) coincide have a Cholesky factor."""
# Numbers of the covariance of all episodes; a gigabyte.
_LARGEST = 2**27


class ProcessFunctions:
    """One draw of a Gaussian process for each episode, revealed at the points that it is called with.

    The values at the first points are drawn from their joint law by its Cholesky factor, those at later points
    from their law given all values before. So the order of calls is a matter of the draw alone, never of its
    distribution, and two calls agree on one function: where they share a point, to 2·10⁻⁴ standard deviations
    (√(2 JITTER) and some), and exactly if the points are those of the first call, up to rounding. Points add up
    over the calls.

    Args:
        task: The process.
        seed: Seed of the draw.
    """

    def __init__(self, task: GaussianProcesses, seed: int) -> None:
        self.task = task
        self._generator = torch.Generator().manual_seed(seed)
        self._first: tuple[Tensor, Tensor] | None = None
        self._points: Tensor | None = None  # [B, n, d], all points so far
        self._factor: Tensor | None = None  # [B, n, n], the Cholesky factor L of their covariance
        self._normal: Tensor | None = None  # [B, n], standard normal z; the values are L z

    def __call__(self, x: Float[Tensor, "B *points d"]) -> Float[Tensor, " B *points"]:
        if self._first is not None and _same(self._first[0], x):
            return self._first[1]
        points = flat_points(x.detach()).double()
        values = self._reveal(points).to(x.dtype).reshape(x.shape[:-1])
        if self._first is None:
            self._first = (x, values)
        return values

    def _reveal(self, x: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        """Draw the values at more points."""
        batch, count, dim = x.shape
        seen = self._points if self._points is not None else x.new_zeros(batch, 0, dim)
        total = seen.shape[1] + count
        if batch * total**2 > _LARGEST:
            raise UserError(
                f"a Gaussian process is drawn jointly, at most {int((_LARGEST / batch) ** 0.5)} points in each "
                f"of {batch} episodes, given {total}; ask for fewer points or episodes"
            )
        normal = torch.randn(batch, count, generator=self._generator, dtype=torch.float64).to(x.device)
        own = self._covariance(x, x) + JITTER * self.task.variance * torch.eye(count).to(x)
        if self._factor is None or self._normal is None:
            factor = torch.linalg.cholesky(own)
            self._factor, self._normal, self._points = factor, normal, x
            return (factor @ normal[..., None])[..., 0]
        # The rows that the new points add to L: [A, C] with A = K_xs L^-T and C C' = K_xx - A A'.
        across = torch.linalg.solve_triangular(self._factor, self._covariance(seen, x), upper=False).mT
        corner = torch.linalg.cholesky(own - across @ across.mT)
        values = across @ self._normal[..., None] + corner @ normal[..., None]
        above = torch.nn.functional.pad(self._factor, (0, count))
        self._factor = torch.cat([above, torch.cat([across, corner], -1)], 1)
        self._normal = torch.cat([self._normal, normal], 1)
        self._points = torch.cat([seen, x], 1)
        return values[..., 0]

    def _covariance(self, a: Tensor, b: Tensor) -> Tensor:
        task = self.task
        return covariance(task.kernel, a, b, task.length_scale, task.variance, task.period)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether the same numbers, up to the rounding of a change of units and back."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a - b).abs() <= 8 * torch.finfo(a.dtype).eps * a.abs().amax()).all())


@dataclass(frozen=True)
class GaussianProcesses(RegressionTask):
    """y = f(x) + noise with f from a Gaussian process of mean 0.

    Args:
        dim: Dimension of the inputs.
        kernel: Covariance, see `tasks.kernels`: "rbf", "matern32", "matern52", "periodic" or "linear".
        length_scale: Distance over which f varies, in units of the inputs. Two points of N(0, I) are about
            √(2d) apart.
        variance: Variance of f(x).
        period: That of "periodic".
        noise_std: Standard deviation of the noise.
        inputs_law: "normal" for x ~ N(0, I); "uniform" for coordinates from U(-half_width, half_width).
        half_width: See inputs_law.

    Raises:
        UserError: An unknown kernel or law, or a number that is not positive (for the noise: negative).

    Source: Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, sections 2.2 and A.2.
    """

    dim: int = 1
    kernel: Literal["rbf", "matern32", "matern52", "periodic", "linear"] = "rbf"
    length_scale: float = 0.5
    variance: float = 1.0
    period: float = 1.0
    noise_std: float = 0.1
    inputs_law: Literal["normal", "uniform"] = "normal"
    half_width: float = 2.0

    def __post_init__(self) -> None:
        check_task(
            self.dim,
            self.noise_std,
            length_scale=self.length_scale,
            variance=self.variance,
            period=self.period,
            half_width=self.half_width,
        )
        if self.kernel not in KERNELS:
            raise unknown("kernel", str(self.kernel), KERNELS)
        if self.inputs_law not in ("normal", "uniform"):
            raise unknown("inputs_law", str(self.inputs_law), ("normal", "uniform"))

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N d"]:
        if self.inputs_law == "uniform":
            return uniform_inputs(episodes, points, self.dim, self.half_width, generator)
        return super().inputs(episodes, points, generator)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> ProcessFunctions:
        seed = int(torch.randint(2**62, (), generator=generator))
        return ProcessFunctions(self, seed)
