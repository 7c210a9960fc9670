"""Where candidates come from: densities to sample and to evaluate, for every prefix of a context at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError


@dataclass(frozen=True)
class Proposal:
    """A broad Gaussian mixed with Gaussian kernels around the points of the context so far.

    The broad part alone is a prior predictive; the kernels alone are a kernel density estimate. Their mixture
    finds both what the context shows and what it has not shown yet. Before the first point there is only the
    broad part.

    Args:
        broad_std: Standard deviation of the broad part, centred at zero, in the points' units.
        kernel_stds: Standard deviations of the kernels, equally likely; in the points' units.
        broad_share: Probability of the broad part.

    Raises:
        UserError: A width that is not positive or a share outside [0, 1].
    """

    broad_std: float = 5.0
    kernel_stds: tuple[float, ...] = (0.5,)
    broad_share: float = 0.5

    def __post_init__(self) -> None:
        if not self.kernel_stds:
            raise UserError("kernel_stds must name at least one width; for no kernels set broad_share=1")
        if not self.broad_std > 0 or not all(std > 0 for std in self.kernel_stds):
            raise UserError(f"widths must be positive, given {self.broad_std} and {self.kernel_stds}")
        if not 0 <= self.broad_share <= 1:
            raise UserError(f"broad_share must lie in [0, 1], given {self.broad_share}")

    def sample(
        self,
        x: Float[Tensor, "B N d"],
        count: int,
        generator: torch.Generator | None = None,
        prefixes: Tensor | None = None,
    ) -> Float[Tensor, "B P K d"]:
        """Draw `count` candidates for every prefix x_<n, n in `prefixes` (default 0..N-1)."""
        batch, points, dim = x.shape
        prefixes = torch.arange(points, device=x.device) if prefixes is None else prefixes
        shape = (batch, len(prefixes), count)

        def uniform() -> Tensor:
            return torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)

        noise = torch.randn(*shape, dim, generator=generator, dtype=x.dtype, device=x.device)
        prefix = prefixes[None, :, None]
        broad = (uniform() < self.broad_share) | (prefix == 0)
        neighbour = (uniform() * prefix).long().clamp_max(max(points - 1, 0))
        stds = torch.tensor(self.kernel_stds, dtype=x.dtype, device=x.device)
        std = stds[(uniform() * len(stds)).long()]
        centre = x[torch.arange(batch, device=x.device)[:, None, None], neighbour]
        return torch.where(broad[..., None], self.broad_std * noise, centre + std[..., None] * noise)

    def log_prob(
        self, x: Float[Tensor, "B N d"], candidates: Float[Tensor, "B P K d"], prefixes: Tensor | None = None
    ) -> Float[Tensor, "B P K"]:
        """Log density, in nats, of candidates under the proposal of their own prefix."""
        batch, rows, count, dim = candidates.shape
        points = x.shape[1]
        prefixes = torch.arange(points, device=x.device) if prefixes is None else prefixes
        broad = -0.5 * candidates.square().sum(-1) / self.broad_std**2 - dim * math.log(self.broad_std)
        flat = candidates.reshape(batch, rows * count, dim)
        # |c - x|² as one batched product; clamped, for cancellation can leave it slightly negative.
        distance = flat.square().sum(-1)[..., None] + x.square().sum(-1)[:, None] - 2 * flat @ x.mT
        distance = distance.clamp_min(0).view(batch, rows, count, points)
        hidden = prefixes[:, None, None] <= torch.arange(points, device=x.device)
        kernel = torch.stack(
            [
                torch.logsumexp((-0.5 / std**2 * distance).masked_fill(hidden, -math.inf), -1)
                - dim * math.log(std)
                for std in self.kernel_stds
            ]
        ).logsumexp(0)
        # Lengths are integers, whose log torch would take in float32.
        kernel = kernel - prefixes.to(x.dtype).clamp_min(1).log()[:, None] - math.log(len(self.kernel_stds))
        share = x.new_full((rows, 1), self.broad_share).masked_fill(prefixes[:, None] == 0, 1)
        mixed = torch.logaddexp(broad + share.log(), kernel + torch.log1p(-share))
        return mixed - 0.5 * dim * math.log(2 * math.pi)
