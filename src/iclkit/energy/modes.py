"""Where exp(-E) has its modes, and how wide each is: found by descents from many starts, many contexts at once.

Starts are the anchors, the centre, points at random within four scales, and the lowest of many more points that
are looked at once. The descents are quasi-Newton (BFGS, with the whole inverse Hessian: there are few
coordinates), with short first steps, so that a start inside of a narrow mode stays there. Of the ends, two are
one mode if the energy has no barrier on the straight line between them.

The width of a mode is measured at the height of its walls that two standard deviations of a Gaussian have: that
is right for a Gaussian, and close for modes with a kink or without curvature, whose second derivative says
nothing.

All of this is in coordinates z of x = centre + A z.

Shape letters: B contexts, M starts, K modes, d coordinates.
Source: Nocedal and Wright (2006), "Numerical optimization", chapter 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.energy.chains import Energy, energy_and_gradient

MOST_MODES = 12
_REACH = 4.0  # scales from the centre within which modes are looked for
_BARRIER = 0.1  # nats that the energy must rise between two modes
_WALL = 2.0  # nats above the minimum at which a mode's width is measured: two deviations of a Gaussian


@dataclass(frozen=True)
class Modes:
    """The modes of each context, lowest first.

    Args:
        at: Where they are, in z.
        factor: Widths F: the mode looks like a Gaussian of covariance F F'.
        log_mass: Log integral of exp(-E) over z of that Gaussian; -inf where there is no further mode.
        evaluations: Energies and gradients evaluated per context.
    """

    at: Float[Tensor, "B K d"]
    factor: Float[Tensor, "B K d d"]
    log_mass: Float[Tensor, "B K"]
    evaluations: int


def find_modes(
    energy: Energy,
    anchors: Float[Tensor, "B n d"],
    generator: torch.Generator | None = None,
    starts: int = 256,
    looks: int = 4096,
    steps: int = 60,
) -> Modes:
    """The modes at the anchors and within four scales of the centre.

    Args:
        energy: Energies of points z, [B, M, d] -> [B, M].
        anchors: Points in z at which narrow modes may sit; n may be 0.
        generator: Source of randomness.
        starts: Descents that start elsewhere.
        looks: Points from which an eighth of these is chosen.
        steps: Steps of each descent.
    """
    search = _Search(energy)
    first = _starts(search, anchors, starts, looks, generator)
    ends, values = search.descend(first, steps)
    at, low, found = search.distinct(ends, values)
    factor = search.widths(at, low)
    log_mass = -low + torch.linalg.slogdet(factor).logabsdet + 0.5 * at.shape[-1] * math.log(2 * math.pi)
    return Modes(at, factor, log_mass.masked_fill(~found, -math.inf), search.count)


def lowest_of_many(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    looks: int,
    keep: int = 64,
) -> Float[Tensor, "B n d"]:
    """Of points spread at random over four scales, those of lowest energy: narrow modes are near them.

    Args:
        energy: Energies of points x, [B, M, d] -> [B, M].
        centre: Where the mass is.
        scale: How far it spreads.
        looks: How many points.
        keep: How many of these are kept (n).
    """
    batch, dim = centre.shape
    generator = torch.Generator(centre.device).manual_seed(0)
    options = {"dtype": centre.dtype, "device": centre.device, "generator": generator}
    direction = torch.nn.functional.normalize(torch.randn(batch, looks, dim, **options), dim=-1)
    z = direction * _REACH * torch.rand(batch, looks, 1, **options) ** (1 / dim)
    x = centre[:, None] + z @ scale.mT
    lowest = _Search(energy).values(x).topk(min(keep, looks), largest=False).indices
    return x.gather(1, lowest[..., None].expand(-1, -1, dim))


def _starts(
    search: _Search, anchors: Tensor, starts: int, looks: int, generator: torch.Generator | None
) -> Float[Tensor, "B M d"]:
    batch, _, dim = anchors.shape
    options = {"dtype": anchors.dtype, "device": anchors.device}
    best = starts // 8
    direction = torch.randn(batch, starts - best - 1 + looks, dim, generator=generator, **options)
    share = torch.rand(batch, starts - best - 1 + looks, 1, generator=generator, **options)
    # Half are uniform in the ball of four scales, half are denser in the middle.
    power = torch.where(torch.arange(share.shape[1], device=anchors.device) % 2 == 0, 1.0, 1 / dim)[:, None]
    ball = torch.nn.functional.normalize(direction, dim=-1) * _REACH * share**power
    seen = search.values(ball[:, :looks])
    lowest = seen.topk(min(best, looks), largest=False).indices[..., None].expand(-1, -1, dim)
    middle = anchors.new_zeros(batch, 1, dim)
    return torch.cat([anchors, middle, ball[:, looks:], ball[:, :looks].gather(1, lowest)], 1)


class _Search:
    """Evaluates the energy, infinite where it is undefined, and counts."""

    def __init__(self, energy: Energy) -> None:
        self._energy, self.count = energy, 0

    def values(self, z: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        self.count += z.shape[1]
        with torch.no_grad():
            values = self._energy(z)
        return values.masked_fill(values.isnan(), math.inf)

    def gradients(self, z: Float[Tensor, "B M d"]) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M d"]]:
        self.count += z.shape[1]
        value, gradient = energy_and_gradient(self._energy, z)
        return value.masked_fill(value.isnan(), math.inf), gradient.nan_to_num(0.0, 0.0, 0.0)

    def descend(
        self, z: Float[Tensor, "B M d"], steps: int
    ) -> tuple[Float[Tensor, "B M d"], Float[Tensor, "B M"]]:
        """BFGS from each start, with backtracking; no step longer than half a scale, the first a twentieth."""
        batch, count, dim = z.shape
        eye = torch.eye(dim, dtype=z.dtype, device=z.device).expand(batch, count, dim, dim)
        value, gradient = self.gradients(z)
        inverse = eye * (0.05 / gradient.norm(dim=-1).clamp_min(1e-9)).clamp_max(1.0)[..., None, None]
        longest = torch.full_like(value, 0.05)
        for _ in range(steps):
            step = -(inverse @ gradient[..., None])[..., 0]
            uphill = (step * gradient).sum(-1) >= 0
            step = torch.where(uphill[..., None], -gradient, step)
            length = step.norm(dim=-1)
            step = step * (longest / length.clamp_min(1e-30)).clamp_max(1.0)[..., None]
            slope = (step * gradient).sum(-1)
            size, new, new_value, new_gradient = torch.ones_like(value), z, value, gradient
            accepted = torch.zeros_like(value, dtype=torch.bool)
            for _ in range(6):
                trial = z + size[..., None] * step
                trial_value, trial_gradient = self.gradients(trial)
                good = (trial_value <= value + 1e-4 * size * slope) & ~accepted
                new = torch.where(good[..., None], trial, new)
                new_value = torch.where(good, trial_value, new_value)
                new_gradient = torch.where(good[..., None], trial_gradient, new_gradient)
                accepted |= good
                if accepted.float().mean() > 0.9:
                    break
                size = torch.where(accepted, size, size / 4)
            change, bend = new - z, new_gradient - gradient
            product = (change * bend).sum(-1)
            useful = accepted & (product > 1e-12 * change.norm(dim=-1) * bend.norm(dim=-1))
            rho = (1 / product.clamp_min(1e-30))[..., None, None]
            left = eye - rho * change[..., :, None] * bend[..., None, :]
            updated = left @ inverse @ left.mT + rho * change[..., :, None] * change[..., None, :]
            reset = eye * (length.clamp_max(0.05) / 16 / gradient.norm(dim=-1).clamp_min(1e-9))[..., None, None]
            inverse = torch.where(
                useful[..., None, None], updated, torch.where(accepted[..., None, None], inverse, reset)
            )
            longest = torch.where(
                accepted & (size == 1), (2 * longest).clamp_max(0.5), size * longest
            ).clamp_min(1e-4)
            z, value, gradient = new, new_value, new_gradient
        return z, value

    def distinct(
        self, ends: Float[Tensor, "B M d"], values: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B K d"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """The lowest end, the lowest of those that a barrier parts from it, and so on."""
        batch, count, dim = ends.shape
        open_values = values.masked_fill(~values.isfinite(), math.inf)
        fraction = torch.arange(1, 8, dtype=ends.dtype, device=ends.device)[:, None] / 8
        at, low, found = [], [], []
        for _ in range(MOST_MODES):
            value, index = open_values.min(1)
            if not (value < math.inf).any():
                break
            mode = ends.gather(1, index[:, None, None].expand(-1, 1, dim))
            between = mode[:, :, None] + fraction * (ends - mode)[:, :, None]
            highest = self.values(between.flatten(1, 2)).view(batch, count, -1).amax(-1)
            same = highest <= values + _BARRIER + 1e-5 * values.abs()
            same = same.scatter(1, index[:, None], True)
            at.append(mode)
            low.append(value)
            found.append(value < math.inf)
            open_values = open_values.masked_fill(same, math.inf)
        if not at:
            return ends.new_zeros(batch, 0, dim), values.new_zeros(batch, 0), values.new_zeros(batch, 0).bool()
        return torch.cat(at, 1), torch.stack(low, 1).nan_to_num(posinf=0.0), torch.stack(found, 1)

    def widths(self, at: Float[Tensor, "B K d"], low: Float[Tensor, "B K"]) -> Float[Tensor, "B K d d"]:
        """Factors F of the modes' covariances: axes of the curvature, widths measured along them."""
        batch, count, dim = at.shape
        factor = torch.eye(dim, dtype=at.dtype, device=at.device).expand(batch, count, dim, dim)
        if not count:
            return factor
        for turn in range(3):
            if turn:
                # The curvature, by differences over half a width to both sides.
                steps = torch.cat([factor, -factor], 3).mT / 2  # [B, K, 2d, d]
                _, gradient = self.gradients((at[:, :, None] + steps).flatten(1, 2))
                gradient = gradient.view(batch, count, 2, dim, dim)
                curvature = (gradient[:, :, 0] - gradient[:, :, 1]) @ factor
                curvature = curvature.nan_to_num(0.0, 0.0, 0.0)
                factor = factor @ torch.linalg.eigh(curvature + curvature.mT).eigenvectors
            factor = factor * self._reach(at, low, factor)[..., None, :]
        return factor

    def _reach(
        self, at: Float[Tensor, "B K d"], low: Float[Tensor, "B K"], axes: Float[Tensor, "B K d d"]
    ) -> Float[Tensor, "B K d"]:
        """How far along each axis, in its lengths, until the walls are met: mean of both sides, over two."""
        batch, count, dim = at.shape
        sides = torch.cat([axes, -axes], 3).mT
        least, most = math.log(1e-6), (2 * _REACH / sides.norm(dim=-1).clamp_min(1e-12)).log()
        lower, upper = torch.full_like(most, least), most
        for _ in range(22):
            middle = (lower + upper) / 2
            values = self.values((at[:, :, None] + middle.exp()[..., None] * sides).flatten(1, 2))
            inside = values.view(batch, count, 2 * dim) < (low + _WALL)[..., None]
            lower, upper = torch.where(inside, middle, lower), torch.where(inside, upper, middle)
        distance = upper.exp().view(batch, count, 2, dim).mean(2)
        return distance / math.sqrt(2 * _WALL)
