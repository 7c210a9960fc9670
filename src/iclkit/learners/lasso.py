"""The Lasso at every prefix of every episode, exactly: all paths of solutions are followed at once.

For one context let G = XᵀX, b = Xᵀy and λ = nα, so that the objective is ½ wᵀGw - bᵀw + λ Σ_j κ_j |w_j|, κ = 1.
With active coordinates A of signs s and all others zero, its stationary points are, for every λ,

    w_A = G_AA⁻¹ (b_A - λ κ_A s_A)  and  c_I = b_I - G_IA w_A;  optimal while s_A w_A > 0 and |c_I| < λ κ_I.

Both are straight lines β + λ μ. As λ falls from infinity, where A is empty, the next event is an active weight
that reaches zero, at λ = -β/μ, or an idle correlation that reaches its bound, at λ = |β| / (κ - sign(β) μ).
That coordinate changes sides, which is one symmetric sweep of the tableau [[-G_AA⁻¹, ·], [G_IA G_AA⁻¹, Schur
complement]] and of the columns β and μ. Nothing has to converge, however small the penalty: after some d events
all is done.

Source: Osborne, Presnell & Turlach (2000), "A new approach to variable selection in least squares problems";
Efron, Hastie, Johnstone & Tibshirani (2004), "Least angle regression", section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.regression import LinearLearner

# Numbers in the tableaux that are worked on at a time: 2 MB, which the caches hold. Problems are the last axis.
_NUMBERS = 2**18
# Bounds differ by parts in 10⁹ between coordinates, so that ties (data of few values) need no rules.
_SPREAD = 1e-9
# A coordinate that is, up to rounding, a combination of the active ones stays idle. Its square given theirs
# should be 0, and is off by the rounding of float64 times the largest number in G_AA⁻¹; this is that rounding
# and a margin.
_COLLINEAR = 1e-14
# In the place of denominators that are not positive; what stands over them is then 0.
_TINY = 1e-300


@dataclass(frozen=True)
class Lasso(LinearLearner):
    """Least squares with a penalty on |w|: argmin_w 1/(2n) |y - Xw|² + penalty |w|₁ over the n pairs before.

    The objective is scikit-learn's, without intercept. Solved to rounding: weights are exactly zero or not, and
    gradients through the weights are exact while their signs hold. Works in float64 inside, for G squares X's
    condition; with inputs whose directions differ in size by 10⁴ and more, look at `duality_gap`. Of columns
    that are multiples of each other the largest is used, of equal ones the first.

    Args:
        penalty: The factor of |w|₁ (scikit-learn's α; Garg et al. use 1 to 1e-4).

    Raises:
        UserError: A penalty that is not positive and finite.

    Source: Tibshirani (1996); as a reference of in-context learners: Garg et al. (2022), section 5.
    """

    penalty: float = 0.1

    def __post_init__(self) -> None:
        if not (self.penalty > 0 and math.isfinite(self.penalty)):
            raise UserError(f"penalty must be positive, given {self.penalty}; without one use LeastSquares()")

    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "B P d"]:
        step = max(1, _NUMBERS // ((max(prefixes) + 1) * x.shape[-1] ** 2))
        parts = [
            self._solve(x[start : start + step].double(), y[start : start + step].double(), prefixes)
            for start in range(0, len(x), step)
        ]
        return torch.cat(parts, -1).permute(2, 1, 0).to(x)

    def duality_gap(
        self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: Sequence[int] | None = None
    ) -> Float[Tensor, "B P"]:
        """By how much the objective at these weights can at most exceed its minimum; arguments as in `weights`.

        With the residual r and t = min(1, n penalty / |Xᵀr|_∞), t r is a feasible point of the dual.

        Returns:
            The gaps, in units of y²; zero before any pair.

        Raises:
            UserError: As `weights`.
        """
        weights = self.weights(x, y, prefixes).double().permute(2, 1, 0)
        chosen = list(range(x.shape[1])) if prefixes is None else list(prefixes)
        gram, moment, counts = _moments(x.double(), y.double(), chosen)
        square = torch.nn.functional.pad(y.double().square().cumsum(1), (1, 0))[:, chosen].T
        fitted = _times(gram, weights)
        correlation = (moment - fitted).abs().amax(0)
        cross, own = (moment * weights).sum(0), (fitted * weights).sum(0)
        residual = square - 2 * cross + own
        scale = (self.penalty * counts / correlation).clamp(max=1).nan_to_num(1.0)  # no pairs: 0/0
        dual = scale * (square - cross) - 0.5 * scale**2 * residual
        primal = 0.5 * residual + self.penalty * counts * weights.abs().sum(0)
        return ((primal - dual) / counts.clamp_min(1)).T

    def _solve(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "d P B"]:
        gram, moment, counts = _moments(x, y, prefixes)
        shape, bounds = moment.shape, self.penalty * counts.expand(-1, len(x)).flatten()
        gram, moment = gram.flatten(2), moment.flatten(1)
        with torch.no_grad():
            inverse, linear = _follow(gram, moment, bounds)
            weights = -_times(inverse, moment - linear)
        # One step of Newton's method: it removes the rounding of the sweeps, and carries the gradients exactly.
        weights = weights + _times(inverse, _times(gram, weights) - moment + linear)
        return weights.view(shape)


def _times(matrices: Float[Tensor, "d d ..."], vectors: Float[Tensor, "d ..."]) -> Tensor:
    return (matrices * vectors).sum(1)


def _moments(
    x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: list[int]
) -> tuple[Float[Tensor, "d d P B"], Float[Tensor, "d P B"], Float[Tensor, "P 1"]]:
    """XᵀX, Xᵀy and n of each prefix."""
    points = max(prefixes)
    inputs = torch.nn.functional.pad(x[:, :points].permute(2, 1, 0), (0, 0, 1, 0))  # a zero first: prefix 0
    targets = torch.nn.functional.pad(y[:, :points].T, (0, 0, 1, 0))
    gram, moment = (inputs[:, None] * inputs).cumsum(2), (inputs * targets).cumsum(1)
    if prefixes != list(range(points + 1)):
        gram, moment = gram[:, :, prefixes], moment[:, prefixes]
    return gram, moment, torch.tensor(prefixes, device=x.device).to(x)[:, None]


def _follow(
    gram: Float[Tensor, "d d P"], moment: Float[Tensor, "d P"], bounds: Float[Tensor, " P"]
) -> tuple[Float[Tensor, "d d P"], Float[Tensor, "d P"]]:
    """Follow the path of each problem down to its bound.

    Returns:
        -G_AA⁻¹ with zeros in all other places, and λ s, the derivative of the penalty.

    Raises:
        UserError: Paths that do not end, which takes collinear data at the limits of float64.
    """
    dim, problems = moment.shape
    # Coordinates of unit length, so that pivots are at most 1 and thresholds mean the same everywhere.
    unit = gram.diagonal().T.rsqrt().nan_to_num_(posinf=0.0)
    index = torch.arange(dim, device=gram.device)[:, None]
    bound = unit * (1 + _SPREAD * (0.618034 * index.to(gram) % 1))  # κ
    square = bound.square()
    tableau = (gram * unit).mul_(unit[:, None])
    squares = tableau.diagonal().T
    beta, mu, signs = moment * unit, torch.zeros_like(moment), torch.zeros_like(moment)  # signs: κ s, idle: 0
    # κ and κ² of the idle, 0 for the active. An infinite κ² keeps out what is collinear with the active.
    idle, slack, any_wait = bound.clone(), square.clone(), False
    live = torch.zeros_like(bounds[None], dtype=torch.bool)
    for _ in range(100 * dim + 100):
        side = torch.addcmul(signs, idle, beta.sign(), value=-1)
        # The events, negative: -|β| / (κ - sign(β) μ) of the idle (times κ/κ), sβ / (sμ) of the active.
        ahead = (side * beta).clamp_(max=0).div_(torch.addcmul(slack, side, mu).clamp_min_(_TINY))
        event, place = ahead.min(0, keepdim=True)
        live = event < -bounds
        if not live.any():
            break
        column = tableau.gather(0, place[None].expand(1, dim, -1))[0]
        pivot = column.gather(0, place)
        kappa = bound.gather(0, place)
        entering = idle.gather(0, place) > 0
        # A pivot is off by the rounding of the largest number in G_AA⁻¹.
        wait = live & entering & (pivot < _COLLINEAR * squares.amin(0).neg_().clamp_(min=10))
        if wait.any():
            slack.scatter_(0, place, torch.where(wait, math.inf, slack.gather(0, place)))
            live = live & ~wait
            any_wait = True
        # 1 for what enters, -1 for what leaves, 0 where the path has come to its bound.
        enters = (2 * entering.to(gram) - 1) * live
        pivot = torch.where(live, pivot, math.inf)
        change = side.gather(0, place) * live
        # With p ∓ 1 in the pivot's place, the update of all other rows is right for its own row and column too,
        # but for the diagonal: p - (p ∓ 1)²/p = ±2 - 1/p, where -1/p should be.
        column.scatter_add_(0, place, -enters)
        factor = column / pivot
        # What enters brings its sign into μ before the sweep; what leaves takes it out after.
        mu_here = mu.gather(0, place) + change * entering
        mu.addcmul_(factor, mu_here, value=-1).scatter_add_(0, place, change)
        beta.addcmul_(factor, beta.gather(0, place), value=-1)
        tableau.addcmul_(column[:, None], factor, value=-1)
        squares.scatter_add_(0, place, -2 * enters)
        signs.scatter_add_(0, place, -change)
        idle.scatter_add_(0, place, -enters * kappa)
        slack.scatter_add_(0, place, -enters * kappa * kappa)
        if any_wait:  # until an active coordinate leaves
            slack = torch.where((enters < 0) & slack.isinf(), square, slack)
    else:
        raise UserError(
            f"Lasso cannot finish {int(live.sum())} of {problems} contexts, their inputs are near collinear; "
            "drop a column or use a larger penalty"
        )
    active = signs != 0
    inverse = torch.where(active & active[:, None], tableau, 0.0) * unit * unit[:, None]
    return inverse, bounds * signs.sign()
