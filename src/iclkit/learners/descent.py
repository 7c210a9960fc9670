"""Gradient descent on the squared error of the context, in whole batches and in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.learners.prefixes import by_parts, moments, sums_before
from iclkit.learners.regression import LinearLearner

# Up to here one matrix-vector product a step is cheaper than squaring the matrix.
_FEW = 16


@dataclass(frozen=True)
class GradientDescent(LinearLearner):
    """w after some steps of gradient descent from 0 on the squared error of the whole context.

    With loss "mean" a step is w ← w − η (1/n) Σ (wᵀx_i − y_i) x_i, the gradient of half the mean squared error
    of the n pairs (von Oswald et al.). With "sum" it is w ← w − 2η Σ (wᵀx_i − y_i) x_i, the gradient of the
    summed squared error with its factor 2 (Akyürek et al.).

    Args:
        steps: How many (k).
        rate: η: one number, or one for each step; if None the best rate of a single step (`best_rate`) on the
            loss "mean", for the prefix's own n. Many steps of that rate may diverge where n is near d.
        loss: "mean" or "sum".
        input_moments: E x_i² and E x_i⁴ of a coordinate of the inputs, for the rate None; the default is that
            of N(0, I).

    Raises:
        UserError: Fewer than one step, a rate that is not positive, more or fewer rates than steps, another
            loss, or the loss "sum" without a rate.

    Source: von Oswald et al. (2022), section 2; Akyürek et al. (2022), section 4.
    """

    steps: int = 1
    rate: float | tuple[float, ...] | None = None
    loss: Literal["mean", "sum"] = "mean"
    input_moments: tuple[float, float] = (1.0, 3.0)

    def __post_init__(self) -> None:
        check_rates("rate", self.rate, self.steps)
        if self.loss not in ("mean", "sum"):
            raise unknown("loss", str(self.loss), ("mean", "sum"))
        if self.rate is None and self.loss == "sum":
            raise UserError('the best rate is known for loss "mean" alone; give a rate, or loss "mean"')

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        # In float64, for powers of a matrix with eigenvalues near 1 add up what they round.
        dim, seen = x.shape[-1], max(prefixes)
        lengths = torch.tensor(prefixes, dtype=torch.float64, device=x.device)
        scale = 2.0 if self.loss == "sum" else 1 / lengths.clamp(min=1)[:, None]
        rates = self._rates(lengths, dim)

        def descend(x: Tensor, y: Tensor) -> Tensor:
            gram, target = moments(x.double(), y.double(), prefixes)
            target = scale * target
            gram = gram * (scale[..., None] if isinstance(scale, Tensor) else scale)
            if isinstance(rates, Tensor) and self.steps > _FEW:
                step = torch.eye(dim, dtype=gram.dtype, device=x.device) - rates[:, None] * gram
                return geometric(step, rates * target, self.steps)
            weights = torch.zeros_like(target)
            for step in range(self.steps):
                rate = rates if isinstance(rates, Tensor) else rates[step]
                weights = weights + rate * (target - (gram @ weights[..., None])[..., 0])
            return weights

        return by_parts(descend, x[:, :seen], y[:, :seen], seen * dim * dim).to(x.dtype)

    def _rates(self, lengths: Tensor, dim: int) -> Float[Tensor, "P 1"] | tuple[float, ...]:
        """One rate for each prefix, or one for each step."""
        if isinstance(self.rate, Sequence):
            return tuple(self.rate)
        if self.rate is not None:
            return torch.full_like(lengths, self.rate)[:, None]
        return best_rate(lengths.clamp(min=1), dim, *self.input_moments)[:, None]


@dataclass(frozen=True)
class OnePassSGD(LinearLearner):
    """Stochastic gradient descent that sees each pair once, in order, from w = 0.

    A step is w ← w − 2η (wᵀx_i − y_i) x_i: the gradient of the squared error with its factor 2.

    Args:
        rate: η.
        clip: Largest magnitude of each coordinate of a gradient; None for no bound. The text of Akyürek et al.
            has none, their code clips at 20.

    Raises:
        UserError: A rate or a bound that is not positive.

    Source: Akyürek et al. (2022), section 4.
    """

    rate: float = 0.01
    clip: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise UserError(f"rate must be positive, given {self.rate}")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip must be positive or None, given {self.clip}")

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Tensor:
        if self.clip is not None:
            return self._clipped(x, y, prefixes, self.clip)
        # The delta rule in one triangular solve: with u_i = 2η (y_i − w_iᵀx_i) and w_n = Σ_{i<n} u_i x_i,
        # u_n + 2η Σ_{i<n} (x_nᵀx_i) u_i = 2η y_n. The diagonal is 1, so it needs no wider type.
        x, y, rate = x[:, : max(prefixes)], y[:, : max(prefixes)], 2 * self.rate
        system = rate * (x @ x.mT).tril(-1)
        updates = torch.linalg.solve_triangular(system, rate * y[..., None], upper=False, unitriangular=True)
        return sums_before(updates * x, prefixes)

    def _clipped(self, x: Tensor, y: Tensor, prefixes: list[int], clip: float) -> Tensor:
        """Pair by pair: a bounded gradient is no linear function of the weights before it."""
        weights = [torch.zeros_like(x[:, 0])]
        for point, target in zip(x[:, : max(prefixes)].unbind(1), y.unbind(1), strict=False):
            residual = (weights[-1] * point).sum(-1) - target
            gradient = (2 * residual[:, None] * point).clamp(-clip, clip)
            weights.append(weights[-1] - self.rate * gradient)
        return torch.stack([weights[n] for n in prefixes], 1)


def check_rates(name: str, rates: float | tuple[float, ...] | None, steps: int) -> None:
    """Refuse numbers of steps and rates that are not positive.

    Args:
        name: What the rates are called.
        rates: One for all steps, or one for each; None for those that the learner finds itself.
        steps: How many steps.

    Raises:
        UserError: Fewer than one step, a rate that is not positive, more or fewer rates than steps.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, given {steps}")
    several = rates if isinstance(rates, Sequence) else [] if rates is None else [rates]
    if isinstance(rates, Sequence) and len(rates) != steps:
        raise UserError(f"{name} must be one number or {steps}, one a step, given {len(rates)}")
    if not all(0 < rate < float("inf") for rate in several):
        raise UserError(f"{name} must be positive, given {rates}")


def best_rate(
    points: Float[Tensor, " P"] | float, dim: int, second: float = 1.0, fourth: float = 3.0
) -> Float[Tensor, " P"]:
    """The rate of one step of gradient descent on the loss "mean" with the least expected error.

    One step predicts η qᵀGw with G = (1/n) Σ x xᵀ, so for w ~ N(0, I) its error is E tr((I − ηG)² Σ) =
    d m2 (1 − 2η m2 + η² s), with s = E[G²]_ii = (m4 + (d − 1) m2²)/n + (1 − 1/n) m2²: the first term from
    pairs of the same point, the second from two. So η* = m2/s, and the error that remains is 1 − m2²/s of
    that of predicting 0.

    Args:
        points: Pairs in the context (n), at least 1.
        dim: Dimension of the inputs, whose coordinates are independent with mean 0 (d).
        second: E x_i² of a coordinate (m2).
        fourth: E x_i⁴ of a coordinate (m4).

    Returns:
        η*, one for each n. For N(0, I) it is n/(n + d + 1).

    Source: von Oswald et al. (2022), section 3, find it by line search; the closed form is derived above.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    expected = (fourth + (dim - 1) * second**2) / points + (1 - 1 / points) * second**2
    return second / expected


def geometric(
    step: Float[Tensor, "B P d d"], start: Float[Tensor, "B P d"], steps: int
) -> Float[Tensor, "B P d"]:
    """Σ_{i < steps} Aⁱ b by repeated squaring: with S_m the sum of m terms, S_{a + m} = S_m + Aᵐ S_a."""
    total = torch.zeros_like(start)
    power, partial = step, start[..., None]  # A^m and S_m for m = 1, 2, 4, ...
    total = total[..., None]
    while True:
        if steps & 1:
            total = partial + power @ total
        steps >>= 1
        if not steps:
            return total[..., 0]
        partial = partial + power @ partial
        power = power @ power
