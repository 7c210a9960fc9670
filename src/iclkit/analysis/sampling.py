"""Draws from a learner against draws from its reference: distances, a classifier, and the modes of the law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from iclkit.analysis.density import check_sizes
from iclkit.analysis.intervals import Curve
from iclkit.analysis.table import Table
from iclkit.analysis.two_sample import classifier_test, energy_distance, mmd, mode_shares
from iclkit.errors import UserError
from iclkit.learners import DensityLearner
from iclkit.tasks import DensityTask, Mixtures


@dataclass(frozen=True)
class SampleQuality:
    """Statistics of draws, per dataset and context size.

    Args:
        statistics: Curves by name.
        floor: The same of draws from the reference itself: what a perfect sampler gets.
    """

    statistics: dict[str, Curve]
    floor: dict[str, Curve]

    def table(self) -> Table:
        """Model and floor side by side, one row per context size."""
        names = list(self.statistics)
        sizes = next(iter(self.statistics.values())).context_sizes
        rows = []
        for i, n in enumerate(sizes):
            cells = [f"{self.statistics[k].mean[i]:.3f} ({self.floor[k].mean[i]:.3f})" for k in names]
            rows.append([str(n), *cells])
        return Table(["context points", *names], rows)


def sample_quality(
    reference: DensityLearner,
    model: DensityLearner,
    task: DensityTask,
    context_sizes: Sequence[int] = (8, 32),
    datasets: int = 20,
    draws: int = 200,
    seed: int = 0,
) -> SampleQuality:
    """Compare draws from a model's predictive with draws from the reference's, on fresh datasets.

    Args:
        reference: The density that is right.
        model: What is judged.
        task: Where the datasets come from; modes are looked for where its laws are mixtures.
        context_sizes: Points in the contexts.
        datasets: How many datasets.
        draws: Draws from each predictive; at least 20.
        seed: Seed of everything.

    Raises:
        UserError: Sizes that the model does not take, or fewer than 20 draws.
    """
    sizes = check_sizes(model, context_sizes)
    if draws < 20:
        raise UserError(f"draws must be at least 20, given {draws}")
    generator = torch.Generator().manual_seed(seed)
    episodes = task.draw(datasets, max(sizes), generator)
    with torch.no_grad():
        exact = reference.predictives(episodes.x, sizes)
        right, again = exact.sample(draws, generator), exact.sample(draws, generator)
        drawn = model.predictives(episodes.x, sizes).sample(draws, generator)

    def measure(sample: torch.Tensor) -> dict[str, Curve]:
        distance, discrepancy, accuracy, recall, weights = [], [], [], [], []
        for p in range(len(sizes)):
            distance.append(energy_distance(sample[:, p], right[:, p]))
            discrepancy.append(mmd(sample[:, p], right[:, p]))
            told = [
                classifier_test(a, b, seed).accuracy for a, b in zip(sample[:, p], right[:, p], strict=True)
            ]
            accuracy.append(torch.tensor(told))
            if isinstance(episodes.law, Mixtures):
                shares = mode_shares(sample[:, p], episodes.law)
                recall.append(shares.recall)
                weights.append(shares.weight_error)
        columns = {
            "energy distance": distance,
            "squared MMD": discrepancy,
            "accuracy of a classifier": accuracy,
            "mode recall": recall,
            "error of mode weights": weights,
        }
        return {name: Curve(sizes, torch.stack(c, 1)) for name, c in columns.items() if c}

    return SampleQuality(measure(drawn), measure(again))
