"""Whether exp(-E) has a finite integral: how its mass falls along rays from the centre, far outside.

In the coordinates z of x = centre + A z, the mass near a ray u at radius r is, per unit of log r,
    exp(-E(r u)) r w_1 .. w_{d-1},
where the w are the widths across the ray over which E rises by half a nat, at most r. A density that decays in
all directions alike has w = r, and r^d exp(-E) must fall; on a ridge (a Cauchy density in one coordinate, a
Gaussian in the others) the widths stay, and that would ask too much. So the first test takes w = r, which
bounds the mass from above, and the widths are measured only where that fails. Mass that falls as r^-s with
s > 0 is integrable: a Student density with nu degrees of freedom has s = nu, a flat one s = -d.

Rays are the axes, the diagonals and some at random, and those that a search on spheres of growing radius finds
to be lowest: a valley that leads outward has no reason to lie along an axis.

Shape letters: B contexts, R rays, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.energy.chains import Energy

FALL = 0.05  # mass that falls more slowly than r^-0.05 counts as not falling
_POWER = 100.0  # a power that counts as none: over the radii looked at, a factor of 10^200
_NEAR, _FIXED, _TRACKED = 10.0, (1e3, 1e5), (1e2, 1e4)  # radii, in units of the box


@dataclass(frozen=True)
class Tails:
    """How the mass falls along the ray on which it falls most slowly.

    Args:
        slope: d log(mass per unit of log r) / d log r there; -inf where the density vanishes, +inf where it is
            infinite.
        ray: That ray, a unit vector in z.
        rays: All rays that were looked at, the lowest last.
        evaluations: Energies evaluated per context.
    """

    slope: Float[Tensor, " B"]
    ray: Float[Tensor, "B d"]
    rays: Float[Tensor, "B R d"]
    evaluations: int

    @property
    def proper(self) -> Bool[Tensor, " B"]:
        """Whether exp(-E) has a finite integral, as far as the rays tell."""
        return self.slope < -FALL

    @property
    def decay(self) -> Float[Tensor, " B"]:
        """The exponent s of mass that falls as r^-s; infinite for tails lighter than every power."""
        return torch.where(self.slope < -_POWER, math.inf, -self.slope)


def probe(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    half_width: Float[Tensor, " B"],
    tracked: int = 4,
) -> Tails:
    """Follow rays from each centre outward, to 10^5 times the box |z_i| <= half_width.

    Args:
        energy: [B, M, d] -> [B, M]; evaluated without gradients.
        centre: Where the rays start.
        scale: The matrix A.
        half_width: Where the tails begin.
        tracked: How many valleys are followed.
    """
    look = _Look(energy, centre, scale)
    batch, dim = centre.shape
    unit = half_width.double().cpu()[:, None]
    fixed = _directions(dim).expand(batch, -1, -1)
    radii = torch.tensor([0.0, _NEAR, *_FIXED], dtype=torch.float64)
    spheres = (unit * radii).repeat_interleave(fixed.shape[1], 1)
    middle, near, *ends = look.at(fixed.repeat(1, 4, 1), spheres).chunk(4, 1)
    slope = _slope(ends[0], ends[1], *_FIXED) + dim
    rays = before = after = fixed
    if dim > 1 and not _alike(near - middle, dim):
        order = _defined(near).argsort(1)[:, :tracked]
        valley = fixed.gather(1, order[..., None].expand(-1, -1, dim))
        valley, _ = _lowest(look, valley, unit * _NEAR, 0.4, 16)
        before, low_before = _lowest(look, valley, unit * _TRACKED[0], 4 / _TRACKED[0], 8)
        after, low_after = _lowest(look, before, unit * _TRACKED[1], 4 / _TRACKED[1], 8)
        slope = torch.cat([slope, _slope(low_before, low_after, *_TRACKED) + dim], 1)
        rays = torch.cat([fixed, after], 1)
    if dim > 1 and (slope.amax(1) >= -FALL).any():
        narrower = _narrowing(look, fixed, fixed, unit, _FIXED)
        if rays is not fixed:
            narrower = torch.cat([narrower, _narrowing(look, before, after, unit, _TRACKED)], 1)
        slope = torch.where(slope >= -FALL, slope - narrower, slope)
    worst = slope.argmax(1)
    ray = rays[torch.arange(batch), worst]
    return Tails(slope.amax(1), ray, rays, look.count)


class _Look:
    """Energies on rays, and how many were evaluated."""

    def __init__(self, energy: Energy, centre: Tensor, scale: Tensor) -> None:
        self._energy, self._centre, self._scale, self.count = energy, centre, scale, 0

    def at(self, direction: Float[Tensor, "B R d"], radius: Float[Tensor, "B R"]) -> Float[Tensor, "B R"]:
        """Energies at radius * direction; NaN where they are undefined."""
        z = (direction * radius[..., None]).to(self._centre)
        self.count += z.shape[1]
        with torch.no_grad():
            return self._energy(self._centre[:, None] + z @ self._scale.mT).double().cpu()

    def widths(
        self, direction: Float[Tensor, "B R d"], radius: Float[Tensor, "B R"]
    ) -> Float[Tensor, "B R d-1"]:
        """Log of the mean distance to either side across the rays at which E has risen by 1/2; at most r."""
        batch, rays, dim = direction.shape
        across = _across(direction)
        sides = torch.cat([across, -across], 2).flatten(1, 2)  # [B, R 2(d-1), d]
        position = (direction * radius[..., None]).repeat_interleave(2 * (dim - 1), 1)
        reach = radius.repeat_interleave(2 * (dim - 1), 1)
        start = self.at(direction, radius).repeat_interleave(2 * (dim - 1), 1)
        low, high = torch.full_like(reach, math.log(1e-9)), torch.zeros_like(reach)
        for _ in range(14):
            middle = (low + high) / 2
            moved = position + (reach * middle.exp())[..., None] * sides
            distance = moved.norm(dim=-1)
            inside = self.at(moved / distance[..., None], distance) < start + 0.5
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        width = (reach * high.exp()).view(batch, rays, 2, dim - 1)
        return width.mean(2).log()


def _directions(dim: int) -> Float[Tensor, "1 R d"]:
    """Axes, diagonals (up to six dimensions) and some at random, of length 1; evenly spaced on the circle."""
    if dim == 1:
        return torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    if dim == 2:
        angle = torch.arange(24, dtype=torch.float64) * (math.pi / 12)
        return torch.stack([angle.cos(), angle.sin()], 1)[None]
    axes = torch.eye(dim, dtype=torch.float64)
    rows = [axes, -axes, torch.randn(40, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)]
    if dim <= 6:
        rows.append(torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * dim))
    directions = torch.cat(rows)
    return (directions / directions.norm(dim=1, keepdim=True))[None]


def _narrowing(
    look: _Look, near: Tensor, far: Tensor, unit: Tensor, radii: tuple[float, float]
) -> Float[Tensor, "B R"]:
    """By how much the widths across the rays grow more slowly than r: 0 (they grow with it) to d - 1."""
    before, after = (
        look.widths(direction, (unit * radius).expand(direction.shape[:2]))
        for direction, radius in ((near, radii[0]), (far, radii[1]))
    )
    growth = (after - before).sum(-1) / math.log(radii[1] / radii[0])
    return (near.shape[-1] - 1 - growth).nan_to_num(0.0).clamp_min(0)


def _alike(rise: Float[Tensor, "B R"], dim: int) -> bool:
    """Whether the energy rises so alike on all rays that no valley can lead outward between them.

    Up to three dimensions no direction is further than 0.55 from one of the rays, so a valley whose energy
    rises as the square of the angle shows at most a third of its walls' height on the nearest.
    """
    if dim > 3 or not rise.isfinite().all():
        return False
    return bool((rise.amin(1) > 0.3 * rise.amax(1)).all())


def _slope(near: Tensor, far: Tensor, near_radius: float, far_radius: float) -> Float[Tensor, "B R"]:
    """-dE / d log r between two radii. An infinite energy has no mass; an undefined one tells nothing."""
    slope = (near - far) / math.log(far_radius / near_radius)
    slope = torch.where(far == math.inf, -math.inf, slope)
    slope = torch.where((near == -math.inf) | (far == -math.inf), math.inf, slope)
    return slope.masked_fill(slope.isnan(), -math.inf)


def _defined(energies: Tensor) -> Tensor:
    """Energies, infinite where they are undefined."""
    return energies.masked_fill(energies.isnan(), math.inf)


def _lowest(
    look: _Look, direction: Float[Tensor, "B R d"], radius: Float[Tensor, "B 1"], step: float, rounds: int
) -> tuple[Float[Tensor, "B R d"], Float[Tensor, "B R"]]:
    """Directions near the given ones in which the energy at that radius is lowest, by a pattern search.

    Each round looks a step to both sides along every axis across the ray, and a step and a quarter against the
    slope that these showed the round before; it takes the lowest, or quarters the step.
    """
    batch, rays, dim = direction.shape
    size = torch.full((batch, rays), step, dtype=torch.float64)
    value = _defined(look.at(direction, radius.expand(-1, rays)))
    down = torch.zeros_like(direction)
    for _ in range(rounds):
        across = _across(direction)
        sides = torch.cat([across, -across, down[..., None, :], down[..., None, :] / 4], 2)
        around = torch.nn.functional.normalize(direction[..., None, :] + size[..., None, None] * sides, dim=-1)
        values = look.at(around.flatten(1, 2), radius.expand(-1, around.shape[1] * around.shape[2]))
        values = _defined(values).view(batch, rays, -1)
        rise = (values[..., : dim - 1] - values[..., dim - 1 : -2]).nan_to_num(0.0, 0.0, 0.0)
        down = torch.nn.functional.normalize(-(rise[..., None] * across).sum(2), dim=-1)
        best, which = values.min(-1)
        better = best < value
        taken = around.gather(2, which[..., None, None].expand(-1, -1, 1, dim))[:, :, 0]
        direction = torch.where(better[..., None], taken, direction)
        value = torch.where(better, best, value)
        size = torch.where(better, size, size / 4)
    return direction, value


def _across(direction: Float[Tensor, "B R d"]) -> Float[Tensor, "B R d-1 d"]:
    """An orthonormal basis of the directions across each ray: a reflection's, so that axes give axes."""
    dim = direction.shape[-1]
    axis = direction.abs().argmax(-1, keepdim=True)
    pivot = torch.zeros_like(direction).scatter(-1, axis, 1.0)
    sign = direction.gather(-1, axis).sign()
    v = direction + sign * pivot
    v = v / v.norm(dim=-1, keepdim=True)
    mirror = torch.eye(dim, dtype=direction.dtype) - 2 * v[..., :, None] * v[..., None, :]
    # Row `axis` of the mirror is the ray itself, up to sign; the others lie across it.
    rest = torch.arange(dim - 1).expand(*direction.shape[:-1], -1)
    rest = rest + (rest >= axis)
    return mirror.gather(-2, rest[..., None].expand(*rest.shape, dim))
