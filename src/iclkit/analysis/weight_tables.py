"""Inside a comparison: the linear weights and the sensitivities of one learner against those of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.compare import Comparison
from iclkit.analysis.cosine import cosine
from iclkit.analysis.intervals import Curve, Interval, cell
from iclkit.analysis.linear_weights import FAINT, ImplicitWeights, implicit_weights
from iclkit.analysis.questions import Questions, seeded
from iclkit.analysis.sensitivities import sensitivities
from iclkit.analysis.table import Table


@dataclass(frozen=True)
class WeightComparison:
    """Learners by what they are linearly, on episodes that all of them saw.

    Args:
        sizes: Pairs in the contexts.
        scale: What squared differences of weights are divided by.
        implicit: Implicit linear weights by learner; the first is judged.
        gradients: ∂ŷ/∂x at the queries by learner.
    """

    sizes: tuple[int, ...]
    scale: float
    implicit: Mapping[str, ImplicitWeights]
    gradients: Mapping[str, Float[Tensor, "B N d"]]

    def ilwd(self, a: str, b: str) -> Curve:
        """Implicit linear weight difference ‖ŵ_a - ŵ_b‖² of two learners, divided by `scale`."""
        difference = self.implicit[a].weights - self.implicit[b].weights
        return Curve(self.sizes, difference.square().sum(-1) / self.scale)

    def cosine(self, a: str, b: str) -> Curve:
        """Cosine between the sensitivities of two learners; 0 where one of them is zero."""
        return Curve(self.sizes, cosine(self.gradients[a], self.gradients[b]))

    def distance(self, a: str, b: str) -> Curve:
        """L2 distance between the sensitivities of two learners."""
        return Curve(self.sizes, (self.gradients[a] - self.gradients[b]).norm(dim=-1))

    def tables(self, context_sizes: Sequence[int] | None = None) -> dict[str, Table]:
        """The first learner against every other one, and how linear each is, by title.

        Args:
            context_sizes: Columns; all if None.
        """
        sizes = context_sizes or self.sizes
        judged, *others = self.implicit
        unit = "" if self.scale == 1 else f" / {self.scale:g}"
        rows = {
            f"R² of the implicit linear weights{_why(self._faint(sizes))}": {
                n: w.r2() for n, w in self.implicit.items()
            },
            f"implicit linear weight difference{unit} from {judged}": {
                n: self.ilwd(judged, n).interval() for n in others
            },
            f"cosine of the sensitivities with {judged}": {
                n: self.cosine(judged, n).interval() for n in others
            },
            f"L2 distance of the sensitivities from {judged}": {
                n: self.distance(judged, n).interval() for n in others
            },
        }
        blank = [self._faint(sizes), *[frozenset()] * (len(rows) - 1)]
        return {
            title: self._table(found, sizes, without)
            for (title, found), without in zip(rows.items(), blank, strict=True)
            if found
        }

    def _faint(self, sizes: Sequence[int]) -> frozenset[tuple[str, int]]:
        """Learners and context sizes where so little is predicted that R² says nothing."""
        return frozenset(
            (name, n)
            for name, weights in self.implicit.items()
            for n in sizes
            if weights.faint[self.sizes.index(n)]
        )

    def _table(
        self, found: Mapping[str, Interval], sizes: Sequence[int], blank: frozenset[tuple[str, int]]
    ) -> Table:
        rows = [
            [name, *("" if (name, n) in blank else cell(line[self.sizes.index(n)]) for n in sizes)]
            for name, line in found.items()
        ]
        return Table(["learner", *(f"n = {n}" for n in sizes)], rows)


def _why(blank: frozenset[tuple[str, int]]) -> str:
    """What a title says of blank cells."""
    return f" (blank: predictions below {100 * FAINT:g}% of their usual size)" if blank else ""


def compare_weights(
    comparison: Comparison, episodes: int = 64, queries: int | None = None, seed: int = 0
) -> WeightComparison:
    """Look inside the learners of a comparison, on the first of its episodes.

    Args:
        comparison: The comparison.
        episodes: How many of its episodes; each costs a learner as many predictions as there are queries.
        queries: Queries after each prefix, as of `linear_weights.ilwd`; 8 d if None.
        seed: Seed of the queries.
    """
    task, asked = comparison.task, comparison.asked
    count = min(episodes, len(asked.x))
    some = Questions(asked.x[:count], asked.y[:count], asked.queries[:count], None, asked.targets[:count], None)
    generator = seeded(seed)
    fresh = task.inputs(count, queries or 8 * task.dim, generator).to(asked.x)
    learners = comparison.learners.items()
    return WeightComparison(
        comparison.context_sizes,
        comparison.scale,
        {name: implicit_weights(learner, some.x, some.y, fresh) for name, learner in learners},
        {name: sensitivities(learner, some) for name, learner in learners},
    )
