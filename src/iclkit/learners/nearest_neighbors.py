"""k nearest neighbours, at every prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.learners.regression import RegressionLearner

# By which power of the distance a neighbour's weight falls.
_POWERS = {"uniform": 0, "inverse": 1, "inverse-square": 2, "distance": 2}
# Distances held at a time.
_NUMBERS = 1 << 24


@dataclass(frozen=True)
class NearestNeighbors(RegressionLearner):
    """The mean target of the k nearest inputs of the context (Euclidean); of all while there are fewer than k.

    Args:
        k: How many neighbours. Among equally distant ones the earlier count as nearer.
        weights: "uniform"; "inverse" for weights 1/distance, as in the code of Akyürek et al. and in
            scikit-learn, where they are called "distance"; "inverse-square" for 1/distance², as in their text;
            or "distance", an older name of the latter. Neighbours at distance 0 count alone.

    Raises:
        UserError: k below one, or other weights.

    Source: Akyürek et al. (2022), section 4 (uniform and 1/distance²; their code has 1/distance); Garg et al.
        (2022), section 3 (3, uniform).
    """

    k: int = 3
    weights: Literal["uniform", "inverse", "inverse-square", "distance"] = "uniform"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k must be at least 1, given {self.k}")
        if self.weights not in _POWERS:
            raise unknown("weights", str(self.weights), _POWERS)

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        return self._predict_queries(x, y, x[:, :, None], list(range(x.shape[1])))[..., 0]

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        seen = max(prefixes)
        if seen == 0:
            return torch.zeros_like(queries[..., 0])
        lengths = torch.tensor(prefixes, device=x.device)
        rows = max(1, _NUMBERS // (seen * queries.shape[1] * queries.shape[2]))
        parts = zip(x[:, :seen].split(rows), y[:, :seen].split(rows), queries.split(rows), strict=True)
        return torch.cat([self._mean(*part, lengths) for part in parts])

    def _mean(self, x: Tensor, y: Tensor, queries: Tensor, lengths: Tensor) -> Float[Tensor, "B P K"]:
        # Differences, not products: a repeated input must be at distance 0 exactly. In float64, whose squares
        # neither vanish nor overflow where float32's do.
        kind, x, y = x.dtype, x.double(), y.double()
        distance = torch.cdist(queries.double().flatten(1, 2), x, compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance.view(*queries.shape[:3], -1)
        known = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [P, N]
        ordered, order = distance.masked_fill(~known[:, None], torch.inf).sort(dim=-1, stable=True)
        nearest = ordered[..., : self.k]
        targets = y[:, None, None].expand(distance.shape).gather(-1, order[..., : self.k])
        weight = nearest.isfinite().to(x)
        if power := _POWERS[self.weights]:
            hit = nearest == 0
            # Relative to the nearest, so that no square overflows or vanishes; the factor cancels.
            near = torch.where(hit | ~nearest.isfinite(), 1.0, nearest)
            weight = torch.where(hit.any(-1, keepdim=True), hit.to(x), weight * (near[..., :1] / near) ** power)
        # Without any neighbour the sum of the weights is 0; else one of them is 1.
        return ((weight * targets).sum(-1) / weight.sum(-1).clamp(min=1)).to(kind)
