"""Sums over the points before each prefix: what every closed-form regression learner is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Numbers that one part of a batch may hold at a time: on a CPU half a megabyte, which stays in a core's cache
# and is allocated for one part and used again for the next; elsewhere what keeps the device busy.
_ON_CPU, _ELSEWHERE = 1 << 16, 1 << 26


def sums_before(terms: Float[Tensor, "B N *rest"], prefixes: list[int]) -> Float[Tensor, "B P *rest"]:
    """Σ_{i < n} of one term a point, for each prefix length n.

    Args:
        terms: One term a point.
        prefixes: Context lengths, each in 0..N.

    Returns:
        The sums; 0 for the empty prefix. A sum never depends on the terms from n on, not even by rounding.
    """
    return _chosen(_after_zero(terms).cumsum(1), prefixes)


def moments(
    x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: list[int]
) -> tuple[Float[Tensor, "B P d d"], Float[Tensor, "B P d"]]:
    """The normal equations of least squares after each prefix: Σ x xᵀ and Σ x y over the points before it."""
    zero_x = _after_zero(x)
    squares = (zero_x[..., :, None] * zero_x[..., None, :]).cumsum(1)
    return _chosen(squares, prefixes), sums_before(x * y[..., None], prefixes)


def _after_zero(terms: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B N+1 *rest"]:
    """The terms after a term 0."""
    return torch.cat([terms.new_zeros(len(terms), 1, *terms.shape[2:]), terms], 1)


def _chosen(sums: Float[Tensor, "B N+1 *rest"], prefixes: list[int]) -> Float[Tensor, "B P *rest"]:
    """Those of the prefixes; without a copy where they follow one another."""
    first, last = prefixes[0], prefixes[-1]
    return sums[:, first : last + 1] if prefixes == list(range(first, last + 1)) else sums[:, prefixes]


def by_parts(
    function: Callable[[Tensor, Tensor], Tensor], x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], size: int
) -> Tensor:
    """Call a function of (x, y) on parts of the batch and join what it returns.

    Args:
        function: It treats each episode by itself.
        x: Inputs.
        y: Targets.
        size: Numbers that it needs for one episode; they decide how many episodes go together.

    Returns:
        As one call would: it is memory, and so speed, that differs.
    """
    numbers = _ON_CPU if x.device.type == "cpu" else _ELSEWHERE
    rows = max(1, numbers // max(1, size))
    parts = [function(*part) for part in zip(x.split(rows), y.split(rows), strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
