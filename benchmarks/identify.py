"""How often `identify` names learners in disguise, and whether it is ever sure of the wrong one on blends.

python -m benchmarks.identify --seeds 20 --points 20 --episodes 64
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence

import torch

from iclkit.analysis.identify import identify
from iclkit.analysis.naming import name_of
from iclkit.analysis.questions import answers, ask
from iclkit.analysis.targets import Target
from iclkit.learners import (
    Averaging,
    GaussianProcess,
    GradientDescent,
    GradientDescentPlusPlus,
    Lasso,
    LeastSquares,
    NearestNeighbors,
    Newton,
    OnePassSGD,
    RegressionLearner,
    Ridge,
    Zero,
)
from iclkit.tasks import LinearRegression

TASK = LinearRegression(dim=8, noise_std=0.5)
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


def disguises(seeds: int, points: int, episodes: int, families: Sequence[str] | None = None) -> None:
    """For each learner as a plain function: how often it is named, and the worst error of its parameters."""
    for learner, family in LEARNERS:
        if families is not None and family not in families:
            continue
        start, named, worst = time.perf_counter(), 0, 0.0
        for seed in range(seeds):
            found = identify(lambda x, y, own=learner: own.predict(x, y), TASK, points, episodes, seed)
            named += found.nearest.family.name == family and found.grade == "is"
            for name, estimate in found.nearest.parameters.items():
                true = getattr(learner, name, None)
                if isinstance(true, int | float):
                    worst = max(worst, abs(estimate.value / true - 1))
        seconds = (time.perf_counter() - start) / seeds
        print(
            f"{family:16} named {named}/{seeds}  worst parameter error {worst:.1e}  {seconds:.1f} s", flush=True
        )


def blends(points: int, episodes: int, count: int) -> None:
    """For pairs of learners at three shares: is the one named, or one tied, the nearest on fresh episodes?"""
    asked = ask(TASK, points, 1024, torch.Generator().manual_seed(10**6))
    right = ties = wrong = 0
    pairs = itertools.combinations([learner for learner, _ in LEARNERS[1:]], 2)
    cases = [(a, b, share) for a, b in pairs for share in (0.5, 0.8, 0.2)]
    order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(0)).tolist()
    for a, b, share in [cases[i] for i in order[:count]]:

        def mixed(x, y, a=a, b=b, share=share):
            return share * a.predict(x, y) + (1 - share) * b.predict(x, y)

        found = identify(mixed, TASK, points, episodes, name="blend")
        target = Target.of(mixed(asked.x, asked.y).double(), asked.context_sizes)
        distances = [target.differences(answers(m.learner, asked).double()) for m in found.matches]
        # A member may diverge on some of the fresh episodes; then it is not near.
        means = torch.stack([d.square().mean() for d in distances]).nan_to_num(torch.inf)
        truly = found.matches[int(means.argmin())]
        if truly is found.nearest:
            right += 1
        elif truly.tied:
            ties += 1
        else:
            wrong += 1
            print(f"  {share} {name_of(a)} + {1 - share:.1f} {name_of(b)}: {found.verdict}")
            print(f"    nearer, by a factor {float(means[0] / means.min()):.3f}: {truly.label}", flush=True)
    print(f"blends: {right} name the nearest, {ties} report it as tied, {wrong} are sure of another")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--learners", nargs="+", help="families of those that are disguised (default: all)")
    parser.add_argument("--blends", type=int, default=234, help="how many, chosen at random (default: all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    disguises(given.seeds, given.points, given.episodes, given.learners)
    blends(given.points, given.episodes, given.blends)


if __name__ == "__main__":
    main()
