"""The energy function of one context, or of a batch of contexts: evaluate, integrate, sample, normalise it."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.arrays import as_tensor
from iclkit.energy.affine import Affine, check_affine
from iclkit.energy.border import check_energy, evaluating
from iclkit.energy.chains import Chains, Energy, Sampler, energy_and_gradient
from iclkit.energy.distribution import LandscapeDistribution
from iclkit.energy.integral import Integral
from iclkit.energy.partition import QUADRATURE_DIMS, LogPartition, require_decay
from iclkit.energy.samplers import HMC
from iclkit.energy.starts import Start, literal, starting_points
from iclkit.errors import UserError

_DEFAULT_SAMPLER = HMC(steps=10, warmup=50)


class EnergyLandscape:
    """E(x) under a fixed context; p(x) = exp(-E(x)) / Z. It is no distribution until `normalise` has found Z.

    An unbatched landscape (batch=None) takes points [..., d] and returns [...]; a batched one takes [B, ..., d]
    and returns [B, ...], one energy function per context. Points are tensors, arrays, DataFrames or lists; what
    comes back are tensors.

    Args:
        energy: Energies of M points under each context, [B, M, d] -> [B, M]; B is 1 if the landscape is
            unbatched. A function of each point alone, which is checked at a few points.
        dim: Dimension of the points (d).
        batch: Number of contexts (B), or None for a single, unbatched one.
        centre: Where the mass is, [d] or [B, d]. Its dtype (float32 for half precision) and device are the
            landscape's.
        scale: How far it spreads, [d, d] or [B, d, d]: a matrix A such that most mass lies where
            |A^-1 (x - centre)| < 4. Quadrature integrates over the box of 6, samplers use it as preconditioner.
        anchors: Points near which narrow modes may sit (the context), [n, d] or [B, n, d]; quadrature looks
            there.

    Raises:
        UserError: Shapes that do not fit together, values that are not finite, a scale that has no inverse, or
            what is no energy.
    """

    def __init__(
        self,
        energy: Energy,
        dim: int,
        batch: int | None,
        centre: Float[Tensor, "*B d"],
        scale: Float[Tensor, "*B d d"],
        anchors: Float[Tensor, "*B n d"] | None = None,
    ) -> None:
        self.dim, self.batch = dim, batch
        count = 1 if batch is None else batch
        centre, scale = as_tensor(centre, "centre"), as_tensor(scale, "scale")
        if centre.dtype.itemsize < 4:
            centre = centre.float()  # half precision can neither solve, integrate nor sample
        anchors = None if anchors is None else as_tensor(anchors, "anchors")
        for name, value, axes in (("centre", centre, 1), ("scale", scale, 2), ("anchors", anchors, 2)):
            if value is None:
                continue
            expected = value.shape[-1] == dim and value.ndim in (axes, axes + (batch is not None))
            if not expected or (value.ndim > axes and len(value) != count):
                raise UserError(
                    f"{name} of a landscape (dim {dim}, batch {batch}) cannot be of shape {list(value.shape)}"
                )
        self._energy = energy
        with torch.inference_mode(False):
            self._centre = centre.detach().expand(count, dim)
            self._scale = scale.detach().to(centre).expand(count, dim, dim)
            self._anchors = None if anchors is None else anchors.detach().to(centre).expand(count, -1, dim)
        check_affine(self._scale, "scale of a landscape")
        check_energy(energy, self._centre[:, None], self._scale)
        self._integral = Integral(energy, self._centre, self._scale, self._anchors)

    @property
    def centre(self) -> Float[Tensor, "*B d"]:
        """Where the mass is."""
        return self._out(self._centre)

    @property
    def scale(self) -> Float[Tensor, "*B d d"]:
        """How far it spreads."""
        return self._out(self._scale)

    def energy(self, points: Float[Tensor, "*B d"] | Any) -> Float[Tensor, "*B"]:
        """Energies of points, in nats up to the landscape's unknown constant log Z.

        Args:
            points: [..., d], or [B, ..., d] if the landscape is batched; converted to its dtype.
        """
        flat, shape = self._flatten(points)
        with evaluating(self._energy):
            return self._energy(flat).reshape(shape)

    def score(self, points: Float[Tensor, "*B d"] | Any) -> Float[Tensor, "*B d"]:
        """The score grad log p = -grad E at points; shapes as in `energy`."""
        flat, shape = self._flatten(points)
        return -energy_and_gradient(self._energy, flat)[1].reshape(*shape, self.dim)

    def log_partition(
        self, tolerance: float = 1e-3, max_evaluations: int = 500_000, generator: torch.Generator | None = None
    ) -> LogPartition:
        """log Z: by adaptive quadrature for d <= 3, by annealed importance sampling above; found once.

        Args:
            tolerance: Relative error at which quadrature stops.
            max_evaluations: Quadrature stops before it costs a context more.
            generator: Source of the annealing's randomness; None for a fixed seed of its own. Quadrature has
                none.

        Returns:
            The estimate, its error and the method; scalars if the landscape is unbatched. Where exp(-E) has
            no finite integral, that over the box (see `normalise`), with an infinite error.
        """
        return self._report(self._integral.log_partition(tolerance, max_evaluations, generator))

    @overload
    def sample(
        self,
        size: int,
        sampler: Sampler | None = None,
        generator: torch.Generator | None = None,
        diagnostics: Literal[False] = False,
        *,
        start: Start = None,
        precondition: bool = True,
    ) -> Float[Tensor, "*B S d"]: ...

    @overload
    def sample(
        self,
        size: int,
        sampler: Sampler | None = None,
        generator: torch.Generator | None = None,
        *,
        diagnostics: Literal[True],
        start: Start = None,
        precondition: bool = True,
    ) -> tuple[Float[Tensor, "*B S d"], Chains]: ...

    def sample(
        self, size, sampler=None, generator=None, diagnostics=False, *, start=None, precondition=True
    ) -> Any:
        """Draw points from exp(-E) / Z.

        Without a sampler, up to three dimensions: independent draws by rejection from the quadrature (at most
        a thousandth of the mass is lost). Above three: HMC chains started from annealed particles. Where
        exp(-E) has no finite integral, within the box (see `normalise`). With a sampler: its chains,
        preconditioned by `scale` and started from the same draws or particles, so that every mode has its
        share of them; the draws are spread evenly over the kept states.

        Chains that are told where to start have yet to find the mass, so each gives one draw: its last state.
        With start="uniform" and precondition=False, `Langevin` is the published sampler's equation, draw for
        draw; `Langevin.published()` implies both.

        Args:
            size: Number of draws (S), per context.
            sampler: One of `samplers`, or None.
            generator: Source of randomness; None for torch's global one.
            diagnostics: Also return the `Chains`: acceptance, effective sample size and split R-hat.
            start: Where one chain for each draw starts: points [S, d] or [B, S, d], or "uniform" for the
                uniform distribution on [-15, 15]^d, as the published chains. None for draws of the landscape.
            precondition: Whether step sizes are in units of `scale`. Those of a sampler that is `literal` are
                in units of x, whatever is said here.

        Returns:
            The draws, [S, d] or [B, S, d]; with `diagnostics`, the draws and the chains (batched as the
            landscape is). Independent draws are a single chain.

        Raises:
            UserError: No size, no sampler, or starting points of another shape or without a finite energy.
        """
        if size < 1:
            raise UserError(f"size must be at least 1, given {size}")
        if not isinstance(sampler, Sampler | None):
            raise UserError(
                f"a sampler is an instance of one of energy.samplers, as HMC(steps=100), given {sampler!r}"
            )
        if literal(sampler) and start is None:
            start = "uniform"
        if sampler is None and start is None and self.dim <= QUADRATURE_DIMS:
            chains = self._integral.draw(size, generator)
            draws = chains.points
        else:
            sampler = sampler or _DEFAULT_SAMPLER
            scale = self._scale if precondition and not literal(sampler) else None
            if start is None:
                kept = sampler.steps // getattr(sampler, "thin", 1)
                first = self._integral.starts(max(4, math.ceil(size / kept)), generator)
            else:
                first = starting_points(start, size, self._centre, self.batch, generator)
            chains = sampler.run(self._energy, first, generator, scale)
            points = chains.points
            # From the end backwards: with fewer draws than states, the latest states of every stretch.
            spread = torch.arange(1, size + 1, device=points.device) * points.shape[1] // size - 1
            draws = points[:, spread] if start is None else chains.last
        if not diagnostics:
            return self._out(draws)
        return self._out(draws), Chains(
            self._out(chains.draws), self._out(chains.acceptance), self._out(chains.step_size)
        )

    def normalise(
        self, truncate: bool = False, generator: torch.Generator | None = None
    ) -> torch.distributions.Distribution:
        """The normalised density as a `torch.distributions.Distribution`.

        Args:
            truncate: The density within the box |z_i| <= h, x = centre + scale z, in any dimension: exp(-E)
                over its integral there, and zero outside. h is 6, or more where anchors lie further than 4
                from the centre (see `box`). For an energy that does not decay: nothing confines the published
                network's, for example.
            generator: Source of randomness of its `sample`; None for torch's global one.

        Raises:
            UserError: exp(-E) has no finite integral, and `truncate` is False; or log Z is not known to one
                nat.
        """
        if not truncate:
            require_decay(self._integral.tails.decay)
        found = self._report(self._integral.within_box()) if truncate else self.log_partition()
        found.require_density()
        return LandscapeDistribution(self, found, truncate, generator)

    def affine(self, matrix: Float[Tensor, "*B d d"], shift: Float[Tensor, "*B d"]) -> EnergyLandscape:
        """The landscape of y = matrix @ x + shift: p(y) = p(x) / |det matrix|, so log Z stays as it is.

        Args:
            matrix: One for all contexts, [d, d], or one each, [B, d, d].
            shift: Likewise.
        """
        count = len(self._centre)
        with evaluating(self._energy, grad=False):
            matrix = as_tensor(matrix, "matrix").detach().to(self._centre)
            shift = as_tensor(shift, "shift").detach().to(self._centre)
            check_affine(matrix, "matrix", shift, self.dim, count)
            matrix, shift = matrix.expand(count, self.dim, self.dim), shift.expand(count, self.dim)
            moved = Affine(self._energy, matrix, shift)
            anchors = None if self._anchors is None else self._out(moved.forward(self._anchors))
            centre = self._out(moved.forward(self._centre[:, None])[:, 0])
            scale = self._out(moved.matrix @ self._scale)
        return EnergyLandscape(moved, self.dim, self.batch, centre, scale, anchors)

    def box(self) -> Float[Tensor, "*B"]:
        """Half-width, in units of `scale`, of the box that `truncate` restricts to."""
        return self._out(self._integral.box.half_width.to(self._centre))

    def _sample_within_box(self, size: int, generator: torch.Generator | None) -> Float[Tensor, "*B S d"]:
        """Draws of the density within the box: independent for d <= 3, of chains that it holds above."""
        if self.dim <= QUADRATURE_DIMS:
            return self._out(self._integral.draw_within_box(size, generator).points)
        return self._out(self._integral.box.stretch(self._stretched.sample(size, generator=generator)))

    @cached_property
    def _stretched(self) -> EnergyLandscape:
        """The box drawn out over the whole space (see `Box.stretch`): the landscape of t, batched."""
        inner = self._integral.stretched
        stretched = EnergyLandscape(inner.energy, self.dim, len(self._centre), inner.centre, inner.scale)
        stretched._integral = inner  # what is known of it already
        return stretched

    def _flatten(self, points: Any) -> tuple[Float[Tensor, "B M d"], torch.Size]:
        """Points as one axis per context, and the shape that their energies shall have."""
        points = as_tensor(points, "points", allow="anything")
        lead = 0 if self.batch is None else 1
        wrong_batch = lead and (points.ndim < 2 or len(points) != self.batch)
        if points.ndim < 1 or points.shape[-1] != self.dim or wrong_batch:
            accepted = f"[..., {self.dim}]" if self.batch is None else f"[{self.batch}, ..., {self.dim}]"
            raise UserError(f"points of this landscape are {accepted}, given {list(points.shape)}")
        return points.to(self._centre).reshape(len(self._centre), -1, self.dim), points.shape[:-1]

    def _report(self, found: LogPartition) -> LogPartition:
        """What was found for each context, without the context axis if the landscape is unbatched."""
        decay = None if found.decay is None else self._out(found.decay)
        return dataclasses.replace(
            found,
            estimate=self._out(found.estimate),
            error=self._out(found.error),
            boundary=self._out(found.boundary),
            decay=decay,
        )

    def _out(self, x: Tensor) -> Tensor:
        """Drop the context axis of an unbatched landscape."""
        return x[0] if self.batch is None else x
