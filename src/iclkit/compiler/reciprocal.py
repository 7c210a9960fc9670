"""1/c as a layer of GELU units.

The units G(γ (c / t - 1)) bend at points t in a geometric sequence, over a width in proportion to t. So the
same picture repeats on every scale of c, as 1/c itself does, and the relative error is about the same
everywhere. The weights on them are a least-squares fit of c · Σ w G = 1 on Chebyshev nodes in log c: no
chance, no training.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_STEEPNESS = 2.5
# Bends for each factor e of the range, and how far they go beyond its ends.
_DENSITY = 9.0
_BELOW, _ABOVE = 1.0, 0.5
_NODES = 3000


class Reciprocal(NamedTuple):
    """1/c ≈ constant + Σ weight · G(slope · c + shift) on a range.

    Args:
        slopes: One for each unit.
        shift: Of all units.
        weights: One for each unit.
        constant: A number.
    """

    slopes: NDArray[np.float64]
    shift: float
    weights: NDArray[np.float64]
    constant: float

    def __call__(self, c: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.constant + gelu(c[..., None] * self.slopes + self.shift) @ self.weights


@cache
def reciprocal(least: float, most: float) -> Reciprocal:
    """The units for c in [least, most]; the relative error is below 1e-6 where most / least is below 1e4.

    Args:
        least: Positive.
        most: Not below it.
    """
    ratio = max(most / least, 1.5)
    ends = -_BELOW, math.log(ratio) + _ABOVE
    bends = np.exp(np.linspace(*ends, math.ceil(_DENSITY * (ends[1] - ends[0])) + 1))
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    c = np.exp((nodes + 1) / 2 * math.log(ratio))
    columns = np.column_stack([np.ones_like(c), gelu(_STEEPNESS * (c[:, None] / bends - 1)) / bends])
    fitted, *_ = np.linalg.lstsq(columns * c[:, None], np.ones_like(c), rcond=1e-13)
    # c = least · c': 1/c = (1/least) (1/c').
    return Reciprocal(
        _STEEPNESS / (bends * least), -_STEEPNESS, fitted[1:] / bends / least, float(fitted[0]) / least
    )


def gelu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """G(z) = z Φ(z)."""
    import torch

    return torch.nn.functional.gelu(torch.from_numpy(np.ascontiguousarray(z))).numpy()
