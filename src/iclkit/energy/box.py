"""The box |z_i| <= h in the coordinates z of x = centre + A z: where the mass is expected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from iclkit.energy.border import OwnEnergy
from iclkit.energy.chains import Energy
from iclkit.networks import power_of_two

HALF_WIDTH = 6.0  # N(0, I) has a share of 2e-9 d of its mass outside
_BEYOND = 2.0  # what lies outside of the farthest anchor


@dataclass(frozen=True)
class Box:
    """The box of each context, 6 scales to each side, or wider so that it holds the anchors with 2 to spare.

    Args:
        centre: Its centre.
        scale: The matrix A.
        half_width: h, in scales.
    """

    centre: Float[Tensor, "B d"]
    scale: Float[Tensor, "B d d"]
    half_width: Float[Tensor, " B"]

    @classmethod
    def around(cls, centre: Tensor, scale: Tensor, anchors: Float[Tensor, "B n d"] | None = None) -> Box:
        """The box that holds the anchors."""
        half_width = torch.full((len(centre),), HALF_WIDTH, dtype=torch.float64, device=centre.device)
        if anchors is not None and anchors.shape[1]:
            z = to_standard(anchors, centre, scale)
            half_width = half_width.maximum(z.abs().amax((1, 2)) + _BEYOND)
        return cls(centre, scale, half_width)

    def contains(self, points: Float[Tensor, "B M d"]) -> Bool[Tensor, "B M"]:
        """Which points lie in it."""
        z = to_standard(points, self.centre, self.scale)
        return z.abs().amax(-1) <= self.half_width[:, None]

    def stretch(self, t: Float[Tensor, "B M d"]) -> Float[Tensor, "B M d"]:
        """The points x whose coordinates are z = h tanh(t / 2): the box drawn out over the whole space."""
        z = self.half_width.to(t)[:, None, None] * (t / 2).tanh()
        return self.centre[:, None] + z @ self.scale.mT

    def unstretch(self, points: Float[Tensor, "B M d"]) -> Float[Tensor, "B M d"]:
        """The t of points of the box; those at its faces are moved inside by 1e-6 of its width."""
        z = to_standard(points, self.centre, self.scale) / self.half_width[:, None, None]
        return (2 * z.clamp(-1 + 1e-6, 1 - 1e-6).atanh()).to(points)


@dataclass(frozen=True)
class Stretched(OwnEnergy):
    """The energy of t whose density is that of x = stretch(t): its log Z is the integral over the box.

    dz/dt = 2 h s(t) s(-t), s the logistic function, so a uniform density becomes a logistic one.

    Args:
        energy: The energy of x.
        box: The box.
    """

    energy: Energy
    box: Box

    def made_of(self) -> Energy:
        return self.energy

    def __call__(self, t: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        box = self.box
        constant = box.centre.shape[1] * (2 * box.half_width.to(t)).log()
        constant = constant + torch.linalg.slogdet(box.scale).logabsdet
        jacobian = (logsigmoid(t) + logsigmoid(-t)).sum(-1) + constant[:, None]
        return self.energy(box.stretch(t)) - jacobian


def to_standard(
    points: Float[Tensor, "B M d"], centre: Float[Tensor, "B d"], scale: Float[Tensor, "B d d"]
) -> Float[Tensor, "B M d"]:
    """z = A^-1 (x - centre), in float64."""
    # Row by row in units of its own: columns may be of 1e200 and of 1e-200.
    row = power_of_two(scale.double().abs().amax(-1, keepdim=True))
    offset = (points - centre[:, None]).double().mT / row
    return torch.linalg.solve(scale.double() / row, offset).mT


def to_data(z: Float[Tensor, "B M d"], centre: Float[Tensor, "B d"], scale: Float[Tensor, "B d d"]) -> Tensor:
    """x = centre + A z, in the energy's own precision and on its device."""
    return centre[:, None] + z.to(centre) @ scale.mT


# Standard deviation of a logistic variable: what a uniform density over the box becomes.
STRETCHED_SCALE = math.pi / math.sqrt(3)
