"""Task diversity: does a learner trained on a pool of M functions know the pool, or the prior behind it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from iclkit.analysis.intervals import Curve, cell
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import answers, ask, checked_answers
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import PoolPosterior, Ridge, as_learner
from iclkit.tasks import LinearPool, LinearRegression

Place = Literal["pool", "prior"]
PLACES: dict[Place, str] = {"pool": "functions of the pool", "prior": "new functions of the prior"}
"""Where learners are compared, in words."""
_PUBLISHED = (
    "Published, after half a million updates: close to dMMSE up to M = 2^6, and close to ridge past a "
    "threshold between 2^14 and 2^15 (8 layers of width 128) or 2^11 and 2^12 (4 layers of width 64)."
)
_NEARER = {-1: "dMMSE", 0: "neither", 1: "ridge"}


@dataclass(frozen=True)
class Distances:
    """Mean squared prediction differences divided by d, on the same episodes.

    Args:
        pool: Of the learner to dMMSE, the Bayes predictor of the pool.
        ridge: Of the learner to ridge regression with λ = σ², the Bayes predictor of the prior.
        between: Of the two Bayes predictors.
    """

    pool: Curve
    ridge: Curve
    between: Curve

    @property
    def nearer(self) -> int:
        """-1 if dMMSE is nearer, 1 if ridge is, and 0 where the interval of the difference holds both."""
        gap = (self.pool - self.ridge).overall()
        return -1 if gap.high < 0 else int(gap.low > 0)


@dataclass(frozen=True)
class TaskDiversity:
    """Distances of learners, one trained on each size of pool, to the two Bayes predictors.

    Args:
        sizes: Members of the pools (M), ascending.
        distances: By place ("pool": episodes of the learner's own pool; "prior": of the prior), one a size.
    """

    sizes: tuple[int, ...]
    distances: Mapping[Place, tuple[Distances, ...]]

    def threshold(self, place: Place) -> tuple[int | None, int | None]:
        """The largest M up to which dMMSE is nearer throughout, and the least from which on ridge is.

        Args:
            place: Where.

        Returns:
            Both; None where no M is so.
        """
        nearer = [found.nearer for found in self.distances[place]]
        below = next((i for i, side in enumerate(nearer) if side >= 0), len(nearer))
        above = next((i for i, side in enumerate(reversed(nearer)) if side <= 0), len(nearer))
        return (self.sizes[below - 1] if below else None), (self.sizes[-above] if above else None)

    @property
    def verdict(self) -> str:
        """Where the learner changes sides, in one sentence for each place, and what was published."""
        return " ".join([*map(self._side, PLACES), _PUBLISHED])

    def _side(self, place: Place) -> str:
        last, first = self.threshold(place)
        knows = f"nearer to dMMSE up to M = {last}" if last else "nearer to dMMSE for no M"
        learns = f"nearer to ridge from M = {first} on" if first else "nearer to ridge for no M"
        return f"On {PLACES[place]} the learner is {knows}, and {learns}."

    def table(self, place: Place) -> Table:
        """Rows M: the distance to each Bayes predictor with half of its 95% interval; the nearer in bold."""
        rows, best = [], set()
        for row, (size, found) in enumerate(zip(self.sizes, self.distances[place], strict=True)):
            cells = [cell(curve.overall()) for curve in (found.pool, found.ridge, found.between)]
            rows.append([short(size), *cells, _NEARER[found.nearer]])
            if found.nearer:
                best.add((row, 1 if found.nearer < 0 else 2))
        columns = ["M", "to dMMSE", "to ridge", "dMMSE to ridge", "nearer"]
        return Table(columns, rows, frozenset(best))

    def tables(self) -> dict[str, Table]:
        """Both tables by title."""
        return {f"mean squared difference / d on {name}": self.table(place) for place, name in PLACES.items()}

    def to_json(self) -> str:
        """Everything as text that other programs read."""

        def numbers(curve: Curve) -> dict[str, Any]:
            overall = {name: float(value) for name, value in vars(curve.overall()).items()}
            return overall | {"by_context_size": curve.mean.tolist()}

        return json.dumps(
            {
                "sizes": self.sizes,
                "distances": {
                    place: [
                        {name: numbers(curve) for name, curve in vars(found).items()}
                        | {"nearer": _NEARER[found.nearer]}
                        for found in distances
                    ]
                    for place, distances in self.distances.items()
                },
                "threshold": {place: self.threshold(place) for place in PLACES},
                "verdict": self.verdict,
            },
            indent=2,
        )


def task_diversity(
    learners: Mapping[LinearPool, Any], points: int = 16, episodes: int = 1024, seed: int = 0
) -> TaskDiversity:
    """Measure learners trained on pools of several sizes against dMMSE and ridge regression.

    Args:
        learners: Learners by the pool that each was trained on; pools differ in size alone.
        points: Queries of each episode; contexts have 0 to points - 1 pairs.
        episodes: How many, for each pool and as many of the prior.
        seed: Their seed.

    Raises:
        UserError: No learner, pools that differ in more than their size, or a noiseless one, for which ridge
            regression with λ = σ² is no Bayes predictor of a smooth kind.

    Source: Raventós et al. (2023), section 2: Δ = E Σ_k (A - B)² / (K d) under the pool and under the prior.
    """
    kinds = {(pool.dim, pool.noise_std, pool.seed) for pool in learners}
    if len(kinds) != 1 or len({pool.size for pool in learners}) < len(learners):
        raise UserError(
            f"learners must be given by pools that differ in size alone, given (dim, noise_std, seed) "
            f"{sorted(kinds)} and sizes {sorted(pool.size for pool in learners)}"
        )
    pools = sorted(learners, key=lambda pool: pool.size)
    dim, noise_std = pools[0].dim, pools[0].noise_std
    if not noise_std:
        raise UserError("pools must be noisy: without noise ridge regression has no penalty; give a noise_std")
    prior = LinearRegression(dim, noise_std)
    found: dict[Place, tuple[Distances, ...]] = {
        "pool": tuple(_distances(learners[pool], pool, pool, points, episodes, seed) for pool in pools),
        "prior": tuple(_distances(learners[pool], pool, prior, points, episodes, seed) for pool in pools),
    }
    return TaskDiversity(tuple(pool.size for pool in pools), found)


def _distances(
    learner: Any, pool: LinearPool, task: LinearPool | LinearRegression, points: int, episodes: int, seed: int
) -> Distances:
    asked = ask(task, points, episodes, torch.Generator().manual_seed(seed))
    # In float64: dMMSE divides squares of residuals by the noise's variance.
    judged = as_learner(learner)
    own = checked_answers(name_of(judged), judged, asked).double()
    known, ridge = (
        answers(one, asked).double() for one in (PoolPosterior(pool, pool.noise_std), Ridge(pool.noise_std**2))
    )
    pairs = {"pool": (own, known), "ridge": (own, ridge), "between": (known, ridge)}
    sizes = asked.context_sizes
    return Distances(**{name: Curve(sizes, (a - b).square() / pool.dim) for name, (a, b) in pairs.items()})


def short(size: int) -> str:
    """A size of a pool as text; powers of two as such."""
    exponent = size.bit_length() - 1
    return f"2^{exponent}" if size == 2**exponent else str(size)
