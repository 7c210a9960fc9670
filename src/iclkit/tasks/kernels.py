"""Covariance functions of Gaussian processes, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import unknown

Kernel = Literal["rbf", "matern32", "matern52", "periodic", "linear"]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    # Differences, not products: equal points are at distance 0; the gradient there is 0, as the kernels' is.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _rbf(a: Tensor, b: Tensor, length_scale: float, period: float) -> Tensor:
    return torch.exp(-0.5 * (_distance(a, b) / length_scale).square())


def _matern32(a: Tensor, b: Tensor, length_scale: float, period: float) -> Tensor:
    scaled = math.sqrt(3) / length_scale * _distance(a, b)
    return (1 + scaled) * torch.exp(-scaled)


def _matern52(a: Tensor, b: Tensor, length_scale: float, period: float) -> Tensor:
    scaled = math.sqrt(5) / length_scale * _distance(a, b)
    return (1 + scaled + scaled.square() / 3) * torch.exp(-scaled)


def _periodic(a: Tensor, b: Tensor, length_scale: float, period: float) -> Tensor:
    # The chord of an angle t on the unit circle is 2 sin(t/2), so this is "rbf" on one circle a coordinate.
    def circles(x: Tensor) -> Tensor:
        angle = 2 * math.pi / period * x
        return torch.cat([angle.cos(), angle.sin()], -1)

    return _rbf(circles(a), circles(b), length_scale, period)


def _linear(a: Tensor, b: Tensor, length_scale: float, period: float) -> Tensor:
    return a @ b.mT / length_scale**2


KERNELS: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "rbf": _rbf,
    "matern32": _matern32,
    "matern52": _matern52,
    "periodic": _periodic,
    "linear": _linear,
}


def covariance(
    kernel: str,
    a: Float[Tensor, "*batch N d"],
    b: Float[Tensor, "*batch M d"],
    length_scale: float = 1.0,
    variance: float = 1.0,
    period: float = 1.0,
) -> Float[Tensor, "*batch N M"]:
    """The covariance of a Gaussian process between two sets of points.

    With r = ‖a − b‖/l and v the variance: "rbf" v exp(−r²/2); "matern32" v (1 + √3 r) exp(−√3 r); "matern52"
    v (1 + √5 r + 5r²/3) exp(−√5 r); "periodic" v exp(−2 Σ sin²(π (a_i − b_i)/period)/l²), a product over the
    coordinates, so that it is a covariance in any dimension; "linear" v aᵀb/l².

    Args:
        kernel: One of `KERNELS`.
        a: Points.
        b: Points.
        length_scale: l, in units of the inputs ("periodic": of the radius of the circle).
        variance: v, that of the function's values ("linear": at ‖a‖ = l).
        period: For "periodic", in units of the inputs.

    Raises:
        UserError: A kernel of another name.

    Source: Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapter 4.
    """
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    return variance * KERNELS[kernel](a, b, length_scale, period)
