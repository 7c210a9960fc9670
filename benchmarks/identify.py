"""How often `identify` names learners in disguise, and whether it is ever sure of the wrong one on blends.

python -m benchmarks.identify --seeds 20 --points 20 --episodes 64
"""

from __future__ import annotations

import argparse
import itertools
import time

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


def disguises(seeds: int, points: int, episodes: int) -> None:
    """For each learner as a plain function: how often it is named, and the worst error of its parameters."""
    for learner, family in LEARNERS:
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


def blends(points: int, episodes: int) -> None:
    """For all pairs and three shares: whether the member named, or one tied, is nearest on fresh episodes."""
    asked = ask(TASK, points, 1024, torch.Generator().manual_seed(10**6))
    right = ties = wrong = 0
    for (a, _), (b, _) in itertools.combinations(LEARNERS[1:], 2):
        for share in (0.5, 0.8, 0.2):

            def mixed(x, y, a=a, b=b, share=share):
                return share * a.predict(x, y) + (1 - share) * b.predict(x, y)

            found = identify(mixed, TASK, points, episodes, name="blend")
            target = Target.of(mixed(asked.x, asked.y).double(), asked.context_sizes)
            distances = [target.differences(answers(m.learner, asked).double()) for m in found.matches]
            means = torch.stack([d.square().mean() for d in distances])
            truly = found.matches[int(means.argmin())]
            if truly is found.nearest:
                right += 1
            elif truly.tied:
                ties += 1
            else:
                wrong += 1
                apart = float(means[0] / means.min())
                print(
                    f"  {share} {name_of(a)} + {name_of(b)}: {found.verdict} Nearer, by {apart:.3f}: {truly.label}"
                )
    print(
        f"blends: {right} name the nearest, {ties} report it as tied, {wrong} are sure of another", flush=True
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--skip-blends", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    disguises(given.seeds, given.points, given.episodes)
    if not given.skip_blends:
        blends(given.points, given.episodes)


if __name__ == "__main__":
    main()
