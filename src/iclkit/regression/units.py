"""Standard units: how data of any scale reach a regressor that was trained on one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.networks import power_of_two


@dataclass(frozen=True)
class Units:
    """Means and standard deviations of the columns of x and of y, one for each row of a batch.

    Args:
        x_mean: Means of the columns.
        x_std: Their standard deviations; 1 for a column that does not vary.
        y_mean: Means of the targets.
        y_std: Their standard deviations; 1 where they do not vary.
    """

    x_mean: Float[Tensor, "R d"]
    x_std: Float[Tensor, "R d"]
    y_mean: Float[Tensor, " R"]
    y_std: Float[Tensor, " R"]

    @staticmethod
    def fit(x: Float[Tensor, "R N d"], y: Float[Tensor, "R N"], lengths: Int[Tensor, " R"]) -> Units:
        """Moments of the first `lengths[r]` pairs of each row; fewer than two know no units (0 and 1)."""
        columns = torch.cat([x, y[..., None]], -1)
        chosen = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]  # [R, N, 1]
        columns = torch.where(chosen, columns, 0)
        count = lengths.to(x.dtype)[:, None]
        # In units that are powers of two, first of the values, then of their distances from the mean: squares
        # neither overflow nor underflow, and nothing is rounded.
        unit = power_of_two(F.pad(columns.abs(), (0, 0, 0, 1)).amax(1))
        mean = (columns / unit[:, None]).sum(1) / count.clamp_min(1)
        # Two passes, not sums of squares: a large mean would cancel all digits of a small variance.
        centred = torch.where(chosen, columns / unit[:, None] - mean[:, None], 0)
        spread = power_of_two(F.pad(centred.abs(), (0, 0, 0, 1)).amax(1))
        variance = (centred / spread[:, None]).square().sum(1) / (count - 1).clamp_min(1)
        # Judged by the values themselves: rounding of the mean leaves a constant column some variance.
        varies = ((columns != columns[:, :1]) & chosen).any(1) & (variance > 0)
        std = torch.where(varies, unit * (spread * variance.sqrt()), 1)
        mean = torch.where(count > 1, unit * mean, 0)
        return Units(mean[:, :-1], std[:, :-1], mean[:, -1], std[:, -1])

    def inputs(self, x: Float[Tensor, "R *points d"]) -> Float[Tensor, "R *points d"]:
        """Inputs in standard units."""
        shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
        return (x - self.x_mean.view(shape)) / self.x_std.view(shape)

    def targets(self, y: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """Targets in standard units."""
        return (y - self.y_mean[:, None]) / self.y_std[:, None]
