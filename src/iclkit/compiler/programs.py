"""Learning algorithms as programs, each readable from top to bottom. A new one is a function and a line in
`PROGRAMS`.

In a loop every column takes over from the column before it: after n passes the first n pairs are right, and
what more passes change is nothing. So the query, after one pass more than it has pairs, is right at every
prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from iclkit.compiler.linear_attention import check_sizes
from iclkit.compiler.operations import Aff, Div, Loop, Mov, Mul
from iclkit.compiler.program import Program
from iclkit.compiler.where import First, Largest, Pairs, Previous
from iclkit.errors import UserError
from iclkit.learners import Averaging, GradientDescent, NearestNeighbors, OnePassSGD, Ridge

# The rounding of float64; and a number that is nothing beside squares, also in float32, where 1/c is still one.
_EPS, _TINY = 2.0**-52, 1e-37


def averaging(dim: int, points: int) -> Program:
    """The prediction wᵀx with w the mean of x y over the context: what `learners.Averaging` does.

    Args:
        dim: Dimension of x.
        points: Longest context.
    """
    return Program(
        "averaging",
        dim,
        points,
        [
            Mul("xy", "x", "y", "i,->i"),
            Mov("w", "xy", Pairs()),
            Mul("prediction", "w", "x", "i,i->"),
        ],
        learner=Averaging(),
    )


def sgd(
    dim: int, points: int, rate: float = 0.01, weight_decay: float = 0.0, steps: int | None = None
) -> Program:
    """Stochastic gradient descent, a step for each pair: w ← w - 2α (x (wᵀx - y) + λ w).

    Without decay and with as many steps as pairs it is `learners.OnePassSGD`. The sign of λ w is that of the
    gradient of (wᵀx - y)² + λ ‖w‖²; the paper's appendix has it the other way round.

    Args:
        dim: Dimension of x.
        points: Longest context.
        rate: α.
        weight_decay: λ.
        steps: How many of the latest pairs are used, a step for each; all if None.

    Raises:
        UserError: Sizes below one, a rate that is not positive, a negative decay, or fewer than one step.

    Source: Akyürek et al. (2022), theorem 1.
    """
    check_sizes(dim, points)
    _check_positive("rate", rate)
    _check_not_negative("weight_decay", weight_decay)
    if steps is not None and not 1 <= steps <= points:
        raise UserError(f"steps must lie in 1..{points}, one a pair, given {steps}")
    body = (
        Mov("w", "w", Previous()),
        Mul("xᵀw", "x", "w", "i,i->"),
        Aff("residual", {"xᵀw": 1, "y": -1}),
        Mul("gradient", "x", "residual", "i,->i"),
        Aff("w", {"w": 1 - 2 * rate * weight_decay, "gradient": -2 * rate}),
    )
    # The last pass reads what the steps have made.
    passes = (points if steps is None else steps) + 1
    plain = weight_decay == 0 and passes > points
    return Program(
        "sgd",
        dim,
        points,
        [Loop(passes, body)],
        {"w": np.zeros(dim)},
        output="xᵀw",
        learner=OnePassSGD(rate) if plain else None,
    )


def gradient_descent(dim: int, points: int, steps: int = 1, rate: float = 0.5) -> Program:
    """Gradient descent on half the mean squared error of the context, as `learners.GradientDescent`.

    The error's gradient is G w - b with G the mean of x xᵀ and b that of x y. Both are read once; then every
    column descends by itself, whatever its context.

    Args:
        dim: Dimension of x.
        points: Longest context.
        steps: How many.
        rate: η.

    Raises:
        UserError: Sizes below one, a rate that is not positive, or fewer than one step.
    """
    check_sizes(dim, points)
    _check_positive("rate", rate)
    if steps < 1:
        raise UserError(f"steps must be at least 1, given {steps}")
    step = (
        Mul("Gw", "G", "w", "ij,j->i"),
        Aff("w", {"w": 1, "Gw": -rate, "b": rate}),
    )
    return Program(
        "gradient-descent",
        dim,
        points,
        [
            Mul("xx", "x", "x", "i,j->ij"),
            Mul("xy", "x", "y", "i,->i"),
            Mov("G", "xx", Pairs()),
            Mov("b", "xy", Pairs()),
            Loop(steps, step),
            Mul("prediction", "w", "x", "i,i->"),
        ],
        {"w": np.zeros(dim)},
        learner=GradientDescent(steps, rate),
    )


def ridge(dim: int, points: int, penalty: float = 0.1, longest: float | None = None) -> Program:
    """Ridge regression over the whole context by the Sherman-Morrison identity, as `learners.Ridge(penalty)`.

    P = λ (λI + Σ x xᵀ)⁻¹, from I on, and b = Σ x y go from pair to pair. With u = P x the next P is

        λ (P⁻¹ λ + x xᵀ)⁻¹ = P - u uᵀ / (λ + xᵀu),

    and ŷ = xᵀP b / λ = uᵀb / λ for the x of the query. With the factor λ no entry of P is above 1.

    Args:
        dim: Dimension of x.
        points: Longest context.
        penalty: λ, positive.
        longest: The largest ‖x‖² for which the target "standard" is right, which approximates the division by λ
            + xᵀP x on [λ, λ + longest]. If None, d + 6 √(2d) + 8, which a normal x rarely exceeds.

    Raises:
        UserError: Sizes below one, a penalty or a length that is not positive.

    Source: Akyürek et al. (2022), theorem 2, for one example; for all of them as above.
    """
    check_sizes(dim, points)
    _check_positive("penalty", penalty)
    reach = dim + 6 * sqrt(2 * dim) + 8 if longest is None else longest
    _check_positive("longest", reach)
    body = (
        Mov("P", "P", Previous()),
        Mov("b", "b", Previous()),
        Mul("u", "P", "x", "ij,j->i"),
        Mul("ub", "u", "b", "i,i->"),
        Aff("prediction", {"ub": 1 / penalty}),
        Mul("xPx", "x", "u", "i,i->"),
        Aff("c", {"xPx": 1}, penalty),
        # P is positive definite, so λ + xᵀP x is at least λ; and P ≤ I.
        Div("gain", "u", "c", least=penalty, most=penalty + reach),
        Mul("step", "gain", "u", "i,j->ij"),
        Aff("P", {"P": 1, "step": -1}),
        Mul("xy", "x", "y", "i,->i"),
        Aff("b", {"b": 1, "xy": 1}),
    )
    start = {"P": np.eye(dim), "b": np.zeros(dim)}
    loop = Loop(points + 1, body)
    return Program("ridge", dim, points, [loop], start, learner=Ridge(penalty), longest=reach)


def nearest_neighbor(dim: int, points: int) -> Program:
    """The target of the nearest input of the context, as `learners.NearestNeighbors(1)`; of several that are as
    near, the first.

    Of |q - x|² = |q|² - 2 (qᵀx - |x|²/2) the last part decides. Inputs are counted from the first one, o, so
    that a large mean takes no digits, and scores in units of R = |q - o|² + n · (mean of |x - o|²), so that no
    score is above 1 and a place later may count 1e-14 less: more than rounding, and less than what tells two
    distances apart, but for squares that differ by less than some 1e-13 R.

    Args:
        dim: Dimension of x.
        points: Longest context.

    Raises:
        UserError: Sizes below one.
    """
    check_sizes(dim, points)
    joined = np.eye(dim + 1)
    return Program(
        "nearest-neighbor",
        dim,
        points,
        [
            Mov("o", "x", First()),
            Aff("z", {"x": 1, "o": -1}),
            Mul("zz", "z", "z", "i,i->"),
            Mov("mean", "zz", Pairs()),
            Aff("R", {"zz": 1, "mean": points}, _TINY),
            Aff("near", {"z": joined[:, :dim]}, joined[:, dim]),
            Div("query", "near", "R"),
            Aff("key", {"z": joined[:, :dim], "zz": -0.5 * joined[:, dim:]}),
            Aff("nothing", {}, 0.0),
            Mov("prediction", "y", Largest("query", "key", "nothing", later=(64 + 8 * dim) * _EPS)),
        ],
        learner=NearestNeighbors(1),
    )


PROGRAMS: dict[str, Callable[..., Program]] = {
    "averaging": averaging,
    "gradient-descent": gradient_descent,
    "nearest-neighbor": nearest_neighbor,
    "ridge": ridge,
    "sgd": sgd,
}


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UserError(f"{name} must be positive, given {value}")


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise UserError(f"{name} must not be negative, given {value}")
