"""The two simplest learners: predict 0, and average x y."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iclkit.learners.prefixes import sums_before
from iclkit.learners.regression import LinearLearner


@dataclass(frozen=True)
class Zero(LinearLearner):
    """Predicts 0 whatever it has seen: the error of this one is the unit of most published figures."""

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        return x.new_zeros(len(x), len(prefixes), x.shape[-1])


@dataclass(frozen=True)
class Averaging(LinearLearner):
    """w = the mean of x y over the context (0 before any pair).

    For x ~ N(0, I) and noiseless linear targets its error is E(ŷ − y)² = ‖w‖² (d + 1)/n after n pairs.

    Source: Garg et al. (2022), section 3 and appendix A.
    """

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        counts = torch.tensor(prefixes, dtype=x.dtype, device=x.device).clamp(min=1)
        return sums_before(x * y[..., None], prefixes) / counts[:, None]
