"""Which energies have a normalising constant: decided by how they rise along rays, in any dimension."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iclkit.energy import EnergyTransformer
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.tails import probe
from iclkit.errors import UserError

DIMS = [1, 2, 3, 4, 6]


def student(x: Tensor, nu: float) -> Tensor:
    """The energy of a Student density in one coordinate, up to its constant."""
    return 0.5 * (nu + 1) * (x.square() / nu).log1p()


def radial_student(x: Tensor, nu: float) -> Tensor:
    return 0.5 * (nu + x.shape[-1]) * (x.square().sum(-1) / nu).log1p()


def half(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1)


# Energy in rotated coordinates, and the exponent s of mass that falls as r^-s.
PROPER: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "Gaussian": (half, math.inf),
    "Laplace": (lambda x: x.abs().sum(-1), math.inf),
    "exponential of the radius": (lambda x: x.norm(dim=-1), math.inf),
    "quartic": (lambda x: x.pow(4).sum(-1), math.inf),
    "eighth power, beyond float32": (lambda x: x.pow(8).sum(-1), math.inf),
    "shell": (lambda x: 0.5 * ((x.norm(dim=-1) - 3) / 0.1).square(), math.inf),
    "ridge": (lambda x: half(x) + 5e3 * x[..., 0].square(), math.inf),
    "Cauchy": (lambda x: radial_student(x, 1.0), 1),
    "Student, half a degree": (lambda x: radial_student(x, 0.5), 0.5),
    "Student, three degrees": (lambda x: radial_student(x, 3.0), 3),
    "a Cauchy in one coordinate": (lambda x: student(x[..., 0], 1.0) + half(x[..., 1:]), 1),
}
IMPROPER: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda x: 0 * x.sum(-1),
    "bounded": lambda x: half(x).tanh(),
    "bounded, far above the middle": lambda x: half(x).clamp_max(30),
    "falling": lambda x: -0.2 * x.square().sum(-1),
    "linear": lambda x: x[..., 0],
    "flat on one side": lambda x: torch.nn.functional.softplus(-x[..., 0]),
    "flat in an orthant": lambda x: half(x.clamp(max=0)),
    "flat on a line": lambda x: half(x[..., 1:]),
    "flat on half a line": lambda x: half(x[..., 1:]) + half(x[..., :1].clamp(max=0)),
    "bounded on a line": lambda x: half(x[..., 1:]) + half(x[..., :1]).clamp_max(20),
    "mass that falls as 1 / log": lambda x: 0.5 * x.shape[-1] * x.square().sum(-1).log1p(),
}


def rotation(dim: int) -> Tensor:
    return torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim))).Q


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", PROPER)
def test_proper(name: str, dim: int) -> None:
    energy, decay = PROPER[name]
    turn = rotation(dim)
    for turned in (energy, lambda x: energy(x @ turn)):
        found = probe(turned, torch.zeros(1, dim), torch.eye(dim)[None], torch.tensor([6.0]))
        assert found.proper.all()
        if name == "a Cauchy in one coordinate" and not math.isfinite(found.decay.item()):
            continue  # its valley may be missed: what is looked for are valleys that do not fall
        assert found.decay.item() == pytest.approx(decay, abs=0.05)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", IMPROPER)
def test_improper(name: str, dim: int) -> None:
    turn, energy = rotation(dim), IMPROPER[name]
    for turned in (energy, lambda x: energy(x @ turn)):
        assert not probe(turned, torch.zeros(1, dim), torch.eye(dim)[None], torch.tensor([6.0])).proper.any()


@pytest.mark.parametrize("dim", DIMS)
def test_products_of_cauchy_densities(dim: int) -> None:
    """Along an axis r^d exp(-E) grows as r^(d - 2), yet the mass falls as 1/r: ridges have a fixed width."""
    found = probe(
        lambda x: student(x, 1.0).sum(-1), torch.zeros(1, dim), torch.eye(dim)[None], torch.tensor([6.0])
    )
    assert found.decay.item() == pytest.approx(1, abs=0.05)


def test_a_density_with_an_edge() -> None:
    def energy(x: Tensor) -> Tensor:
        return torch.where(x.abs().amax(-1) < 2, 0.0, math.inf)

    assert probe(energy, torch.zeros(1, 4), torch.eye(4)[None], torch.tensor([6.0])).proper.all()


@pytest.mark.parametrize("dim", DIMS)
def test_networks_without_a_base_are_refused(dim: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EnergyTransformer(dim=dim, width=16, layers=2, heads=2)
        context = torch.randn(2, 5, dim)
    landscape = network.condition(context)
    with pytest.raises(UserError, match=r"the energy does not decay in context \d: along a ray"):
        landscape.normalise()


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("growth", [0.0, 0.2])
def test_refused_without_truncation_and_restricted_to_the_box_with_it(dim: int, growth: float) -> None:
    """exp(growth |x|²) over the box of 6 is a product of one integral in each coordinate."""
    landscape = EnergyLandscape(
        lambda x: -growth * x.square().sum(-1), dim, None, torch.zeros(dim), torch.eye(dim)
    )
    with pytest.raises(UserError, match="does not decay"):
        landscape.normalise()
    assert landscape.log_partition().error == math.inf
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    one = math.log(torch.trapezoid((growth * grid.square()).exp(), grid))
    density = landscape.normalise(truncate=True, generator=torch.Generator().manual_seed(0))
    # 4.5 standard errors: one false alarm in 150,000, were the seed to change.
    found = density.log_partition
    assert abs(found.estimate.item() - dim * one) < 4.5 * found.error.item() + 1e-3
    assert found.error < 0.2
    corner, outside = torch.full((dim,), 5.9), torch.full((dim,), 6.1)
    expected = dim * (growth * 5.9**2 - one)
    assert density.log_prob(corner).item() == pytest.approx(expected, abs=5 * found.error.item() + 1e-3)
    assert density.log_prob(outside) == -math.inf
    draws = density.sample((500,))
    assert draws.abs().max() <= 6
    # The sign of each coordinate is a fair coin.
    assert ((draws > 0).double().mean(0) - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(100)
