"""Recipes of energies: functions that return a complete training run."""

from __future__ import annotations

import dataclasses

from iclkit.energy.objectives import BinaryNCE, ContrastiveDivergence
from iclkit.energy.proposals import Proposal
from iclkit.tasks import BroadMixtures, DensityTask, FinitePool, GaussianMixtures
from iclkit.training.network_config import EnergyConfig
from iclkit.training.recipe import OptimizerConfig, Recipe, Schedule


def energy_published() -> Recipe:
    """Contrastive divergence exactly as published; its energy is no -log p (see `ContrastiveDivergence`).

    Source: Schaeffer, Khona and Koyejo (2024), and their code where it says more.
    """
    return Recipe(
        name="energy-published",
        task=FinitePool(GaussianMixtures(), size=1000),
        objective=ContrastiveDivergence(),
        network=EnergyConfig(max_points=40),
        optimizer=OptimizerConfig(name="adam", rate=1e-3, weight_decay=1e-5, eps=1e-4, clip=0.1),
        schedule=Schedule(warmup=0.0, shape="constant"),
        episodes=32,
        accumulate=2,
        points=40,
        steps=1250,
        checkpoint_every=250,
    )


def energy_mixtures() -> Recipe:
    """A normalised energy under the published prior, close to its Bayes predictive."""
    return Recipe(
        name="energy-mixtures",
        task=GaussianMixtures(),
        objective=BinaryNCE(
            proposal=Proposal(broad_std=5.0, kernel_stds=(0.5,)), negatives=8, prefixes=10, labels="law"
        ),
        network=EnergyConfig(
            width=96, layers=4, heads=4, max_points=32, features=16, wavelengths=(1.0, 40.0), base_std=5.0
        ),
        optimizer=OptimizerConfig(name="muon", rate=2e-3, matrix_rate=2e-2, betas=(0.9, 0.98)),
        schedule=Schedule(warmup=0.01, shape="linear"),
        episodes=96,
        points=33,
        steps=5000,
        checkpoint_every=250,
    )


def energy_2d() -> Recipe:
    """A normalised energy for small real data sets with two columns, under a broad prior."""
    return Recipe(
        name="energy-2d",
        task=BroadMixtures(),
        objective=BinaryNCE(
            proposal=Proposal(broad_std=2.0, kernel_stds=(0.1, 0.35), broad_share=0.4),
            negatives=8,
            prefixes=12,
            labels="law",
        ),
        network=EnergyConfig(
            width=96, layers=4, heads=4, max_points=64, features=16, wavelengths=(0.25, 12.0), base_std=2.0
        ),
        optimizer=OptimizerConfig(name="muon", rate=2e-3, matrix_rate=2e-2, betas=(0.9, 0.98)),
        schedule=Schedule(warmup=0.01, shape="linear"),
        episodes=64,
        points=65,
        steps=6500,
        standardise=True,
        checkpoint_every=250,
    )


def energy_tiny() -> Recipe:
    """A normalised energy in one dimension, trained in seconds: for a first contact and for tests."""
    return Recipe(
        name="energy-tiny",
        task=GaussianMixtures(components=2, dim=1, mean_std=2.0, std=0.5),
        objective=BinaryNCE(proposal=Proposal(broad_std=2.5, kernel_stds=(0.5,)), negatives=4),
        network=EnergyConfig(dim=1, width=16, layers=2, heads=2, max_points=8, base_std=2.0),
        optimizer=OptimizerConfig(name="muon", rate=5e-3),
        episodes=16,
        points=9,
        steps=200,
        ema=0.99,
        checkpoint_every=50,
        log_every=10,
    )


def energy_control() -> Recipe:
    """The network of `energy-mixtures` where no context says anything: one mixture for all episodes."""
    return control(energy_mixtures())


def control(recipe: Recipe) -> Recipe:
    """The network and the objective of an energy's recipe, on one law of its task: a control of probes.

    After Akyürek et al. (2022), section 5, as `linear-control` is for regression. The seed is another, so that
    what is drawn once, as the frequencies of the features, is not the model's own.
    """
    assert isinstance(recipe.task, DensityTask)
    return dataclasses.replace(
        recipe,
        name="energy-control",
        task=FinitePool(recipe.task, size=1),
        episodes=32,
        accumulate=1,
        steps=300,
        seed=recipe.seed + 1,
        ema=None,
        start=None,
    )
