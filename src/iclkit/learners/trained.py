"""A trained energy network as a density learner, in the data's own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.energy.border import OwnEnergy
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.network import EnergyTransformer
from iclkit.energy.partition import LogPartition
from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner, Predictive
from iclkit.learners.orientation import check_transforms, orientations
from iclkit.learners.standardise import Whitening
from iclkit.networks import finite, within_reach
from iclkit.tasks import DensityTask
from iclkit.threads import one_thread, small

# Contexts whose landscapes a predictive keeps (each holds its encoded points and its quadrature).
_KEPT = 256


@dataclass(frozen=True, eq=False)
class EnergyDensity(DensityLearner):
    """A frozen energy network: a context conditions it, and nothing is fitted.

    Args:
        network: The network, as trained.
        task: What it was trained on; None if unknown.
        standardise: Whether it was trained on standard units. A context is then whitened by its own shrunken
            moments (see `Whitening`), what follows is whitened by the same map, and densities get its Jacobian.
            A context of fewer than two points has no moments: it is taken as it is.
        name: The model's name.
        card: Its model card, in Markdown.
        orders: The energy is averaged over this many orders of the context: the given one and fixed random
            others. A causal network is only approximately indifferent to the order; the average is more so, and
            costs as many times more.
        transforms: The energy is averaged over this many turned and reflected copies of the context in the
            network's units: 2 are the context's own axes (see `orientations`) and their mirror image, so that
            turned or swapped columns change little; more (an even number, 24 say) change less and cost more; 1
            takes the context as it is whitened. By default 2 for a standardised network whose task is the same
            from all sides (`rotation_invariant`), else 1.
    """

    network: EnergyTransformer = field(repr=False)
    task: DensityTask | None = None
    standardise: bool = False
    name: str = ""
    card: str = field(default="", repr=False)
    orders: int = 1
    transforms: int | None = None

    def __post_init__(self) -> None:
        if self.orders < 1:
            raise UserError(f"orders must be at least 1, given {self.orders}")
        if self.transforms is not None:
            check_transforms(self.transforms, self.dim)

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.network.dim

    @property
    def limit(self) -> int:
        """The longest context that the network was trained on."""
        return self.network.max_points

    def condition(
        self, context: Float[Tensor, "*B n d"] | Any, *, allow_longer: bool = False
    ) -> EnergyLandscape:
        """The energy landscape of a context, or of a batch of contexts, in the data's units.

        Args:
            context: [n, d] or [B, n, d]: an array, a DataFrame, a list or a tensor; n may be 0.
            allow_longer: Accept a context longer than `limit`, with a warning.

        Returns:
            The landscape: its `log_partition` states log Z with error and method, its `normalise` the density.

        Raises:
            UserError: A context of another dimension, too long, not finite, or, if standardised, with a column
                that is constant.
        """
        context = as_tensor(context, "the context")
        if context.ndim not in (2, 3) or context.shape[-1] != self.dim:
            raise UserError(
                f"the context must have shape [n, {self.dim}] or [batch, n, {self.dim}], "
                f"given {list(context.shape)}"
            )
        self._check_length(context.shape[-2], allow_longer)
        return self._landscape(context, constant="refuse")

    def predictives(
        self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None, *, allow_longer: bool = False
    ) -> EnergyPredictive:
        """Conditional densities after prefixes of each episode, each normalised numerically.

        Args:
            x: Episodes; N may be 0.
            prefixes: Context lengths P, each in 0..N; all of 0, 1, ..., N if None.
            allow_longer: Accept prefixes longer than `limit`, with a warning.

        Returns:
            The densities; `log_partition` of them states method and error of the normalisation. In a
            standardised learner a column that is constant within a prefix keeps its units there.

        Raises:
            UserError: Points of another dimension, a prefix that is not in 0..N, or one that is too long.
        """
        x, chosen = self._given(x, prefixes)
        self._check_length(max(chosen), allow_longer)
        return EnergyPredictive(self, x, chosen)

    def _check_length(self, points: int, allow_longer: bool) -> None:
        if points <= self.limit:
            return
        if self.network.positions is not None:
            raise UserError(
                f"a context of {points} points, but {self.name or 'this network'} has learned positions for "
                f"{self.limit}; give a subset"
            )
        if not allow_longer:  # else the network's `condition` warns
            raise UserError(
                f"a context of {points} points, but {self.name or 'this network'} was trained on up to "
                f"{self.limit}; give a subset, or allow longer contexts (allow_longer=True, --allow-longer)"
            )

    def _landscape(
        self, context: Float[Tensor, "*B n d"], constant: Literal["refuse", "keep"]
    ) -> EnergyLandscape:
        """The landscape of contexts that have been checked."""
        # What is stored takes part in scores later, whatever mode holds now.
        with neutral(grad=False), one_thread(where=small(context[..., 0].numel(), context.device)):
            return self._made(context.detach(), constant)

    def _made(self, context: Float[Tensor, "*B n d"], constant: Literal["refuse", "keep"]) -> EnergyLandscape:
        dtype = self.network.readout.weight.dtype
        if not self.standardise:
            points = within_reach(context).to(dtype)
            return self._averaged(points, points)
        # In float64 until the points are in standard units: float32 has few digits left beside a large mean.
        data = context.double()
        whitening = Whitening.fit(data, constant)
        return _in_data_units(self._averaged(whitening.forward(data), None), whitening, data)

    def _averaged(
        self, context: Float[Tensor, "*B n d"], anchors: Float[Tensor, "*B n d"] | None
    ) -> EnergyLandscape:
        """The landscape in the network's own units, averaged over transforms and orders of the context."""
        dtype = self.network.readout.weight.dtype
        turned = orientations(context, self.averaged)  # [T, *B, d, d]
        orders = self._orders(context.shape[-2]).to(context.device)
        members = len(turned) * len(orders)
        if members == 1:
            return self.network.condition(context.to(dtype), allow_longer=True)
        seen = (context @ turned.mT)[..., orders, :].movedim(-3, 1)  # [T, O, *B, n, d]
        # All members as one batch: more contexts at once cost less than one after the other.
        every = self.network.condition(seen.reshape(-1, *context.shape[-2:]).to(dtype), allow_longer=True)
        batch = None if context.ndim == 2 else len(context)
        matrices = turned.to(dtype).view(len(turned), 1, -1, self.dim, self.dim)

        energy = _Mean(every, matrices, len(orders))
        # The quadrature's box has the first transform's axes: it turns with the data.
        scale = turned[0].mT.to(dtype) @ every.scale[0]
        return EnergyLandscape(energy, self.dim, batch, every.centre[0], scale, anchors)

    @property
    def averaged(self) -> int:
        """How many transforms the energy is averaged over: what `transforms` says, or its default."""
        if self.transforms is not None:
            return self.transforms
        return 2 if self.standardise and self.task is not None and self.task.rotation_invariant else 1

    def _orders(self, points: int) -> Int[Tensor, "O n"]:
        """The orders that the energy is averaged over: the given one, then fixed random ones."""
        generator = torch.Generator().manual_seed(points)
        others = self.orders - 1 if points > 1 else 0
        drawn = [torch.randperm(points, generator=generator) for _ in range(others)]
        return torch.stack([torch.arange(points), *drawn])


@dataclass(frozen=True, eq=False)
class _Mean(OwnEnergy):
    """The mean energy of a context in several transforms and orders.

    Args:
        members: The landscape of them all, batched: by transform, then order, then context.
        matrices: The transforms, [T, 1, B, d, d].
        orders: How many orders (O).
    """

    members: EnergyLandscape
    matrices: Tensor
    orders: int

    def __call__(self, points: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        copies = (finite(points) @ self.matrices.mT).expand(-1, self.orders, -1, -1, -1)  # [T, O, B, M, d]
        values = self.members.energy(copies.reshape(-1, *points.shape[1:]))
        return values.view(-1, *points.shape[:-1]).mean(0)


@dataclass(frozen=True, eq=False)
class _InDataUnits(OwnEnergy):
    """The energy of x = matrix z + mean, in float64: E(x) = E(z) + log |det matrix|."""

    inner: EnergyLandscape
    whitening: Whitening

    def __call__(self, points: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        batch = points[0] if self.inner.batch is None else points
        with one_thread(where=small(points[..., 0].numel(), points.device)):
            z = self.whitening.forward(batch)
            values = self.inner.energy(z).double() + self.whitening.log_det[..., None]
        return values.view(points.shape[:-1])


def _in_data_units(
    inner: EnergyLandscape, whitening: Whitening, anchors: Float[Tensor, "*B n d"]
) -> EnergyLandscape:
    """The landscape of x = matrix z + mean, in float64."""
    energy = _InDataUnits(inner, whitening)
    centre = whitening.inverse(inner.centre.double()[..., None, :]).squeeze(-2)
    scale = whitening.matrix @ inner.scale.double()
    return EnergyLandscape(energy, inner.dim, inner.batch, centre, scale, anchors)


class EnergyPredictive(Predictive):
    """The normalised conditional densities of a trained energy network.

    Args:
        learner: The network.
        x: Episodes, checked.
        prefixes: Context lengths, checked.
    """

    def __init__(self, learner: EnergyDensity, x: Float[Tensor, "B N d"], prefixes: Sequence[int]) -> None:
        self._learner, self._x, self._prefixes = learner, x, list(prefixes)
        self._landscapes: dict[int, EnergyLandscape] = {}
        self._partitions: dict[int, LogPartition] = {}

    def energy(self, candidates: Float[Tensor, "B P K d"]) -> Float[Tensor, "B P K"]:
        """Energies in the data's units, not normalised: the log density is their negative minus log Z."""
        candidates = as_tensor(candidates, "candidates", allow="infinite")
        columns = [self._landscape(n).energy(candidates[:, p]) for p, n in enumerate(self._prefixes)]
        return torch.stack(columns, 1).to(self._x)

    def log_partition(self) -> LogPartition:
        """log Z of every prefix [B, P], with its error and the method that found it."""
        found = [self._partition(n) for n in self._prefixes]
        return LogPartition(
            torch.stack([part.estimate for part in found], 1).to(self._x),
            torch.stack([part.error for part in found], 1).to(self._x),
            found[0].method,
            torch.stack([part.boundary for part in found], 1).to(self._x),
            max(part.evaluations for part in found),
        )

    def log_prob(self, candidates: Float[Tensor, "B P K d"] | Any) -> Float[Tensor, "B P K"]:
        candidates = as_tensor(candidates, "candidates", allow="infinite")
        columns = []
        for p, n in enumerate(self._prefixes):
            # Energy and constant of one prefix together: its landscape may not be kept.
            landscape = self._landscape(n)
            constant = self._partition(n, landscape).estimate
            columns.append(-landscape.energy(candidates[:, p]) - constant[:, None])
        return torch.stack(columns, 1).to(self._x)

    def sample(self, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B P K d"]:
        draws = [self._landscape(n).sample(size, generator=generator) for n in self._prefixes]
        return torch.stack(draws, 1).to(self._x)

    def _landscape(self, n: int) -> EnergyLandscape:
        if n in self._landscapes:
            return self._landscapes[n]
        landscape = self._learner._landscape(self._x[:, :n], constant="keep")
        if len(self._x) * len(self._prefixes) <= _KEPT:
            self._landscapes[n] = landscape
        return landscape

    def _partition(self, n: int, landscape: EnergyLandscape | None = None) -> LogPartition:
        if n not in self._partitions:
            found = (landscape or self._landscape(n)).log_partition()
            found.require_density()
            self._partitions[n] = found
        return self._partitions[n]
