"""Regression learners out of distribution: one comparison for each shift of inputs, queries and noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclkit import disk
from iclkit.analysis.compare import BAYES, Comparison, known_bayes, measure
from iclkit.analysis.intervals import cell
from iclkit.analysis.naming import named, written
from iclkit.analysis.questions import check_asked, seeded
from iclkit.analysis.table import Table, markdown
from iclkit.errors import UserError, unknown
from iclkit.tasks import SHIFTS, RegressionTask

UNSHIFTED = "none"
BELIEVER = "Bayes, no shift"


@dataclass(frozen=True)
class ShiftComparison:
    """The same learners under several shifts of one task.

    Args:
        task: The task that is shifted.
        conditions: A comparison for each shift; the task itself comes first, as "none".
    """

    task: RegressionTask
    conditions: Mapping[str, Comparison]

    @property
    def names(self) -> list[str]:
        """The learners; Bayes' reference last, where any condition knows it."""
        names = dict.fromkeys(name for found in self.conditions.values() for name in found.names)
        return sorted(names, key=lambda name: name == BAYES)

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """Pairs before each query."""
        return next(iter(self.conditions.values())).context_sizes

    def table(self, context_size: int | None = None) -> Table:
        """Squared errors after one context size: a row for each shift, a column for each learner.

        Args:
            context_size: Pairs in the context; the most that were measured if None.

        Raises:
            UserError: A size that was not measured.
        """
        size = self.context_sizes[-1] if context_size is None else context_size
        rows = []
        for shift, found in self.conditions.items():
            cells = [
                cell(found.error(name).at(size).interval()[0]) if name in found.names else ""
                for name in self.names
            ]
            # Queries that are zero, as those orthogonal to d inputs must be, ask for nothing.
            if not found.asked.queries[:, size].any():
                cells = ["" for _ in cells]
            rows.append([shift, *cells])
        return Table(["shift", *self.names], rows)

    def tables(self) -> dict[str, Table]:
        """The tables of a few context sizes by title."""
        some = next(iter(self.conditions.values()))
        unit = "" if some.scale == 1 else f" / {some.scale:g}"
        dim, last = self.task.dim, self.context_sizes[-1]
        sizes = sorted({n for n in (dim // 2, dim, 2 * dim) if n < last} | {last})
        return {f"squared error{unit} after {n} pairs": self.table(n) for n in sizes}

    @property
    def head(self) -> str:
        """What the tables are about, in a line."""
        episodes = len(next(iter(self.conditions.values())).asked.x)
        return f"{written(self.task)} and its shifts, {episodes} episodes each; ± half of a 95 % interval"

    def markdown(self) -> str:
        """All tables as Markdown."""
        return markdown(self.head, self.tables())

    __str__ = markdown
    _repr_markdown_ = markdown

    def to_csv(self, path: str | Path | None = None) -> str:
        """All curves of all shifts; columns as of `Comparison.to_csv`, behind one for the shift.

        Args:
            path: File to write as well.
        """
        lines: list[str] = []
        for shift, found in self.conditions.items():
            head, *body = found.to_csv().splitlines()
            lines += [] if lines else [f"shift,{head}"]
            lines += [f"{shift},{line}" for line in body]
        text = "\n".join(lines) + "\n"
        if path is not None:
            disk.write_file(Path(path), text.encode(), follow=True)
        return text


def compare_shifts(
    learners: Sequence[Any] | Mapping[str, Any],
    task: RegressionTask,
    points: int = 41,
    episodes: int = 256,
    seed: int = 0,
    shifts: Iterable[str] | None = None,
) -> ShiftComparison:
    """Put learners side by side on a task and on its shifts.

    Beside them stand two references where they are known: Bayes, who knows the shift, and Bayes who believes
    that there is none, which is what a learner that was trained without shifts could be at best.

    Args:
        learners: As of `compare`.
        task: The task, as the learners know it.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many episodes of each shift.
        seed: Seed of the episodes.
        shifts: Names of `tasks.SHIFTS`; all if None.

    Raises:
        UserError: An unknown shift, or as `compare`.

    Source: Garg et al. (2022), section 4.
    """
    chosen = list(SHIFTS if shifts is None else shifts)
    for name in chosen:
        if name not in SHIFTS:
            raise unknown("shift", name, SHIFTS)
    check_asked(task, points, episodes)
    judged = named(learners)
    believer = known_bayes(task)
    if believer is not None and believer not in judged.values():
        judged[BELIEVER] = believer
    conditions = {UNSHIFTED: measure(judged, task, points, episodes, seed)}
    # Once each: what sees no answer here sees none there. Queries elsewhere are another way of asking.
    elsewhere = False
    for name in chosen:
        shifted = SHIFTS[name](task)
        try:
            new = not elsewhere and _asks_elsewhere(shifted, points)
            trusted = () if new else judged
            conditions[name] = measure(judged, shifted, points, episodes, seed, trusted=trusted)
        except UserError as error:
            raise UserError(f"shift {name}: {error}") from None
        elsewhere = elsewhere or new
    return ShiftComparison(task, conditions)


def _asks_elsewhere(task: RegressionTask, points: int) -> bool:
    """Whether queries are other inputs than the episodes' own."""
    generator = seeded(0)
    x = task.inputs(2, points, generator)
    return task.queries(x, generator) is not x
