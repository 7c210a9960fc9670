"""Networks without memory for their weights have the shapes of those with it, and no size costs anything."""

from __future__ import annotations

import dataclasses
import resource

import pytest
import torch

from iclkit.errors import UserError
from iclkit.networks import AttentionVariant, Layout
from iclkit.training import RECIPES, EnergyConfig, NetworkConfig, RegressorConfig, TokenConfig
from iclkit.training.assembly import compare_shapes
from iclkit.training.skeleton import skeleton

IDENTITY = RegressorConfig(
    attention="linear",
    tokens="joined",
    embedding="identity",
    heads=1,
    mlp_ratio=0,
    norm=False,
    bias=False,
    layers=3,
)
CONFIGS = [
    EnergyConfig(positions="learned", features=8, base_std=1.0),
    EnergyConfig(variant=AttentionVariant(augmented=0.1)),
    RegressorConfig(tokens="joined", positions="learned", start_token=True, components=3),
    RegressorConfig(backbone="lstm"),
    RegressorConfig(backbone="gru", init_std=0.1),
    RegressorConfig(embedding="features", tokens="joined", tied=True),
    RegressorConfig(head_width=8, layout=Layout((2, 0, 2), (16, 8, 16), (0, 1, 0))),
    IDENTITY,
    dataclasses.replace(IDENTITY, merged=True, init_std=0.1),
    TokenConfig(),
    *{config.network: None for config in (recipe() for recipe in RECIPES.values())},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_shapes_are_those_of_the_network(config: NetworkConfig) -> None:
    before = torch.get_rng_state()
    found = skeleton(config, "here").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    expected = config.build().state_dict()
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    assert all(value.is_meta for value in found.values())


@pytest.mark.parametrize(
    "config",
    [
        EnergyConfig(layers=10**9),
        RegressorConfig(layers=10**9, tied=True),
        RegressorConfig(backbone="lstm", layers=10**9),
        TokenConfig(layers=10**9),
        EnergyConfig(width=2**40, heads=1),
        EnergyConfig(features=2**62),
        RegressorConfig(components=2**61),
        TokenConfig(vocabulary=2**62),
    ],
)
def test_no_size_costs_memory(config: NetworkConfig) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"do not belong together|no network that could be built|at most"):
        compare_shapes(config, {}, "here")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
