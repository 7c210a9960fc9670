"""Task distributions: what is learned from. Registered by name in `TASKS`."""

from iclkit.tasks.base import DensityTask, Episodes, Law
from iclkit.tasks.broad_mixtures import BroadMixtures
from iclkit.tasks.conjugate_mixtures import ConjugateMixtures
from iclkit.tasks.gaussian_mixtures import GaussianMixtures
from iclkit.tasks.mixtures import Mixtures

TASKS: dict[str, type[DensityTask]] = {
    task.__name__: task for task in (GaussianMixtures, BroadMixtures, ConjugateMixtures)
}

__all__ = [
    "TASKS",
    "BroadMixtures",
    "ConjugateMixtures",
    "DensityTask",
    "Episodes",
    "GaussianMixtures",
    "Law",
    "Mixtures",
]
