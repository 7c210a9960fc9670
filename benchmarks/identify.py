"""How often `identify` names learners in disguise, and whether it is ever sure of the wrong one on blends.

python -m benchmarks.identify --seeds 20 --points 20 --episodes 64
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iclkit.analysis.families import FAMILIES
from iclkit.analysis.identification import Identification, Match
from iclkit.analysis.identify import identify
from iclkit.analysis.naming import name_of
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import Questions, answers, ask
from iclkit.analysis.slow_families import SLOW_FAMILIES
from iclkit.analysis.targets import Target
from iclkit.learners import (
    Averaging,
    BoostedTrees,
    GaussianProcess,
    GradientDescent,
    GradientDescentPlusPlus,
    GreedyTree,
    Lasso,
    LeastSquares,
    NearestNeighbors,
    Newton,
    OnePassSGD,
    PoolPosterior,
    RegressionLearner,
    Ridge,
    SmoothedPoolPosterior,
    TrainedNetwork,
    Zero,
    as_learner,
)
from iclkit.tasks import LinearPool, LinearRegression, RegressionTask

TASK = LinearRegression(dim=8, noise_std=0.5)
POOL = LinearPool(size=64, dim=8, noise_std=0.5)
LEARNERS: list[tuple[RegressionLearner, str]] = [
    (Zero(), "zero"),
    (Averaging(), "averaging"),
    (LeastSquares(), "least squares"),
    (Ridge(0.25), "ridge"),
    (Lasso(0.05), "Lasso"),
    (NearestNeighbors(3), "k-NN"),
    (NearestNeighbors(11, "distance"), "weighted k-NN"),
    (GradientDescent(7, 0.13), "GD"),
    (GradientDescent(2, 0.004, "sum"), "summed-loss GD"),
    (GradientDescent(2), "best-rate GD"),
    (GradientDescentPlusPlus(3, 0.4, 0.01), "GD++"),
    (Newton(6), "Newton"),
    (OnePassSGD(0.02), "one-pass SGD"),
    (GaussianProcess("rbf", 5.0, 1.0, 0.3), "Gaussian process"),
]
POOLED: list[tuple[RegressionLearner, str]] = [
    (PoolPosterior(POOL, 0.5), "pool posterior"),
    (SmoothedPoolPosterior(POOL, 0.5, 0.2), "smoothed pool"),
    (Ridge(0.25), "ridge"),
]
# Fitted to every prefix anew: fewer and shorter episodes.
SLOW: list[tuple[RegressionLearner, str]] = [
    (GreedyTree(3), "greedy tree"),
    (BoostedTrees(), "boosted trees"),
    (TrainedNetwork(), "trained network"),
]
# Fresh episodes of a blend, on which is seen which of the fitted learners is truly nearest.
_JUDGES, _AT_ONCE = 8192, 256


@dataclass(frozen=True)
class Setting:
    """How learners are disguised."""

    task: RegressionTask
    points: int
    episodes: int
    fresh: int | None = None
    families: Sequence[str] | None = None


def disguises(known: Sequence[tuple[RegressionLearner, str]], seeds: int, setting: Setting) -> None:
    """For each learner as a plain function: how often it is named, and the worst error of its parameters."""
    for learner, family in known:
        start, named, worst = time.process_time(), 0, 0.0
        for seed in range(seeds):
            found = identify(
                lambda x, y, own=learner: own.predict(x, y),
                setting.task,
                setting.points,
                setting.episodes,
                seed,
                setting.families,
                fresh=setting.fresh,
            )
            named += found.nearest.family.name == family and found.grade == "is"
            for name, estimate in found.nearest.parameters.items():
                true = getattr(learner, name, None)
                if isinstance(true, int | float):
                    worst = max(worst, abs(estimate.value / true - 1))
        seconds = (time.process_time() - start) / seeds
        print(
            f"{family:16} named {named}/{seeds}  worst parameter error {worst:.1e}  {seconds:.1f} s", flush=True
        )


def blends(points: int, episodes: int, count: int, seed: int) -> None:
    """For pairs of learners at three shares: is the one named, or one tied, the nearest on fresh episodes?"""
    asked = ask(TASK, points, _JUDGES, torch.Generator().manual_seed(10**6))
    prompts = [Prompts.of(asked, slice(start, start + _AT_ONCE)) for start in range(0, _JUDGES, _AT_ONCE)]
    pairs = itertools.combinations([learner for learner, _ in LEARNERS[1:]], 2)
    cases = [(a, b, share) for a, b in pairs for share in (0.5, 0.8, 0.2)]
    order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(0)).tolist()
    tally: Counter[str] = Counter()
    for a, b, share in [cases[i] for i in order[:count]]:

        def mixed(x: Tensor, y: Tensor, a=a, b=b, share=share) -> Tensor:
            return share * a.predict(x, y) + (1 - share) * b.predict(x, y)

        found = identify(mixed, TASK, points, episodes, seed, name="blend")
        verdict, truly, factor = _judge(found, answers(as_learner(mixed), asked), asked, prompts)
        tally[verdict] += 1
        if verdict in (_CLOSE, _WRONG):
            print(f"  {share} {name_of(a)} + {1 - share:.1f} {name_of(b)}: {found.verdict}")
            print(f"    {verdict}: nearer, by a factor {factor:.3f}, is {truly.label}", flush=True)
    print(
        f"blends, seed {seed}: "
        + ", ".join(f"{tally[key]} {key}" for key in (_RIGHT, _FIRST, _TIED, _CLOSE, _WRONG))
    )


_RIGHT, _FIRST, _TIED = "name the nearest alone", "name it, with ties", "report it as tied"
_CLOSE, _WRONG = "as near to the judge", "are sure of another"


def _judge(
    found: Identification, said: Tensor, asked: Questions, prompts: Sequence[Prompts]
) -> tuple[str, Match, float]:
    """What is to be said of an identification, the match that is truly nearest, and how much nearer it is.

    The judge's own error: where the difference to the nearest is within 2 standard errors of its mean over the
    fresh episodes, the judge cannot tell either.
    """
    target = Target.of(said.double(), asked.context_sizes)
    # Those three times as far on the episodes of `identify` are not looked at again.
    far = 3 * float(found.nearest.spd.mean.mean()) + 1e-6 * found.power
    matches = [match for match in found.matches if float(match.spd.mean.mean()) <= far]
    squares = []
    for match in matches:
        parts = [
            target.part(slice(i * _AT_ONCE, (i + 1) * _AT_ONCE)).differences(
                match.learner.predict(part.asked.x, part.asked.y)
            )
            for i, part in enumerate(prompts)
        ]
        # A member may diverge on some of the fresh episodes; then it is not near.
        squares.append(torch.cat(parts).square().mean(1).nan_to_num(torch.inf))
    means = torch.stack(squares).mean(1)
    best = int(means.argmin())
    truly, factor = matches[best], float(means[0] / means[best])
    if truly is found.nearest:
        return (_FIRST if found.tied else _RIGHT), truly, factor
    if truly.tied:
        return _TIED, truly, factor
    excess = squares[0] - squares[best]
    error = float(excess.std()) / len(excess) ** 0.5
    return (_CLOSE if float(excess.mean()) < 2 * error else _WRONG), truly, factor


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of the disguises; 0 for none")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--learners", nargs="+", help="families of those that are disguised (default: all)")
    parser.add_argument("--blends", type=int, default=234, help="how many, chosen at random (default: all)")
    parser.add_argument("--blend-seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plain = Setting(TASK, given.points, given.episodes)
    pooled = Setting(POOL, given.points, given.episodes)
    slow = Setting(TASK, 8, 16, 16, [*(n for n, make in FAMILIES.items() if make(TASK, 8)), *SLOW_FAMILIES])
    for known, setting in ((LEARNERS, plain), (POOLED, pooled), (SLOW, slow)):
        chosen = [pair for pair in known if given.learners is None or pair[1] in given.learners]
        if given.seeds and chosen:
            print(f"{type(setting.task).__name__}, {setting.points} points, {setting.episodes} episodes")
            disguises(chosen, given.seeds, setting)
    for seed in range(given.blend_seeds if given.blends else 0):
        blends(given.points, given.episodes, given.blends, seed)


if __name__ == "__main__":
    main()
