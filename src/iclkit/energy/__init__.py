"""In-context energies: the network, what it is trained to minimise, and the landscapes that it conditions."""

from iclkit.energy.chains import Chains, Sampler
from iclkit.energy.diagnostics import effective_sample_size, split_rhat
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.network import EncodedContext, EnergyTransformer
from iclkit.energy.objectives import OBJECTIVES, Objective
from iclkit.energy.partition import LogPartition
from iclkit.energy.proposals import Proposal
from iclkit.energy.samplers import HMC, MALA, SAMPLERS, Langevin

__all__ = [
    "HMC",
    "MALA",
    "OBJECTIVES",
    "SAMPLERS",
    "Chains",
    "EncodedContext",
    "EnergyLandscape",
    "EnergyTransformer",
    "Langevin",
    "LogPartition",
    "Objective",
    "Proposal",
    "Sampler",
    "effective_sample_size",
    "split_rhat",
]
