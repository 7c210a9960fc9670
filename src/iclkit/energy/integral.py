"""All that is found out about the integral of exp(-E), each thing once: its tails, its value, draws from it.

Up to three dimensions the integral is a quadrature over the box and one outside of it; above, it is the sum of
annealed parts.

Shape letters: B contexts, S draws, d coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy import rejection
from iclkit.energy.annealing import Annealed
from iclkit.energy.border import evaluating
from iclkit.energy.box import STRETCHED_SCALE, Box, Stretched
from iclkit.energy.chains import Chains, Energy
from iclkit.energy.modes import lowest_of_many
from iclkit.energy.outside import Outside, integrate_outside
from iclkit.energy.partition import QUADRATURE_DIMS, LogPartition, by_annealing, by_quadrature
from iclkit.energy.quadrature import Quadrature, integrate
from iclkit.energy.strata import integrate_parts
from iclkit.energy.tails import Tails, probe

_NEGLIGIBLE = 1e-4  # share of the mass at the boundary of the box below which nothing is looked for outside
_LOOKS = {1: 2048, 2: 8192, 3: 16384}
_TOLERANCE, _MOST = 1e-3, 500_000


T = TypeVar("T")
Rest = ParamSpec("Rest")


def _settled(find: Callable[Concatenate[Integral, Rest], T]) -> Callable[Concatenate[Integral, Rest], T]:
    """A method whose result is kept and must not depend on the flags of the first caller."""

    @wraps(find)
    def inside(self: Integral, *arguments: Rest.args, **options: Rest.kwargs) -> T:
        with evaluating(self.energy, grad=False):
            return find(self, *arguments, **options)

    return inside


class Integral:
    """The integral of exp(-E) for each of B energies; arguments as those of `EnergyLandscape`, batched."""

    def __init__(
        self,
        energy: Energy,
        centre: Float[Tensor, "B d"],
        scale: Float[Tensor, "B d d"],
        anchors: Float[Tensor, "B n d"] | None,
    ) -> None:
        self.energy, self.centre, self.scale, self._anchors = energy, centre, scale, anchors
        self._small = centre.shape[1] <= QUADRATURE_DIMS
        self._quadratures: dict[tuple[float, int], Quadrature] = {}
        self._outsides: dict[tuple[float, int], Outside | None] = {}
        self._annealed: Annealed | None = None

    @cached_property
    @_settled
    def box(self) -> Box:
        """Where the mass is expected."""
        return Box.around(self.centre, self.scale, self._anchors)

    @cached_property
    @_settled
    def tails(self) -> Tails:
        """How the mass falls far outside."""
        return probe(self.energy, self.centre, self.scale, self.box.half_width)

    @cached_property
    @_settled
    def stretched(self) -> Integral:
        """The integral over the box alone, as one over the whole space of t (see `Box.stretch`)."""
        like = self.centre
        eye = torch.eye(like.shape[1]).to(like).expand(len(like), -1, -1)
        anchors = None if self._anchors is None else self.box.unstretch(self._anchors)
        return Integral(
            Stretched(self.energy, self.box), torch.zeros_like(like), STRETCHED_SCALE * eye, anchors
        )

    @_settled
    def log_partition(
        self, tolerance: float = _TOLERANCE, most: int = _MOST, generator: torch.Generator | None = None
    ) -> LogPartition:
        """log Z; where exp(-E) has no finite integral, that over the box, with an infinite error."""
        if self._small:
            quadrature, outside = self.quadrature(tolerance, most), self.outside(tolerance, most)
            return by_quadrature(quadrature, self.tails, outside, self.centre)
        whole = self if bool(self.tails.proper.all()) else self.stretched
        return by_annealing(whole.annealed(generator), self.tails, self.centre)

    @_settled
    def within_box(self) -> LogPartition:
        """log Z of the density within the box."""
        if self._small:
            return by_quadrature(self.quadrature(), None, None, self.centre)
        return by_annealing(self.stretched.annealed(), None, self.centre)

    @_settled
    def draw(self, size: int, generator: torch.Generator | None) -> Chains:
        """Independent draws, in up to three dimensions; within the box where exp(-E) has no finite integral."""
        inside, outside = self.draw_within_box(size, generator), self.outside()
        if outside is None:
            return inside
        log_inside = self.quadrature().log_integral[:, None]
        shares = torch.cat([log_inside, self._proper_faces(outside)], 1).softmax(1)
        from_where = _choose(shares, size, generator)
        points = torch.cat([inside.points[:, None], outside.draw(size, generator)], 1)
        index = from_where.to(points.device)[:, None, :, None].expand(-1, 1, -1, points.shape[-1])
        return Chains(points.gather(1, index)[:, 0, :, None], inside.acceptance, inside.step_size)

    @_settled
    def draw_within_box(self, size: int, generator: torch.Generator | None) -> Chains:
        """Independent draws of the density within the box, in up to three dimensions."""
        return rejection.draw(self.energy, self.centre, self.scale, self.quadrature(), size, generator)

    @_settled
    def starts(self, chains: int, generator: torch.Generator | None) -> Float[Tensor, "B S d"]:
        """Where chains may start, so that every mode has its share of them."""
        if self._small:
            return self.draw(chains, generator).points
        if bool(self.tails.proper.all()):
            return self.annealed().resample(chains, generator)
        return self.box.stretch(self.stretched.starts(chains, generator))

    @_settled
    def quadrature(self, tolerance: float = _TOLERANCE, most: int = _MOST) -> Quadrature:
        """The quadrature over the box."""
        key = (tolerance, most)
        if key not in self._quadratures:
            anchors = self._anchors
            if anchors is None:
                # Nothing says where narrow modes may be, so the lowest of many points do.
                looks = min(_LOOKS[self.centre.shape[1]], most // 4)
                anchors = lowest_of_many(self.energy, self.centre, self.scale, looks)
            self._quadratures[key] = integrate(
                self.energy, self.centre, self.scale, anchors, tolerance, most, self.box.half_width
            )
        return self._quadratures[key]

    @_settled
    def outside(self, tolerance: float = _TOLERANCE, most: int = _MOST) -> Outside | None:
        """The quadrature outside of the box; None if nothing there counts."""
        key = (tolerance, most)
        if key not in self._outsides:
            share = self.quadrature(tolerance, most).boundary.masked_fill(~self.tails.proper, 0.0)
            found = None
            if bool((share > _NEGLIGIBLE).any()):
                # The tolerance is of the whole; the outside is a part, of heavy tails several times the share
                # that lies at the boundary.
                relative = min(0.03, max(tolerance, tolerance / (10 * float(share.max()))))
                found = integrate_outside(self.energy, self.box, self.tails, relative, most)
            self._outsides[key] = found
        return self._outsides[key]

    @_settled
    def annealed(self, generator: torch.Generator | None = None) -> Annealed:
        """The annealed parts, whose randomness is of a seed of their own unless a generator is given."""
        if self._annealed is None:
            generator = generator or torch.Generator(self.centre.device).manual_seed(0)
            self._annealed = integrate_parts(
                self.energy, self.centre, self.scale, self._anchors, self.tails.decay, generator
            )
        return self._annealed

    def _proper_faces(self, outside: Outside) -> Float[Tensor, "B F"]:
        return outside.log_faces.masked_fill(~self.tails.proper[:, None], -torch.inf)


def _choose(shares: Float[Tensor, "B F"], size: int, generator: torch.Generator | None) -> Tensor:
    """Which part each of S draws is from."""
    device = generator.device if generator is not None else None
    uniform = torch.rand(len(shares), size, generator=generator, device=device, dtype=torch.float64).cpu()
    return torch.searchsorted(shares.cumsum(1), uniform).clamp_max(shares.shape[1] - 1)
