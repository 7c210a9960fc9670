"""Recipes of regressors at a size that one processor core trains in twenty minutes or less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from iclkit.errors import UserError
from iclkit.regression.objectives import MixtureLikelihood, SquaredError
from iclkit.tasks import (
    DecisionTrees,
    GaussianProcesses,
    LinearPool,
    LinearRegression,
    NoiseLevels,
    QuadraticRegression,
    RegressionTask,
    ReluNetworks,
    SineCurves,
    SparseLinearRegression,
    TaskMixture,
    VariableDimension,
)
from iclkit.training.curriculum import Curriculum
from iclkit.training.network_config import RegressorConfig
from iclkit.training.recipe import OptimizerConfig, Recipe, Schedule


def _regressor(name: str, task: RegressionTask, points: int, steps: int, **changes: Any) -> Recipe:
    """The common ground: what trains a softmax transformer fastest (see docs/negative-results.md for the rest).

    A token is a whole pair, so no layer is spent on finding which y belongs to which x.
    """
    network = RegressorConfig(
        dim=task.dim, width=64, layers=6, heads=4, mlp_ratio=1, max_points=points - 1, tokens="joined"
    )
    settings: dict[str, Any] = {
        # The same minimum as that of the noisy targets, and less variance on the way there.
        "objective": SquaredError(labels="law", balance=0.1),
        "network": network,
        "optimizer": OptimizerConfig(name="muon", rate=2e-3, matrix_rate=2e-2, betas=(0.9, 0.98)),
        "schedule": Schedule(warmup=0.01, shape="linear"),
        "episodes": 32,
        "checkpoint_every": 250,
        **changes,
    }
    return Recipe(name=name, task=task, points=points, steps=steps, **settings)


def _mostly_short(task: RegressionTask, steps: int) -> dict[str, Any]:
    """Settings of runs that see contexts of up to 19 pairs until their last eighth: more episodes a second."""
    return {
        "optimizer": OptimizerConfig(name="muon", rate=2e-3, matrix_rate=1e-2, betas=(0.9, 0.98)),
        "curriculum": Curriculum(dim=task.dim, dim_step=0, points=20, points_step=21, every=steps * 7 // 8),
        "episodes": 64,
        "steps": steps,
    }


def _linear(name: str, ratio: float, steps: int = 16_000) -> Recipe:
    """Linear functions with weights of variance 1 and noise of variance `ratio`.

    The labels are Bayes' own predictions, whose gradient is the plain one's mean (see `SquaredError`). With
    `--objective.labels law` the same number of updates ends at two to three times the distance from Bayes.
    Most of the run sees contexts of up to 19 pairs alone: they hold all that is hard (as many pairs as
    dimensions), cost a third, and what they teach already holds at 40. That hard part is harder the less noise
    there is: contexts whose inputs nearly depend on each other.
    """
    task = LinearRegression(dim=8, noise_std=math.sqrt(ratio))
    objective = SquaredError(labels="bayes", balance=0.1)
    return _regressor(name, task, points=41, objective=objective, **_mostly_short(task, steps))


def linear() -> Recipe:
    """Noiseless linear functions, d = 8: a learner close to least squares."""
    return _linear("linear", 0)


def linear_noise_1_16() -> Recipe:
    """Linear functions, d = 8, with noise of 1/16 of the weights' variance: close to ridge with λ = 1/16."""
    return _linear("linear-noise-1-16", 1 / 16)


def linear_noise_1_9() -> Recipe:
    """Linear functions, d = 8, with noise of 1/9 of the weights' variance: close to ridge with λ = 1/9."""
    return _linear("linear-noise-1-9", 1 / 9, 8_000)


def linear_noise_1_4() -> Recipe:
    """Linear functions, d = 8, with noise of 1/4 of the weights' variance: close to ridge with λ = 1/4."""
    return _linear("linear-noise-1-4", 1 / 4)


def linear_noise_4_9() -> Recipe:
    """Linear functions, d = 8, with noise of 4/9 of the weights' variance: close to ridge with λ = 4/9."""
    return _linear("linear-noise-4-9", 4 / 9, 8_000)


def linear_garg() -> Recipe:
    """The network and data of `linear`, trained as Garg et al. do: to measure what the training adds.

    Adam at 1e-4 and a curriculum from 5 coordinates and 11 points, one and two more every 2000 updates; targets
    as labels (without noise they are the law's); weights start with a standard deviation of 0.02, as GPT-2's.
    """
    recipe = linear()
    return dataclasses.replace(
        recipe,
        name="linear-garg",
        objective=SquaredError(),
        network=dataclasses.replace(recipe.network, init_std=0.02),
        optimizer=OptimizerConfig(name="adam", rate=1e-4, clip=None),
        schedule=Schedule(warmup=0.0, shape="constant"),
        curriculum=Curriculum(dim=5, points=11, every=2000),
        steps=100_000,
        checkpoint_every=2000,
        log_every=100,
    )


def linear_control() -> Recipe:
    """The network of `linear` where no context says anything: one linear function for all episodes.

    The control of probes: Akyürek et al. (2022), section 5, where all weights are 1. Inputs look the same
    however they are turned, so a function that was drawn once does as well.
    """
    network = linear().network
    assert isinstance(network, RegressorConfig)
    return control(network)


def control(network: RegressorConfig) -> Recipe:
    """A regression network, its output one number, on one linear function: see `linear_control`."""
    return Recipe(
        name="linear-control",
        task=LinearPool(size=1, dim=network.dim, noise_std=0.0),
        objective=SquaredError(),
        network=dataclasses.replace(network, components=0),
        optimizer=OptimizerConfig(name="muon", rate=2e-3, matrix_rate=1e-2, betas=(0.9, 0.98)),
        schedule=Schedule(warmup=0.01, shape="linear"),
        episodes=32,
        points=min(41, network.max_points + 1),
        steps=800,
    )


def sparse() -> Recipe:
    """Linear functions with 1 of 8 weights not zero: a learner that beats least squares, as Lasso does.

    Inputs start with 2 coordinates. With all of them from the start, 16,000 updates end at least squares
    (see docs/negative-results.md).
    """
    task = SparseLinearRegression(dim=8, nonzero=1)
    return _regressor(
        "sparse",
        task,
        points=41,
        objective=SquaredError(labels="bayes", balance=0.02),
        optimizer=OptimizerConfig(name="muon", rate=2e-3, matrix_rate=1e-2, betas=(0.9, 0.98)),
        curriculum=Curriculum(dim=2, dim_step=1, points=13, points_step=3, every=1000),
        episodes=64,
        steps=12_000,
    )


def relu_network() -> Recipe:
    """Two-layer ReLU networks of 100 hidden units, d = 5."""
    task = ReluNetworks(dim=5)
    return _regressor("relu-network", task, points=41, **_mostly_short(task, 6000))


def decision_tree() -> Recipe:
    """Decision trees of depth 3, d = 5."""
    task = DecisionTrees(dim=5, depth=3)
    return _regressor("decision-tree", task, points=41, **_mostly_short(task, 6000))


def sine() -> Recipe:
    """Sine curves by linear attention behind a perceptron: gradient descent on learned features."""
    return Recipe(
        name="sine",
        # Amplitudes as in the text of von Oswald et al.; see `sine_published` for the conflict.
        task=SineCurves(),
        objective=SquaredError(),
        network=RegressorConfig(
            dim=1,
            width=65,
            layers=1,
            heads=1,
            mlp_ratio=0,
            max_points=20,
            tokens="joined",
            attention="linear",
            norm=False,
            embedding="features",
        ),
        optimizer=OptimizerConfig(name="adam", rate=3e-3, clip=1.0),
        schedule=Schedule(warmup=0.01, shape="linear"),
        episodes=256,
        points=21,
        steps=5000,
        checkpoint_every=500,
    )


def _lsa(name: str, steps: int, **network: Any) -> Recipe:
    """Linear self-attention on linear functions with d = N = 10; the matrices merged, from a balanced start."""
    return Recipe(
        name=name,
        # The code's inputs, not the text's: see `lsa_published`.
        task=LinearRegression(dim=10, inputs_law="uniform", half_width=0.5),
        objective=SquaredError(positions="last"),
        network=RegressorConfig(
            dim=10,
            width=11,
            heads=1,
            mlp_ratio=0,
            max_points=10,
            tokens="joined",
            attention="linear",
            norm=False,
            causal=False,
            embedding="identity",
            bias=False,
            merged=True,
            **network,
        ),
        optimizer=OptimizerConfig(name="adam", rate=1e-2, betas=(0.9, 0.98), clip=10.0),
        schedule=Schedule(warmup=0.0, shape="linear"),
        episodes=2048,
        points=11,
        steps=steps,
        checkpoint_every=500,
    )


def lsa() -> Recipe:
    """One layer of linear self-attention: converges to one step of gradient descent with the best rate.

    Merged matrices and balanced start as in Zhang, Frei and Bartlett (2023), section 3, on the data of von
    Oswald et al. (2022): in seconds what takes the four separate matrices much longer to leave their small
    start.
    """
    return _lsa("lsa", 4000, layers=1)


def lsa_recurrent() -> Recipe:
    """Two layers of linear self-attention with the same weights: better than two steps of gradient descent.

    As von Oswald et al. (2022) have it the query is no key and the prediction the negative of its last entry,
    without which two layers fall short of two steps.
    """
    return _lsa("lsa-recurrent", 4000, layers=2, tied=True, negated=True, query_sees_itself=False)


def pool() -> Recipe:
    """A finite pool of noisy linear functions, d = 8: a learner that memorises the pool if it is small.

    Its size M is `--task.size`; `iclkit pools` trains it on many sizes, each in about 70 seconds of one core.
    What they show (squared difference / d on functions of the pool, and on new ones): M = 2 is at 0.0003 of
    dMMSE, M = 4 at 0.002; from M = 32 on ridge is nearer in both places, and for M = 2^8 and 2^10 at 0.05, what
    2500 updates leave of it. The published networks know pools of up to 2^6 members after half a million
    updates of 256 episodes, where this one has 80 000 in all: it sees each member of a larger pool too rarely.
    """
    recipe = _regressor(
        "pool",
        LinearPool(size=64, dim=8, noise_std=0.5),
        points=17,
        steps=2500,
        # The plain mean over prefixes, as published; the noise of the targets alone is spared.
        objective=SquaredError(labels="law"),
    )
    # As many layers as the published "small" network has.
    network = dataclasses.replace(recipe.network, layers=4, mlp_ratio=2)
    return dataclasses.replace(recipe, network=network)


def pool_sweep(recipe: Recipe, exponents: Iterable[int]) -> list[Recipe]:
    """One recipe on pools of 2^k members for each k, under the name "NAME-2^k".

    Raises:
        UserError: A size that no pool has.
    """
    task: Any = recipe.task
    exponents = tuple(exponents)
    if not all(isinstance(k, int) and k >= 0 for k in exponents):
        raise UserError(f"exponents must be whole numbers of at least 0, given {list(exponents)}")
    return [
        dataclasses.replace(recipe, name=f"{recipe.name}-2^{k}", task=dataclasses.replace(task, size=2**k))
        for k in exponents
    ]


def general() -> Recipe:
    """A density of y for small tables of up to 8 columns in any units: a mixture of all kinds of functions."""
    dim = 8
    smooth = [
        NoiseLevels(VariableDimension(task, correlated=True, scattered=True), least=0.01 * scale, most=scale)
        for task, scale in (
            (LinearRegression(dim=dim), math.sqrt(dim)),
            (SparseLinearRegression(dim=dim, nonzero=2), math.sqrt(2)),
            (QuadraticRegression(dim=dim), math.sqrt(dim)),
            (ReluNetworks(dim=dim), math.sqrt(dim)),
            (GaussianProcesses(dim=dim, length_scale=1.0, noise_std=0.0), 1.0),
            (GaussianProcesses(dim=dim, length_scale=3.0, noise_std=0.0), 1.0),
            (DecisionTrees(dim=dim, depth=3), 1.0),
        )
    ]
    task = TaskMixture(tuple(smooth))
    return _regressor(
        "general",
        task,
        points=65,
        steps=5000,
        objective=MixtureLikelihood(units="context"),
        # Joined tokens without positions: rows of a table have no order.
        network=RegressorConfig(
            dim=dim, width=96, layers=5, heads=6, mlp_ratio=2, max_points=64, tokens="joined", components=5
        ),
        standardise=True,
        pads=True,
    )
