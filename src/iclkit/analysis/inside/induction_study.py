"""When induction heads form: courses of training with one layer and with two, and the jumps in them.

Heads that look back (prefix matching) and a loss that falls along the context (in-context learning) come
together, within a short part of the training, and only where a second layer can read what a first has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from iclkit.analysis.table import Table
from iclkit.errors import UserError

Score = Literal["prefix_matching", "in_context_learning"]
SCORES: tuple[Score, ...] = ("prefix_matching", "in_context_learning")
"""The scores that jump together."""
WIDTH = 100
"""Updates in the window of a jump."""
SPAN = 200
"""Updates that both windows must lie within, to be one phase change."""
LEARNED = 0.2
"""Loss on copies, in nats, below which the repeats are learned."""
_CHANGE = 0.5
_PUBLISHED = (
    "Published, for language models: both scores jump in the same window of the training, in networks of two "
    "layers or more."
)


@dataclass(frozen=True)
class Jump:
    """The window of a course in which a score changes most.

    Args:
        start: Updates before it.
        end: Updates at its end.
        share: Of the score's change over the whole course, how much is in it; 0 if there is none.
    """

    start: int
    end: int
    share: float

    @property
    def sudden(self) -> bool:
        """Whether most of the change is in it."""
        return self.share > _CHANGE


@dataclass(frozen=True)
class Course:
    """What was recorded along one training run; all sequences are of the same length.

    Args:
        layers: Layers of the network.
        seed: Seed of the run.
        steps: Updates done.
        cpu_seconds: Processor time until then, recording included.
        loss_copies: Mean loss on copies, in nats.
        loss_new: Mean loss on new tokens, in nats.
        in_context_learning: Late loss minus early loss.
        prefix_matching: The largest score of a head.
        copying: The copying score of that head.
        copying_eigenvalues: Its share of positive eigenvalues.
    """

    layers: int
    seed: int
    steps: Sequence[int]
    cpu_seconds: Sequence[float]
    loss_copies: Sequence[float]
    loss_new: Sequence[float]
    in_context_learning: Sequence[float]
    prefix_matching: Sequence[float]
    copying: Sequence[float]
    copying_eigenvalues: Sequence[float]

    @classmethod
    def of(cls, layers: int, seed: int, lines: Iterable[Mapping[str, Any]]) -> Course:
        """The course that metrics of a run tell, as `InductionRecorder` and the trainer have written them.

        Raises:
            UserError: Metrics without these scores.
        """
        rows = list(lines)
        missing = {*SCORES} - (rows[0].keys() if rows else set())
        if missing:
            raise UserError(
                f"the metrics lack {' and '.join(sorted(missing))}; train with an InductionRecorder watching"
            )
        scores = {name: np.array([np.ravel(row[name]) for row in rows]) for name in _OF_HEADS}
        best = scores["prefix_matching"].argmax(1)
        picked = {name: values[np.arange(len(rows)), best].tolist() for name, values in scores.items()}
        plain = {name: [row[name] for row in rows] for name in _PLAIN}
        return cls(layers=layers, seed=seed, steps=[row["step"] for row in rows], **plain, **picked)

    def jump(self, score: Score, width: int = WIDTH) -> Jump:
        """The window of steepest change: `width` updates (or one interval of records) in which it is largest.

        Args:
            score: Which.
            width: Updates in the window; it starts at any record.
        """
        steps, values = np.array(self.steps), np.array(getattr(self, score))
        ends = np.searchsorted(steps, steps + width, side="right") - 1
        ends = np.clip(np.maximum(ends, np.arange(len(steps)) + 1), None, len(steps) - 1)
        changes = np.abs(values[ends] - values)
        start = int(changes.argmax())
        whole = values.max() - values.min()
        share = float(changes[start] / whole) if whole > 0 else 0.0
        return Jump(int(steps[start]), int(steps[ends[start]]), share)

    @property
    def together(self) -> bool:
        """Whether both scores jump, within the same 200 updates."""
        jumps = [self.jump(score) for score in SCORES]
        extent = max(jump.end for jump in jumps) - min(jump.start for jump in jumps)
        return extent <= SPAN and all(jump.sudden for jump in jumps)

    def learned(self) -> int | None:
        """The first record from which on the loss on copies stays below 0.2 nats; None if it does not."""
        above = [place for place, loss in enumerate(self.loss_copies) if loss >= LEARNED]
        first = above[-1] + 1 if above else 0
        return first if first < len(self.steps) else None


_OF_HEADS = ("prefix_matching", "copying", "copying_eigenvalues")
_PLAIN = ("cpu_seconds", "loss_copies", "loss_new", "in_context_learning")


@dataclass(frozen=True)
class InductionStudy:
    """Courses of training with several numbers of layers, from several seeds each.

    Args:
        courses: The courses.
    """

    courses: tuple[Course, ...]

    @property
    def layers(self) -> list[int]:
        """The numbers of layers."""
        return sorted({course.layers for course in self.courses})

    def of(self, layers: int) -> list[Course]:
        """The courses with so many layers."""
        return [course for course in self.courses if course.layers == layers]

    @property
    def verdict(self) -> str:
        """What happened with each number of layers, a sentence each, and what was published."""
        return " ".join([*map(self._said, self.layers), _PUBLISHED])

    def _said(self, layers: int) -> str:
        courses = self.of(layers)
        name = f"{plural(layers, 'layer')}, {plural(len(courses), 'seed')}"
        losses = _range([course.loss_copies[-1] for course in courses])
        least = min(min(course.loss_copies) for course in courses)
        prefix = _range([course.prefix_matching[-1] for course in courses])
        jumped = sum(course.together for course in courses)
        learned = [course.cpu_seconds[place] for course in courses if (place := course.learned()) is not None]
        when = (
            f"below {LEARNED} for good in {len(learned)} of {len(courses)}, after {_range(learned)} CPU seconds"
            if learned
            else f"never below {least:.2f}"
        )
        return (
            f"{name}: loss on the repeats {losses} at the end, {when}; best prefix-matching score {prefix}; "
            f"both scores jump within the same {SPAN} updates in {jumped} of {len(courses)}."
        )

    def tables(self) -> dict[str, Table]:
        """By title, with a row for each course: where it ended, and when it learned what."""
        ends = ["network", "loss", "prefix", "copying", "Σλ/Σ|λ|", "ICL"]
        times = ["network", f"< {LEARNED} at", "CPU s", "prefix jump", "ICL jump", "both"]
        return {
            "at the end, of the best head; chance of copying is 2/V - 1 with V tokens": Table(
                ends, [_end(course) for course in self.courses]
            ),
            f"in updates: loss < {LEARNED} for good; jumps (share of all change); both within {SPAN}": Table(
                times, [_times(course) for course in self.courses]
            ),
        }

    def to_json(self) -> str:
        """Everything as text that other programs read."""
        courses = [
            asdict(course)
            | {
                f"{score}_jump": asdict(course.jump(score))
                for score in ("prefix_matching", "in_context_learning")
            }
            | {"together": course.together}
            for course in self.courses
        ]
        return json.dumps({"courses": courses, "verdict": self.verdict}, indent=2)


def _end(course: Course) -> list[str]:
    scores = (
        course.prefix_matching,
        course.copying,
        course.copying_eigenvalues,
        course.in_context_learning,
    )
    return [_name(course), f"{course.loss_copies[-1]:.3f}", *(f"{values[-1]:.2f}" for values in scores)]


def _times(course: Course) -> list[str]:
    place = course.learned()
    learned = ["never", ""] if place is None else [f"{course.steps[place]}", f"{course.cpu_seconds[place]:.1f}"]
    jumps = [_window(course.jump(score)) for score in SCORES]
    return [_name(course), *learned, *jumps, "yes" if course.together else "no"]


def _name(course: Course) -> str:
    return f"{plural(course.layers, 'layer')}, seed {course.seed}"


def plural(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _window(jump: Jump) -> str:
    return f"{jump.start}-{jump.end} ({jump.share:.0%})"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
