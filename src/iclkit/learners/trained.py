"""A trained energy network as a density learner."""

from __future__ import annotations

from dataclasses import dataclass

from iclkit.energy.network import EnergyTransformer
from iclkit.tasks import DensityTask


@dataclass(frozen=True, eq=False)
class EnergyDensity:
    """A frozen energy network that a context conditions."""

    network: EnergyTransformer
    task: DensityTask
    standardise: bool = False
    name: str = ""
    card: str = ""

    @property
    def limit(self) -> int:
        return self.network.max_points
