"""A world in which everything about in-context energies has a closed form, to hold objectives against.

Episodes: a mean m ~ N(0, spread²), then points x ~ N(m, 1), in one dimension. After n points the Bayes
predictive is N(m_n, v_n) with m_n = (x_1 + ... + x_n) / (n + 1/spread²) and v_n = 1 + 1 / (n + 1/spread²).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iclkit.tasks import Episodes, Mixtures


@dataclass(frozen=True)
class GaussianWorld:
    """The task. A spread of zero makes all points independent N(0, 1)."""

    spread: float = 1.0

    def draw(self, episodes: int, points: int, generator: torch.Generator) -> Episodes:
        means = self.spread * torch.randn(episodes, 1, 1, generator=generator, dtype=torch.float64)
        x = means + torch.randn(episodes, points, 1, generator=generator, dtype=torch.float64)
        law = Mixtures(torch.zeros_like(means[..., 0]), means, torch.ones_like(means)[..., None])
        return Episodes(x, law)


class GaussianEnergy(nn.Module):
    """The Bayes predictive's energy, with four ways to be wrong, all zero at the truth.

    E(x | x_<n) = exp(log_precision) (x - (1 + shrink) m_n - shift)² / 2 v_n
                  - log_precision / 2 + log(2 pi v_n) / 2 + offset.
    `shrink` is what an objective that takes another prefix than it should would get wrong.
    """

    def __init__(self, spread: float = 1.0, **values: float) -> None:
        super().__init__()
        self.spread = spread
        for name in ("shrink", "shift", "log_precision", "offset"):
            value = torch.tensor(values.get(name, 0.0), dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B, N + 1] and variances [N + 1] of the predictives after 0..N points."""
        count = torch.arange(x.shape[1] + 1, dtype=x.dtype)
        if self.spread == 0:
            return x.new_zeros(x.shape[0], x.shape[1] + 1), torch.ones_like(count)
        precision = count + 1 / self.spread**2
        total = torch.cat([x.new_zeros(x.shape[0], 1), x[..., 0].cumsum(1)], 1)
        return total / precision, 1 + 1 / precision

    def _energy(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        centred = x[..., 0] - (1 + self.shrink) * mean - self.shift
        constant = 0.5 * (2 * math.pi * variance).log() - 0.5 * self.log_precision + self.offset
        return self.log_precision.exp() * centred.square() / (2 * variance) + constant

    def encode_and_score(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mean, variance = self._moments(x)
        return self._energy(x, mean[:, :-1], variance[:-1]), (mean, variance)

    def query(
        self, context: tuple[Tensor, Tensor], candidates: Tensor, prefixes: Tensor, twice: bool = False
    ) -> Tensor:
        mean, variance = context
        return self._energy(candidates, mean[:, prefixes, None], variance[prefixes, None])
