"""`compare`: regression learners side by side on the same episodes, by context size, with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit import disk
from iclkit.analysis.distances import Truth, right_answers, squared_difference
from iclkit.analysis.intervals import Curve, Interval, cell, ratio
from iclkit.analysis.naming import named, written
from iclkit.analysis.questions import Questions, ask, check_asked, checked_answers, seeded
from iclkit.analysis.table import Table, markdown
from iclkit.errors import UserError, unknown
from iclkit.learners import RegressionLearner, as_learner, bayes
from iclkit.tasks import RegressionTask

if TYPE_CHECKING:
    from rich.console import RenderableType

BAYES = "Bayes"


@dataclass(frozen=True)
class Comparison:
    """What several learners said on the same episodes. All results come divided by `scale`.

    Args:
        task: Where the episodes came from.
        learners: The learners by name.
        asked: The episodes, queries and right answers.
        predictions: The learners' answers, by name.
        reference: Name of the exact reference among them; None where none is known.
        scale: What squared differences are divided by: the dimension of the inputs, unless chosen otherwise.
    """

    task: RegressionTask
    learners: Mapping[str, RegressionLearner]
    asked: Questions
    predictions: Mapping[str, Float[Tensor, "B N"]]
    reference: str | None
    scale: float

    @property
    def names(self) -> list[str]:
        """The learners."""
        return list(self.predictions)

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """Pairs before each query."""
        return self.asked.context_sizes

    def spd(self, a: str, b: str) -> Curve:
        """Squared prediction difference of two learners."""
        return self._scaled(self._said(a), self._said(b))

    def error(self, name: str, against: Truth | None = None) -> Curve:
        """Squared error of a learner, against the functions where they are known, else against the targets."""
        if against is None:
            against = "target" if self.asked.truth is None else "function"
        return self._scaled(self._said(name), right_answers(self.asked, against))

    @property
    def signal(self) -> Curve:
        """What predicting 0 would cost: the squared right answers."""
        truth = self.asked.targets if self.asked.truth is None else self.asked.truth
        return self._scaled(truth, torch.zeros_like(truth))

    def excess(self, name: str) -> Curve:
        """Excess risk over Bayes: the squared difference to its predictive mean (see `distances.excess_risk`).

        Raises:
            UserError: No exact reference is known for the task.
        """
        return self.spd(name, self._known_reference())

    def bayes_ratio(self, name: str, noise: bool = True) -> Interval:
        """Risk of a learner over Bayes' risk: 1 is best.

        Where targets have no noise, Bayes' risk goes to zero and the ratio says nothing; see `excess` there.

        Args:
            name: The learner.
            noise: Whether both risks are those of predicting noisy targets; if not, of finding the function.
                That is the harder test, for both are small after many pairs.

        Raises:
            UserError: No exact reference is known for the task.
        """
        risk = self.error(self._known_reference(), "function" if not noise else None)
        if noise and self.asked.truth is not None:
            risk = Curve(risk.context_sizes, risk.values + self.task.noise_std**2 / self.scale)
        # The excess is the same with and without noise, and far better known than a difference of risks.
        extra = self.excess(name)
        return ratio(Curve(risk.context_sizes, risk.values + extra.values), risk)

    def table(self, context_sizes: Sequence[int] | None = None) -> Table:
        """Squared errors: a row for each learner, a column for each context size, and the mean over all sizes.

        Args:
            context_sizes: Columns; `some_sizes` if None.
        """
        return self._by_size({name: self.error(name) for name in self.names}, context_sizes)

    def excess_table(self, context_sizes: Sequence[int] | None = None) -> Table:
        """Excess risks over Bayes, as `table`."""
        others = [name for name in self.names if name != self._known_reference()]
        return self._by_size({name: self.excess(name) for name in others}, context_sizes)

    def ratio_table(self, context_sizes: Sequence[int] | None = None, noise: bool = True) -> Table:
        """Risks over Bayes' risk, as `table`; `noise` as of `bayes_ratio`."""
        sizes = self._shown(context_sizes)
        others = [name for name in self.names if name != self._known_reference()]
        rows = []
        for name in others:
            found = self.bayes_ratio(name, noise)
            rows.append([name, *(cell(found[self.context_sizes.index(n)]) for n in sizes)])
        return Table(["learner", *(f"n = {n}" for n in sizes)], rows)

    def distances(self, context_size: int | None = None) -> Table:
        """Squared prediction differences of all pairs of learners, at one context size or averaged over all."""
        rows = []
        for i, a in enumerate(self.names[:-1]):
            cells = [""] * i
            for b in self.names[i + 1 :]:
                curve = self.spd(a, b)
                cells.append(cell((curve if context_size is None else curve.at(context_size)).overall()))
            rows.append([a, *cells])
        return Table(["learner", *self.names[1:]], rows)

    def tables(self) -> dict[str, Table]:
        """All of the above by title."""
        unit = "" if self.scale == 1 else f" / {self.scale:g}"
        truth = "target" if self.asked.truth is None else "noiseless function"
        found = {f"squared error{unit} against the {truth}": self.table()}
        if self.reference is not None:
            found[f"excess risk{unit} over Bayes"] = self.excess_table()
            if self.task.noise_std > 0:
                found["risk / Bayes' risk, noise of the targets included"] = self.ratio_table()
                if self.asked.truth is not None:
                    found["risk / Bayes' risk, against the noiseless function"] = self.ratio_table(noise=False)
        if len(self.names) > 1:
            found[f"squared prediction difference{unit}, mean over context sizes"] = self.distances()
        return found

    @property
    def head(self) -> str:
        """What the tables are about, in a line."""
        return (
            f"{len(self.asked.x)} episodes of {written(self.task)}; n = pairs in the context; "
            "± half of a 95 % interval"
        )

    def markdown(self) -> str:
        """All tables as Markdown."""
        return markdown(self.head, self.tables())

    __str__ = markdown
    _repr_markdown_ = markdown

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        return Group(*(table.rich(title) for title, table in self.tables().items()))

    def to_csv(self, path: str | Path | None = None) -> str:
        """All curves with their 95 % intervals, one number a row.

        Args:
            path: File to write as well.

        Returns:
            The text: quantity, learner, other learner, context size, mean, low, high.
        """
        curves: list[tuple[str, str, str, Interval]] = []
        for i, name in enumerate(self.names):
            curves.append(("error", name, "truth", self.error(name).interval()))
            if self.reference not in (None, name) and self.task.noise_std > 0:
                curves.append(("risk ratio", name, BAYES, self.bayes_ratio(name)))
            curves += [
                ("squared prediction difference", name, other, self.spd(name, other).interval())
                for other in self.names[i + 1 :]
            ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["quantity", "learner", "other", "context_size", "mean", "low", "high"])
        for quantity, name, other, found in curves:
            numbers = zip(
                self.context_sizes, found.mean.tolist(), found.low.tolist(), found.high.tolist(), strict=True
            )
            writer.writerows([quantity, name, other, *row] for row in numbers)
        if path is not None:
            disk.write_file(Path(path), text.getvalue().encode(), follow=True)
        return text.getvalue()

    def _said(self, name: str) -> Tensor:
        if name not in self.predictions:
            raise unknown("learner of this comparison", name, self.predictions)
        return self.predictions[name]

    def _known_reference(self) -> str:
        if self.reference is None:
            raise UserError(f"no exact reference is known for {type(self.task).__name__}")
        return self.reference

    def _scaled(self, a: Tensor, b: Tensor) -> Curve:
        found = squared_difference(a, b, self.asked)
        return Curve(found.context_sizes, found.values / self.scale)

    @property
    def some_sizes(self) -> list[int]:
        """A few context sizes that show the course."""
        dim, last = self.task.dim, self.context_sizes[-1]
        return sorted({n for n in (0, dim // 2, dim, 2 * dim) if n < last} | {last})

    def _shown(self, context_sizes: Sequence[int] | None) -> list[int]:
        if context_sizes is None:
            return self.some_sizes
        outside = [n for n in context_sizes if n not in self.context_sizes]
        if outside:
            raise UserError(
                f"context sizes {outside} were not measured (measured: 0..{self.context_sizes[-1]})"
            )
        return list(context_sizes)

    def _by_size(self, curves: Mapping[str, Curve], context_sizes: Sequence[int] | None) -> Table:
        sizes = self._shown(context_sizes)
        rows = []
        for name, curve in curves.items():
            found = curve.at(*sizes).interval()
            rows.append([name, *(cell(found[i]) for i in range(len(sizes))), cell(curve.overall())])
        return Table(["learner", *(f"n = {n}" for n in sizes), "mean"], rows)


def compare(
    learners: Sequence[Any] | Mapping[str, Any],
    task: RegressionTask,
    points: int = 40,
    episodes: int = 256,
    seed: int = 0,
    reference: Any = None,
    scale: float | None = None,
) -> Comparison:
    """Put learners side by side on fresh episodes of a task.

    Args:
        learners: Learners or functions (x, y) -> predictions, by name or with names of their own.
        task: Where the episodes come from.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many episodes.
        seed: Seed of the episodes: the same for every learner, which makes all differences paired.
        reference: The exact reference, shown as "Bayes"; `learners.bayes(task)` where known, if None.
        scale: What squared differences are divided by; the dimension of the inputs if None.

    Raises:
        UserError: No learner, two of one name, one that is called as the reference is, one that does not take
            such episodes, or whose predictions change with the target that it predicts or with later pairs; a
            seed that is none, or a scale that is not positive.
    """
    return measure(named(learners), task, points, episodes, seed, reference, scale)


def measure(
    judged: Mapping[str, RegressionLearner],
    task: RegressionTask,
    points: int,
    episodes: int,
    seed: int,
    reference: Any = None,
    scale: float | None = None,
    trusted: Collection[str] = (),
) -> Comparison:
    """`compare` for learners that have names, some of which are known to see nothing that they should not."""
    if scale is not None and not 0 < scale < math.inf:
        raise UserError(f"scale must be positive, given {scale}")
    check_asked(task, points, episodes)
    judged = dict(judged)
    exact = reference if reference is not None else known_bayes(task)
    if exact is not None:
        if BAYES in judged:
            raise UserError(
                f"a learner is called {BAYES!r}, the name of the exact reference; give it another, or give it "
                "as the reference"
            )
        judged[BAYES] = as_learner(exact)
    asked = ask(task, points, episodes, seeded(seed))
    if reference is None:
        trusted = {*trusted, BAYES}
    predictions = {
        name: checked_answers(name, learner, asked, name in trusted) for name, learner in judged.items()
    }
    known = BAYES if exact is not None else None
    return Comparison(task, judged, asked, predictions, known, float(task.dim if scale is None else scale))


def known_bayes(task: RegressionTask) -> RegressionLearner | None:
    """The exact reference of a task, or None where none is known."""
    try:
        return bayes(task)
    except UserError:
        return None
