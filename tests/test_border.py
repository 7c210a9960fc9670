"""A user's energy is checked once, at the border: what is none is refused in a sentence, what is one passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iclkit.energy import HMC, MALA, EnergyLandscape, Langevin
from iclkit.energy.border import check_energy
from iclkit.errors import UserError

SAMPLERS = {
    "Langevin": Langevin(steps=3, step_size=0.1),
    "MALA": MALA(steps=3, warmup=3),
    "HMC": HMC(steps=3, warmup=3),
}
LAYER = nn.Linear(2, 1).requires_grad_(False)
NORM = nn.BatchNorm1d(2).requires_grad_(False)


def right(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1)


def batch_norm(x: Tensor) -> Tensor:
    return right(NORM(x.flatten(0, -2)).view(x.shape))


# Everywhere: not one number for each point, or one that depends on more than the point.
WRONG: dict[str, tuple[Any, str]] = {
    "sum of all": (lambda x: 0.5 * x.square().sum(), r"given \[\]; sum over the last axis alone"),
    "kept axis": (
        lambda x: 0.5 * x.square().sum(-1, keepdim=True),
        r"drop the last axis: energy.squeeze\(-1\)",
    ),
    "a layer of one output": (lambda x: LAYER(x), "drop the last axis"),
    "another axis": (lambda x: x.square().sum(-2), "sum over the last axis alone"),
    "no sum": (lambda x: x.square(), "sum over the last axis alone"),
    "mean of the contexts": (lambda x: right(x).mean(0), "one number for each point"),
    "broadcast sum": (lambda x: right(x) * 0 + right(x).sum(), "changes with the points beside it"),
    "centred": (lambda x: right(x - x.mean(-2, keepdim=True)), "changes with the points beside it"),
    "by their order": (
        lambda x: right(x) * torch.arange(1, x.shape[-2] + 1),
        "changes with the points beside it",
    ),
    "batch norm": (batch_norm, "changes with the points beside it"),
    "a number": (lambda x: 1.0, "must return a tensor, given float"),
    "an array": (lambda x: np.zeros(tuple(x.shape[:-1])), "must return a tensor, given ndarray"),
    "whole numbers": (lambda x: right(x).round().long(), "floating-point numbers, given torch.int64"),
    "another width": (lambda x: nn.Linear(3, 1)(x)[..., 0], "fails on points of shape"),
    "no function": (torch.zeros(2), "is a function from points to one number each, given Tensor"),
}


@pytest.mark.parametrize("name", WRONG)
class TestRefused:
    def test_by_a_landscape(self, name: str) -> None:
        energy, words = WRONG[name]
        with pytest.raises(UserError, match=words) as caught:
            EnergyLandscape(energy, 2, None, torch.zeros(2), torch.eye(2))
        assert "\n" not in str(caught.value)

    def test_by_a_batched_landscape(self, name: str) -> None:
        energy, words = WRONG[name]
        with pytest.raises(UserError, match=words):
            EnergyLandscape(energy, 2, 4, torch.zeros(2), torch.eye(2))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("shape", [(1, 4, 2), (3, 64, 2), (2, 1, 2), (5, 2), (2, 2, 2), (2, 3, 4, 2)])
    def test_by_every_sampler(self, name: str, sampler: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(UserError):
            SAMPLERS[sampler].run(WRONG[name][0], torch.zeros(shape), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "energy",
    [
        lambda x: x.detach().square().sum(-1),
        lambda x: torch.from_numpy(x.detach().numpy() ** 2).sum(-1),
        lambda x: torch.ones(x.shape[:-1]),
        lambda x: LAYER.weight.new_ones(x.shape[:-1], requires_grad=True) * 2,
    ],
)
def test_samplers_refuse_what_has_no_gradient(sampler: str, energy: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UserError, match="no gradient with respect to the points"):
        SAMPLERS[sampler].run(energy, torch.zeros(1, 4, 2), torch.Generator().manual_seed(0))


def test_a_landscape_without_gradient_is_integrated_and_has_no_score() -> None:
    land = EnergyLandscape(lambda x: right(x.detach()), 2, None, torch.zeros(2), torch.eye(2))
    assert float(land.log_partition().estimate) == pytest.approx(math.log(2 * math.pi), abs=1e-3)
    with pytest.raises(UserError, match="no gradient"):
        land.score(torch.zeros(3, 2))


def noisy(x: Tensor) -> Tensor:
    return right(x) + 0.1 * torch.randn_like(x).sum(-1) * x.sum(-1)


def test_energies_that_change_from_call_to_call() -> None:
    """Metropolis' rule and quadrature need a function; Langevin's steps go with the energy of a mini-batch."""
    with pytest.raises(UserError, match="other values when asked again"):
        EnergyLandscape(lambda x: right(nn.functional.dropout(x)), 2, None, torch.ones(2), torch.eye(2))
    for name in ("MALA", "HMC"):
        with pytest.raises(UserError, match="other values when asked again"):
            SAMPLERS[name].run(noisy, torch.ones(1, 4, 2))
    assert SAMPLERS["Langevin"].run(noisy, torch.ones(1, 4, 2)).draws.isfinite().all()


def half_line(x: Tensor) -> Tensor:
    """Of independent exponentials; torch's own distributions raise outside of their support."""
    return -torch.distributions.Exponential(torch.ones(())).log_prob(x).sum(-1)


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "one for each context": lambda x: right(x) * torch.arange(1.0, len(x) + 1).view(-1, *[1] * (x.ndim - 2)),
    "a hard wall": lambda x: torch.where(x.abs().amax(-1) < 2, right(x), math.inf),
    "undefined outside": lambda x: -(4 - x.square().sum(-1)).log(),
    "zero": lambda x: 0 * right(x),
    "rounding alone": lambda x: (right(x) + 1e4) - 1e4 - right(x),
    "far from zero": lambda x: right(x) + 1e6,
    "with weights that learn": lambda x: right(x) * nn.Parameter(torch.ones(())),
    "in double": lambda x: right(x.double()),
    "in place on a copy": lambda x: right(x.clone().mul_(2)),
    "a module": nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(-2)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_accepted(name: str) -> None:
    for shape in ((1, 1, 2), (3, 1, 2), (4, 7, 2)):
        for dtype in (torch.float32, torch.float64) if name != "a module" else (torch.float32,):
            check_energy(RIGHT[name], torch.full(shape, 0.1, dtype=dtype))


def test_chains_that_stay_inside_a_support_whose_outside_raises() -> None:
    start = torch.full((1, 6, 2), 0.5)
    chains = Langevin(steps=2, step_size=1e-4).run(half_line, start, torch.Generator().manual_seed(0))
    assert chains.draws.isfinite().all()


def test_half_precision_passes() -> None:
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(-2)).to(torch.bfloat16)
    check_energy(net.requires_grad_(False), torch.full((2, 3, 2), 3.0, dtype=torch.bfloat16))


def test_the_check_costs_a_handful_of_calls() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x[..., 0].numel())
        return right(x)

    SAMPLERS["HMC"].run(counted, torch.zeros(2, 500, 2), torch.Generator().manual_seed(0))
    assert sum(count for count in calls if count < 1000) <= 30
    calls.clear()
    EnergyLandscape(counted, 2, None, torch.zeros(2), torch.eye(2))
    assert len(calls) == 3


def test_starts_and_scales_that_fit() -> None:
    sampler, start = SAMPLERS["HMC"], np.zeros((4, 2))
    assert sampler.run(right, start, torch.Generator().manual_seed(0)).draws.shape == (3, 4, 2)
    for bad, words in (
        (np.zeros(2), r"points \[..., chains, dim\]"),
        (np.zeros((0, 2)), "at least one"),
        ([[math.nan, 0.0]], "start must be finite"),
        ("here", "given a str"),
    ):
        with pytest.raises(UserError, match=words):
            sampler.run(right, bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"scale is a matrix \[..., 2, 2\], given \[3, 3\]"):
        sampler.run(right, torch.zeros(4, 2), None, torch.eye(3))
    with pytest.raises(UserError, match="starting point is not finite"):
        SAMPLERS["Langevin"].run(RIGHT["a hard wall"], torch.full((1, 1, 2), 9.0))


def test_chains_that_run_away_are_refused() -> None:
    with pytest.raises(UserError, match="ran away to infinity: a step_size of 1000"):
        Langevin(steps=30, step_size=1000.0).run(right, torch.ones(1, 4, 2), torch.Generator().manual_seed(0))


def test_landscapes_refuse_scales_without_inverse() -> None:
    with pytest.raises(UserError, match="singular"):
        EnergyLandscape(right, 2, None, torch.zeros(2), torch.zeros(2, 2))
    with pytest.raises(UserError, match="scale must be finite"):
        EnergyLandscape(right, 2, None, torch.zeros(2), torch.full((2, 2), math.nan))
    land = EnergyLandscape(right, 2, None, np.zeros(2), np.eye(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="matrix must have an inverse"):
        land.affine(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(UserError, match="matrix and shift are"):
        land.affine(torch.eye(3), torch.zeros(2))
    with pytest.raises(UserError, match="a sampler is an instance"):
        land.sample(3, HMC)  # pyright: ignore[reportArgumentType, reportCallIssue]
