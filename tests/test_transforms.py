"""torch.func's transforms of landscapes and networks, and half precision, where fused kernels do not reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, func

from iclkit.energy import EnergyLandscape, EnergyTransformer
from iclkit.learners.trained import EnergyDensity
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer

# torch's own forward mode uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def energy_network(**arguments: Any) -> EnergyTransformer:
    torch.manual_seed(0)
    network = EnergyTransformer(2, 16, 2, 4, features=4, base_std=2.0, **arguments).double()
    torch.nn.init.normal_(network.readout.weight, std=0.3)
    return network


def landscapes() -> dict[str, EnergyLandscape]:
    context = torch.randn(9, 2, generator=generator(1), dtype=torch.float64)
    network = energy_network()
    density = EnergyDensity(network, standardise=True)
    return {
        "network": network.condition(context),
        "in the data's units": density.condition(3 * context + 5),
        "mean over orders": EnergyDensity(network, standardise=True, orders=3).condition(context),
        "affine": network.condition(context).affine(2 * torch.eye(2), torch.ones(2)),
        "user's": EnergyLandscape(lambda x: x.pow(4).sum(-1), 2, None, torch.zeros(2).double(), torch.eye(2)),
    }


@pytest.mark.parametrize("name", landscapes())
def test_landscapes_under_transforms(name: str) -> None:
    """Fused kernels and plain operators agree to rounding in float64."""
    land = landscapes()[name]
    points = torch.randn(5, 2, generator=generator(2), dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 1e-9}
    energies, scores = land.energy(points), land.score(points)
    torch.testing.assert_close(func.vmap(land.energy)(points), energies, **close)
    torch.testing.assert_close(func.grad(land.energy)(points[0]), -scores[0], **close)
    torch.testing.assert_close(func.vmap(func.grad(land.energy))(points), -scores, **close)
    torch.testing.assert_close(func.vmap(land.score)(points), scores, **close)
    torch.testing.assert_close(func.jacrev(land.energy)(points[0]), -scores[0], **close)
    along = torch.ones(2, dtype=torch.float64)
    value, slope = func.jvp(land.energy, (points[0],), (along,))
    torch.testing.assert_close(value, energies[0], **close)
    torch.testing.assert_close(slope, -scores[0].sum(), **close)
    # Second derivatives, by differences of the score.
    hessian, step = func.hessian(land.energy)(points[0]), 1e-5
    shifts = step * torch.eye(2, dtype=torch.float64)
    differences = (land.score(points[0] - shifts) - land.score(points[0] + shifts)) / (2 * step)
    torch.testing.assert_close(hessian, differences, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(func.jacrev(land.score)(points[0]), -hessian, **close)
    # Afterwards the fused kernels are back.
    torch.testing.assert_close(land.energy(points), energies, rtol=0, atol=0)


def test_normalised_densities_under_transforms() -> None:
    density = landscapes()["in the data's units"].normalise()
    points = torch.randn(5, 2, generator=generator(3), dtype=torch.float64)
    expected = density.log_prob(points)
    torch.testing.assert_close(func.vmap(density.log_prob)(points), expected, rtol=1e-9, atol=1e-9)
    slope = func.grad(density.log_prob)(points[0])
    torch.testing.assert_close(slope, density.landscape.score(points[0]), rtol=1e-9, atol=1e-9)  # pyright: ignore


X, Y = torch.randn(2, 5, 3, generator=generator(4)), torch.randn(2, 5, generator=generator(5))

REGRESSORS: dict[str, dict[str, Any]] = {
    "interleaved": {},
    "joined": {"tokens": "joined"},
    "not causal": {"tokens": "joined", "causal": False},
    "linear attention": {"attention": "linear", "tokens": "joined"},
    "kernel attention": {"attention": "gaussian"},
    "bars": {"components": 2},
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_under_transforms(name: str) -> None:
    torch.manual_seed(1)
    network = InContextRegressor(3, 16, 2, 2, max_points=8, **REGRESSORS[name]).double()
    x, y = X.double(), Y.double()
    expected = torch.autograd.functional.jacobian(lambda x: network(x, y), x)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(func.jacrev(lambda x: network(x, y))(x), expected, **close)
    torch.testing.assert_close(func.jacfwd(lambda x: network(x, y))(x), expected, **close)
    torch.testing.assert_close(
        func.vmap(lambda x, y: network(x[None], y[None])[0])(x, y), network(x, y), **close
    )
    # Gradients of the weights, episode by episode.
    weights = dict(network.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return func.functional_call(network, weights, (x[None], y[None])).square().sum()

    each = func.vmap(func.grad(loss), (None, 0, 0))(weights, x, y)
    network(x[1:], y[1:]).square().sum().backward()
    for key, parameter in network.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(each[key][1], wanted, **close)


def test_energies_and_candidates_under_transforms() -> None:
    network = energy_network()
    x = torch.randn(2, 6, 2, generator=generator(6), dtype=torch.float64)
    c = torch.randn(2, 6, 3, 2, generator=generator(7), dtype=torch.float64)
    for call in (network.energies, partial(network.candidate_energies, candidates=c)):
        wanted = torch.autograd.functional.jacobian(call, x)
        torch.testing.assert_close(func.jacrev(call)(x), wanted, rtol=1e-9, atol=1e-9)


NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, tuple[Tensor, ...]]]] = {
    "energies": lambda: (energy_network(), (torch.randn(2, 6, 2, generator=generator(6)),)),
    "tokens": lambda: (TokenTransformer(11, 16, 2, 2), (torch.arange(8).view(1, 8) % 11,)),
    **{
        name: lambda arguments=arguments: (InContextRegressor(3, 16, 2, 2, max_points=8, **arguments), (X, Y))
        for name, arguments in REGRESSORS.items()
    },
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_on_a_processor(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    network, inputs = NETWORKS[name]()
    expected = network.float()(*inputs).detach()
    halved = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    found = network.to(dtype)(*halved)
    assert found.dtype == dtype
    # Two blocks and a read-out round some thirty times: 30 of the type's steps at most.
    margin = 30 * torch.finfo(dtype).eps * float(expected.abs().max().clamp_min(1))
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=margin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_landscapes_in_half_precision(dtype: torch.dtype) -> None:
    network, points = energy_network(), torch.randn(5, 2, generator=generator(8))
    context = torch.randn(7, 2, generator=generator(9))
    full, half = (n.condition(context) for n in (network.float(), energy_network().to(dtype)))
    margin = 30 * torch.finfo(dtype).eps * float(full.energy(points).abs().max())
    torch.testing.assert_close(half.energy(points).float(), full.energy(points), rtol=0, atol=margin)
    assert half.score(points).isfinite().all()
