"""Akyürek's diagonal: is a learner trained at noise σ²/τ² nearest to the ridge regression with that penalty?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iclkit.analysis.families import log_grid, ridge
from iclkit.analysis.fitting import Estimate
from iclkit.analysis.identify import identify
from iclkit.analysis.intervals import Curve
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import answers, ask, seeded
from iclkit.analysis.table import Table
from iclkit.analysis.targets import Target
from iclkit.errors import UserError
from iclkit.learners import Ridge, as_learner
from iclkit.tasks import LinearRegression

RATIOS = (0.0, 1 / 16, 1 / 9, 1 / 4, 4 / 9)
"""The published σ²/τ²."""
_NAMES = {1 / 16: "1/16", 1 / 9: "1/9", 1 / 4: "1/4", 4 / 9: "4/9"}
# A fitted penalty counts as the right one within this factor; where there is no noise, below this penalty.
FACTOR, NOISELESS = 1.5, 1 / 32
# Penalties at which the distances are drawn as a curve.
_DRAWN = log_grid(1e-3, 10, 10)


@dataclass(frozen=True)
class Diagonal:
    """Distances of learners, one trained at each noise, to ridge regressions.

    Args:
        ratios: σ²/τ² of the columns.
        penalties: λ of the rows.
        spd: Squared prediction differences divided by d, by row and column; as `identify` counts them.
        fitted: The penalty of the nearest ridge regression, by column.
        drawn: Many penalties, ascending.
        profiles: Mean SPD/d to ridge regression with each of them, by column.
    """

    ratios: tuple[float, ...]
    penalties: tuple[float, ...]
    spd: tuple[tuple[Curve, ...], ...]
    fitted: tuple[Estimate, ...]
    drawn: tuple[float, ...]
    profiles: tuple[tuple[float, ...], ...]

    def smallest(self, column: int) -> int:
        """The row of the least mean SPD in a column."""
        return min(range(len(self.penalties)), key=lambda row: float(self.spd[row][column].mean.mean()))

    @property
    def on_diagonal(self) -> tuple[bool, ...]:
        """By column, whether the least entry is in the row whose penalty is nearest to its σ²/τ²."""
        nearest = (min(self.penalties, key=lambda row, own=ratio: abs(row - own)) for ratio in self.ratios)
        return tuple(self.penalties[self.smallest(i)] == row for i, row in enumerate(nearest))

    @property
    def fits(self) -> tuple[bool, ...]:
        """By column, whether the fitted penalty is within a factor of 1.5 (without noise: below 1/32)."""
        return tuple(
            found.value < NOISELESS if ratio == 0 else 1 / FACTOR <= found.value / ratio <= FACTOR
            for found, ratio in zip(self.fitted, self.ratios, strict=True)
        )

    def table(self) -> Table:
        """Rows λ, columns σ²/τ², mean SPD/d with the least of each column in bold; below it the fitted λ."""
        rows = [
            [f"λ = {short(penalty)}", *(f"{float(cell.mean.mean()):.2e}" for cell in cells)]
            for penalty, cells in zip(self.penalties, self.spd, strict=True)
        ]
        rows.append(["fitted λ", *(str(found).removeprefix("= ").partition(" [")[0] for found in self.fitted)])
        rows.append(["from", *("" if found.edge else f"{found.low:.3g}" for found in self.fitted)])
        rows.append(["to", *("" if found.edge else f"{found.high:.3g}" for found in self.fitted)])
        columns = ["σ²/τ²", *(short(ratio) for ratio in self.ratios)]
        best = frozenset((self.smallest(column), column + 1) for column in range(len(self.ratios)))
        return Table(columns, rows, best)

    @property
    def verdict(self) -> str:
        """What holds of the published claim, in one sentence."""
        count = len(self.ratios)
        return (
            f"The smallest entry lies on the diagonal in {sum(self.on_diagonal)} of {count} columns; the "
            f"fitted penalty is within a factor {FACTOR} of σ²/τ² (noiseless: below 1/32) in "
            f"{sum(self.fits)} of {count}."
        )

    def to_json(self) -> str:
        """Everything as text that other programs read."""
        cells = [[cell.overall() for cell in row] for row in self.spd]
        return json.dumps(
            {
                "ratios": self.ratios,
                "penalties": self.penalties,
                "spd": [[{k: float(v) for k, v in vars(cell).items()} for cell in row] for row in cells],
                "fitted": [vars(found) for found in self.fitted],
                "on_diagonal": self.on_diagonal,
                "fits": self.fits,
                "drawn": self.drawn,
                "profiles": self.profiles,
                "verdict": self.verdict,
            },
            indent=2,
        )


def ridge_diagonal(
    learners: Mapping[float, Any],
    dim: int = 8,
    weight_std: float = 1.0,
    points: int = 40,
    episodes: int = 256,
    seed: int = 0,
    penalties: Sequence[float] | None = None,
) -> Diagonal:
    """Measure learners trained at several noises against ridge regressions.

    Differences count as in `identify`: least squares with noise has no mean square at n = d, so those at
    predictions beyond 4 typical sizes are scaled down.

    Args:
        learners: Learners by the σ²/τ² at which each was trained, on which it is compared too.
        dim: Dimension of the inputs.
        weight_std: τ.
        points: Queries of each episode.
        episodes: How many, at each noise.
        seed: Their seed.
        penalties: λ of the rows; the learners' σ²/τ² by default.

    Raises:
        UserError: No learner, or a negative ratio or penalty.

    Source: Akyürek et al. (2022), section 4.2: normalised mean SPD, rows λ and columns σ²/τ².
    """
    if not learners or min(learners) < 0:
        raise UserError(f"learners must be given by σ²/τ² of at least 0, given {sorted(learners)}")
    ratios = tuple(sorted(learners))
    rows = ratios if penalties is None else tuple(sorted(set(penalties)))
    if not rows or not all(0 <= row < float("inf") for row in rows):
        raise UserError(f"penalties must be at least 0, given {list(rows)}")
    columns, fitted, profiles = [], [], []
    for ratio in ratios:
        task = LinearRegression(dim, noise_std=weight_std * ratio**0.5, weight_std=weight_std)
        found = identify(learners[ratio], task, points, episodes, seed, families=["ridge"])
        fitted.append(found.nearest.parameters["penalty"])

        asked = ask(task, points, episodes, seeded(seed))
        sizes = asked.context_sizes
        target = Target.of(answers(as_learner(learners[ratio]), asked).double(), sizes)
        prompts, family = Prompts.of(asked, slice(None)), ridge(task, points)

        def distances(said: torch.Tensor, target: Target = target) -> torch.Tensor:
            return target.differences(said).square() / dim

        columns.append([Curve(sizes, distances(answers(Ridge(row), prompts.asked))) for row in rows])
        curve = (distances(family.predict(prompts, {"penalty": penalty})).mean() for penalty in _DRAWN)
        profiles.append(tuple(map(float, curve)))
    return Diagonal(ratios, rows, tuple(zip(*columns, strict=True)), tuple(fitted), _DRAWN, tuple(profiles))


def short(value: float) -> str:
    """A number as text; the published ratios as fractions."""
    near = (name for known, name in _NAMES.items() if abs(known - value) < 1e-3 * known)
    return next(near, f"{value:.3g}")
