"""Learners that use the curvature of the squared error: GD++ and Newton's iteration for the inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.learners.descent import best_rate, check_rates, geometric
from iclkit.learners.prefixes import by_parts, moments
from iclkit.learners.regression import LinearLearner

# The γ that the authors found by search, times n/η*, is .295, .287, .279 and .265 for n = 10, 25, 50 and 100. A
# grid of equal rates for two steps has its best at this γ and 2η*, for U(-½, ½) at n = 10, 25 as for N(0, I).
_GAMMA, _RATE = 0.28, 2.0


@dataclass(frozen=True)
class GradientDescentPlusPlus(LinearLearner):
    """Gradient descent that also moves the inputs in every step, towards a curvature that is more even (GD++).

    A step is, at once for all pairs and the query, y ← y − (η/n) (Σ y_i x_i)ᵀ x and x ← (I − γ X Xᵀ) x, with
    X Xᵀ = Σ x_i x_iᵀ; sums are over the context as it is then. The prediction is what the query's y has lost.
    With curvature "mean" it is (1/n) X Xᵀ: one γ then fits contexts of all lengths, and layers of linear
    attention that divide by n can do it.

    Args:
        steps: How many.
        rate: η: one number, or one for each step; if None twice the best rate η* of one step of plain gradient
            descent (`best_rate`) for the prefix's own n, or that rate itself if this is the only step.
        gamma: γ: one number, or one for each step; if None 0.28 η*/n, within 6% of the values that the authors
            found (0.28 η* for the curvature "mean").
        input_moments: E x_i² and E x_i⁴ of a coordinate of the inputs, for what is None.
        curvature: "sum" or "mean".

    Raises:
        UserError: Fewer than one step, a number that is not positive, more or fewer numbers than steps, or
            another curvature.

    Source: von Oswald et al. (2022), section 3 and appendix: an eigenvalue λ of X Xᵀ becomes λ (1 − γλ)².
    """

    steps: int = 2
    rate: float | tuple[float, ...] | None = None
    gamma: float | tuple[float, ...] | None = None
    input_moments: tuple[float, float] = (1.0, 3.0)
    curvature: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_rates("rate", self.rate, self.steps)
        check_rates("gamma", self.gamma, self.steps)
        if self.curvature not in ("sum", "mean"):
            raise unknown("curvature", str(self.curvature), ("sum", "mean"))

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        dim, seen = x.shape[-1], max(prefixes)
        lengths = torch.tensor(prefixes, dtype=torch.float64, device=x.device).clamp(min=1)
        best = best_rate(lengths, dim, *self.input_moments)
        factor = 1.0 if self.steps == 1 else _RATE
        averaged = lengths if self.curvature == "mean" else torch.ones_like(lengths)
        own_gamma = _GAMMA * best * averaged / lengths

        def descend(x: Tensor, y: Tensor) -> Tensor:
            # All that a step needs of the pairs is A = X Xᵀ and b = X y; with M = I − γA it makes them M A M
            # and M (b − (η/n) A b). The query is T q, T the product of all M so far, and loses (η/n) bᵀT q.
            curvature, target = moments(x.double(), y.double(), prefixes)
            target = target[..., None]
            own = torch.eye(dim, dtype=curvature.dtype, device=x.device)
            moved, weights = own, torch.zeros_like(target)
            for step in range(self.steps):
                rate = (_of_step(self.rate, step, factor * best) / lengths)[:, None, None]
                change = rate * target
                weights = weights + moved.mT @ change
                gamma = (_of_step(self.gamma, step, own_gamma) / averaged)[:, None, None]
                shrink = own - gamma * curvature
                target = shrink @ (target - curvature @ change)
                curvature = shrink @ curvature @ shrink
                moved = shrink @ moved
            return weights[..., 0]

        return by_parts(descend, x[:, :seen], y[:, :seen], seen * dim * dim).to(x.dtype)


@dataclass(frozen=True)
class Newton(LinearLearner):
    """Ridge regression whose inverse is approached by Newton's iteration (Newton and Schulz; Hotelling).

    With S = Σ x xᵀ + penalty I it is M_0 = S/‖S‖_F², M_{k+1} = 2 M_k − M_k S M_k and w = M_k Σ x y. The error
    I − M_k S = (I − M_0 S)^(2^k) is squared in each step, where gradient descent only multiplies it by a
    factor. The limit is `Ridge(penalty)`, also at 0 (there the iteration finds the pseudo-inverse).

    Args:
        steps: How many (k).
        penalty: λ of the ridge regression that it approaches.

    Raises:
        UserError: Fewer than one step or more than 40 (the limit by then), or a negative penalty.

    Source: Fu, Chen, Jia and Sharan (2023), Transformers learn to achieve second-order convergence rates for
        in-context linear regression, section 3, where M_0 = αS with any α below 2/‖S‖². The Frobenius norm
        here fulfils that for every S at no cost.
    """

    steps: int = 10
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 40:
            raise UserError(f"steps must lie in 1..40, given {self.steps}; for the limit take Ridge(penalty)")
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"penalty must not be negative, given {self.penalty}")

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        dim, seen = x.shape[-1], max(prefixes)

        def iterate(x: Tensor, y: Tensor) -> Tensor:
            gram, target = moments(x.double(), y.double(), prefixes)
            own = torch.eye(dim, dtype=gram.dtype, device=x.device)
            gram = gram + self.penalty * own
            # M_{k+1} = M_k + E_k M_k with E_k = I − M_k S, and E_{k+1} = E_k². All are polynomials in S; so M_0
            # may come last, where it removes what rounding left outside the range of S, doubled in each step.
            start = gram / gram.square().sum((-2, -1), keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
            return (start @ geometric(own - start @ gram, target, 2**self.steps)[..., None])[..., 0]

        return by_parts(iterate, x[:, :seen], y[:, :seen], seen * dim * dim).to(x.dtype)


def _of_step(given: float | tuple[float, ...] | None, step: int, otherwise: Tensor) -> Tensor:
    """The number of one step, one for each prefix."""
    if given is None:
        return otherwise
    return torch.full_like(otherwise, given[step] if isinstance(given, Sequence) else given)
