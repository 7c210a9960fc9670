"""What lies outside the box |z_i| <= h, in one to three dimensions: the mass of the tails, by quadrature too.

A ray from the centre leaves the box through one of its 2 d faces. Through a face, z = h r (.., u_j, .., +-1,
..) with |u_j| <= 1 and r = e^t >= 1, and dz = h^d r^d du dt: another box, of the coordinates (u, t). So the
same adaptive quadrature runs on 2 d energies
    E(z(u, t)) - d (t + log h)
for each context. Tails along the axes grow narrow in u as e^-t, so in place of u the quadrature has v with
u = sinh(k v) / sinh(k), k = t + 1/2, in which they do not. Its coordinate t ends where, by the exponent that
the rays showed, a ten-thousandth of the tail is left.

Shape letters: B contexts, F = 2 d faces, C cells, S draws, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy import rejection
from iclkit.energy.border import OwnEnergy
from iclkit.energy.box import HALF_WIDTH, Box, to_data
from iclkit.energy.chains import Energy
from iclkit.energy.quadrature import Quadrature, integrate
from iclkit.energy.tails import Tails

_LEFT = 9.0  # the quadrature ends where e^-9 of a tail is left
_BLUNT = 0.5  # k at the box
_SHORTEST, _LONGEST = 6.0, 36.0  # ends of t; at the second, squares of z are still numbers in float32


@dataclass(frozen=True)
class ThroughFaces(OwnEnergy):
    """The energy of each face of each context's box, in coordinates from -6 to 6 (see above).

    Args:
        energy: The energy of x.
        box: The box of each context.
        length: Where t ends.
    """

    energy: Energy
    box: Box
    length: Float[Tensor, " B"]

    def made_of(self) -> Energy:
        return self.energy

    def __call__(self, v: Float[Tensor, "BF M d"]) -> Float[Tensor, "BF M"]:
        batch, dim = self.box.centre.shape
        z, log_volume = _through_faces(v.view(batch, 2 * dim, -1, dim), self.length, self.box)
        x = to_data(z.flatten(1, 2), self.box.centre, self.box.scale)
        values = self.energy(x).view(log_volume.shape)
        values = values.masked_fill(values.isnan(), math.inf)  # beyond the reach of its numbers
        return (values - log_volume).flatten(0, 1)


@dataclass(frozen=True)
class Outside:
    """The integral of exp(-E) outside the box.

    Args:
        faces: Quadrature of the energy of each face, contexts in front.
        energy: That energy.
        length: Where t ends, for each context.
        left: Share of the tail that lies beyond, about.
        box: What it is outside of.
    """

    faces: Quadrature
    energy: ThroughFaces
    length: Float[Tensor, " B"]
    left: Float[Tensor, " B"]
    box: Box

    @property
    def evaluations(self) -> int:
        """Energies evaluated per context."""
        return self.faces.evaluations * 2 * self.box.centre.shape[1]

    @property
    def log_faces(self) -> Float[Tensor, "B F"]:
        """Log integrals through each face, in the units of x."""
        batch, dim = self.box.centre.shape
        log_det = torch.linalg.slogdet(self.box.scale.double()).logabsdet.cpu()
        return self.faces.log_integral.view(batch, 2 * dim) + log_det[:, None]

    @property
    def log_integral(self) -> Float[Tensor, " B"]:
        """Log integral over all that is outside."""
        return self.log_faces.logsumexp(1)

    @property
    def error(self) -> Float[Tensor, " B"]:
        """Error of it, in nats: the quadrature's, and what lies beyond its end."""
        share = self.log_faces.softmax(1).nan_to_num(nan=0.0)
        return (share * self.faces.error.view(share.shape).nan_to_num(nan=0.0, posinf=0.0)).sum(1) + self.left

    def draw(self, size: int, generator: torch.Generator | None) -> Float[Tensor, "B F S d"]:
        """Points x outside, drawn from exp(-E), as many through each face."""
        batch, dim = self.box.centre.shape
        zero, one = _unit(batch * 2 * dim, dim, self.box.centre)
        chains = rejection.draw(self.energy, zero, one, self.faces, size, generator)
        z, _ = _through_faces(chains.points.view(batch, 2 * dim, size, dim), self.length, self.box)
        return to_data(z.flatten(1, 2), self.box.centre, self.box.scale).view(batch, 2 * dim, size, dim)


def integrate_outside(
    energy: Energy, box: Box, tails: Tails, tolerance: float = 1e-3, max_evaluations: int = 500_000
) -> Outside:
    """Integrate exp(-E) outside a box.

    Args:
        energy: [B, M, d] -> [B, M].
        box: The box of each context.
        tails: How the mass falls; the contexts whose mass does not fall are integrated to some distance.
        tolerance: Relative error at which the refinement of a face stops.
        max_evaluations: Refinement also stops before a context would take more than this.
    """
    batch, dim = box.centre.shape
    decay = tails.decay.clamp_min(1e-3)
    length = (_LEFT / decay).clamp(_SHORTEST, _LONGEST)

    of_faces = ThroughFaces(energy, box, length)
    zero, one = _unit(batch * 2 * dim, dim, box.centre)
    faces = integrate(
        of_faces,
        zero,
        one,
        _on_faces(tails.rays, length).flatten(0, 1).to(zero),
        tolerance,
        max_evaluations // (2 * dim),
        torch.full((batch * 2 * dim,), HALF_WIDTH, dtype=torch.float64),
    )
    return Outside(faces, of_faces, length, (-decay * length).exp(), box)


def _unit(count: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_zeros(count, dim), torch.eye(dim).to(like).expand(count, dim, dim)


def _through_faces(
    v: Float[Tensor, "B F M d"], length: Float[Tensor, " B"], box: Box
) -> tuple[Float[Tensor, "B F M d"], Float[Tensor, "B F M"]]:
    """Points z outside the box, and the log volume element, from coordinates in [-6, 6]: the last gives t."""
    dim = v.shape[-1]
    unit, half_width = v / HALF_WIDTH, box.half_width.to(v)[:, None, None]
    t = (unit[..., -1] + 1) / 2 * length.to(v)[:, None, None]
    radius, sharpness = half_width * t.exp(), (t + _BLUNT)[..., None]
    z = torch.empty_like(v)
    for face in range(2 * dim):
        axis, sign = face // 2, 1.0 - 2 * (face % 2)
        across = (sharpness[:, face] * unit[:, face, :, :-1]).sinh() / sharpness[:, face].sinh()
        side = torch.full_like(unit[:, face, :, :1], sign)
        z[:, face] = torch.cat([across[..., :axis], side, across[..., axis:]], -1)
    log_jacobian = (length.to(v) / 2).log()[:, None, None] - dim * math.log(HALF_WIDTH)
    stretched = sharpness * (sharpness * unit[..., :-1]).cosh() / sharpness.sinh()
    return z * radius[..., None], dim * radius.log() + stretched.log().sum(-1) + log_jacobian


def _on_faces(rays: Float[Tensor, "B R d"], length: Float[Tensor, " B"]) -> Float[Tensor, "B F n d"]:
    """Points of the lowest rays and of the axes, near the box: there the mass may be narrow.

    Further out it is narrower still, but it is the less; the refinement follows it from cell to cell.
    """
    dim, rays = rays.shape[-1], rays[:, -4:]
    t = torch.tensor([0.2, 0.7, 1.5], dtype=rays.dtype)
    sharpness = (t + _BLUNT)[:, None]
    places = 2 * t / length[:, None] - 1  # [B, t]
    faces = []
    for face in range(2 * dim):
        axis, sign = face // 2, 1.0 - 2 * (face % 2)
        along = rays[..., axis]
        across = torch.cat([rays[..., :axis], rays[..., axis + 1 :]], -1) / along[..., None]
        mine = (sign * along >= rays.abs().amax(-1) - 1e-9)[..., None]
        across = torch.where(mine, sign * across, 0.0)
        across = torch.cat([across, torch.zeros_like(across[:, :1])], 1)[:, :, None].expand(-1, -1, len(t), -1)
        across = (across * sharpness.sinh()).asinh() / sharpness
        depth = places[:, None, :, None].expand(-1, across.shape[1], -1, -1)
        faces.append(HALF_WIDTH * torch.cat([across, depth], -1).flatten(1, 2))
    return torch.stack(faces, 1)
