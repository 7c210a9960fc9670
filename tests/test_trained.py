"""A trained network as a learner: normalised, in the data's units, and honest about what it cannot take."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.learners.standardise import Whitening
from iclkit.learners.trained import EnergyDensity

BASE = 1.5


def network(dim: int = 1, plain: bool = False, positions: str = "none") -> EnergyTransformer:
    """A random network; if `plain`, its energy is exactly that of its base N(0, BASE²)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = EnergyTransformer(
            dim, width=16, layers=2, heads=2, max_points=12, base_std=BASE, positions=positions, features=4
        )
        if not plain:
            torch.nn.init.normal_(made.readout.weight, std=0.3)
    return made.requires_grad_(False).eval()


def data(
    batch: int, points: int, dim: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, points, dim, generator=generator, dtype=dtype)


@pytest.mark.parametrize("standardise", [False, True])
def test_densities_integrate_to_one(standardise: bool) -> None:
    learner = EnergyDensity(network(), standardise=standardise)
    x = 2 + 3 * data(2, 6)
    axis = torch.linspace(-60, 60, 6001, dtype=x.dtype)
    prefixes = [0, 1, 3, 6]
    grid = axis[None, None, :, None].expand(2, 4, -1, 1)
    predictive = learner.predictives(x, prefixes)
    mass = torch.trapezoid(predictive.log_prob(grid).exp(), axis, dim=-1)
    # The quadrature's own tolerance is 1e-3 (relative).
    assert torch.allclose(mass, torch.ones_like(mass), atol=2e-3)
    found = predictive.log_partition()
    assert found.estimate.shape == found.error.shape == (2, 4)
    assert found.estimate.abs().max() > 0.01, "a network whose log Z is zero would test nothing"
    assert (found.error < 1e-2).all()
    assert found.method


@pytest.mark.parametrize("standardise", [False, True])
def test_every_way_to_ask_gives_one_answer(standardise: bool) -> None:
    learner = EnergyDensity(network(), standardise=standardise)
    x = 1 + data(3, 5)
    together = learner.log_prob(x)
    predictive = learner.predictives(x, [4, 2])
    assert torch.allclose(predictive.log_prob(x[:, [4, 2], None])[..., 0], together[:, [4, 2]], atol=1e-5)
    for n in (0, 2, 4):
        batched = learner.condition(x[:, :n]).normalise()
        assert torch.allclose(batched.log_prob(x[:, n]).to(x), together[:, n], atol=2e-3)
        single = learner.condition(x[1, :n]).normalise()
        assert single.batch_shape == ()
        assert single.log_prob(x[1, n]).item() == pytest.approx(together[1, n].item(), abs=2e-3)


def test_without_standardising_the_energy_is_the_network_s() -> None:
    learner = EnergyDensity(network(2))
    x, c = data(2, 4, 2, dtype=torch.float32), data(8, 3, 2, seed=1, dtype=torch.float32).view(2, 4, 3, 2)
    expected = learner.network.candidate_energies(x, c)
    # Float32 sums in another order.
    assert torch.allclose(learner.predictives(x, range(4)).energy(c), expected, atol=1e-5)
    assert learner.dim == 2
    assert learner.limit == 12


def test_standardised_base_density_is_the_shrunken_gaussian() -> None:
    """With its readout at zero the network is N(0, S² I) in standard units: N(mean, S² L L') in the data's."""
    learner = EnergyDensity(network(2, plain=True), standardise=True)
    x = data(3, 6, 2) @ torch.tensor([[300.0, 10.0], [0.0, 0.02]], dtype=torch.float64) + 1000
    c = x[:, None, :4] + torch.tensor([5.0, 0.01])
    whitening = Whitening.fit(x)
    law = MultivariateNormal(whitening.mean[:, None], scale_tril=BASE * whitening.matrix[:, None])
    predictive = learner.predictives(x, [6])
    # Energies pass through float32 in standard units, and the quadrature's tolerance is 1e-3.
    assert torch.allclose(predictive.log_prob(c)[:, 0], law.log_prob(c[:, 0]), atol=2e-3)
    assert predictive.log_partition().estimate.abs().max() < 2e-3
    landscape = learner.condition(x)
    expected = -torch.linalg.solve(
        whitening.matrix @ whitening.matrix.mT, (c[:, 0] - whitening.mean[:, None]).mT
    )
    assert torch.allclose(landscape.score(c[:, 0]), expected.mT / BASE**2, rtol=1e-4)


def test_draws_are_in_the_data_s_units() -> None:
    learner = EnergyDensity(network(2, plain=True), standardise=True)
    x = data(1, 8, 2) @ torch.tensor([[300.0, 10.0], [0.0, 0.02]], dtype=torch.float64) + 1000
    draws = learner.predictives(x, [8]).sample(4000, torch.Generator().manual_seed(0))
    assert draws.shape == (1, 1, 4000, 2)
    assert draws.dtype == x.dtype
    z = Whitening.fit(x).forward(draws[:, 0])[0] / BASE
    # 4.5 standard errors of means (1/√4000) and of covariances (√2/√4000 at most): false alarms below 1e-4.
    assert z.mean(0).abs().max() < 4.5 / math.sqrt(4000)
    assert (z.mT.cov() - torch.eye(2)).abs().max() < 4.5 * math.sqrt(2 / 4000)


def test_units_and_origin_change_the_density_by_the_jacobian() -> None:
    learner = EnergyDensity(network(2), standardise=True)
    x = data(2, 5, 2)
    unit, origin = torch.tensor([1e-3, 50.0], dtype=x.dtype), torch.tensor([7e5, -3.0], dtype=x.dtype)
    c = data(6, 3, 2, seed=1).view(2, 3, 3, 2)
    prefixes = [2, 3, 5]
    plain = learner.predictives(x, prefixes).log_prob(c)
    scaled = learner.predictives(x * unit + origin, prefixes).log_prob(c * unit + origin)
    # An origin of 7e8 units leaves 7 of float64's 16 digits, as many as the network's float32 has.
    assert torch.allclose(scaled, plain - unit.log().sum(), atol=5e-3)


@pytest.mark.parametrize("standardise", [False, True])
def test_what_is_said_of_a_prefix_depends_on_it_alone(standardise: bool) -> None:
    learner = EnergyDensity(network(), standardise=standardise)
    x = data(1, 6)
    changed = x.clone()
    changed[:, 3:] = 1e4
    c = data(3, 4, seed=1)[None]
    a, b = (learner.predictives(points, [0, 2, 3]).log_prob(c) for points in (x, changed))
    assert torch.equal(a, b)


def test_orders_are_averaged() -> None:
    base = network(positions="learned")
    x, c = data(1, 6, dtype=torch.float32), data(1, 5, seed=1, dtype=torch.float32)
    learner = EnergyDensity(base, orders=4)
    generator = torch.Generator().manual_seed(6)
    orders = [torch.arange(6), *(torch.randperm(6, generator=generator) for _ in range(3))]
    expected = torch.stack([base.condition(x[:, order]).energy(c) for order in orders]).mean(0)
    assert torch.allclose(learner.condition(x).energy(c), expected, atol=1e-6)
    assert torch.allclose(learner.condition(x[0]).energy(c[0]), expected[0], atol=1e-6)
    # The more orders, the less the order of the context matters: ten random orders of the same points.
    spread = []
    for count in (1, 8):
        member = dataclasses.replace(learner, orders=count)
        shuffled = [torch.randperm(6, generator=generator) for _ in range(10)]
        energies = torch.stack([member.condition(x[:, order]).energy(c) for order in shuffled])
        spread.append(energies.std(0).mean().item())
    # Averages of 8 vary by 1/√8 = 0.35 of what single ones do.
    assert spread[1] < 0.6 * spread[0]
    with pytest.raises(UserError, match="orders must be at least 1"):
        EnergyDensity(base, orders=0)


def test_long_contexts() -> None:
    learner = EnergyDensity(network(), name="small")
    with pytest.raises(UserError, match="13 points, but small was trained on up to 12"):
        learner.condition(data(1, 13))
    with pytest.raises(UserError, match="trained on up to 12"):
        learner.log_prob(data(1, 14))
    # 13 points have contexts of at most 12.
    assert learner.predictives(data(1, 13), range(13)).energy(data(13, 1)[None]).shape == (1, 13, 1)
    with pytest.warns(UserWarning, match="13 points"):
        assert learner.condition(data(1, 13), allow_longer=True).energy(data(1, 2)).isfinite().all()
    fixed = EnergyDensity(network(positions="learned"), name="fixed")
    with pytest.raises(UserError, match="fixed has learned positions for 12"):
        fixed.condition(data(1, 13), allow_longer=True)


def test_contexts_that_cannot_be_used() -> None:
    learner = EnergyDensity(network(2), standardise=True)
    x = data(1, 5, 2)
    for wrong in (data(1, 5, 3), torch.zeros(2), x[None]):
        with pytest.raises(UserError, match="must have shape"):
            learner.condition(wrong)
    bad = x.clone()
    bad[0, 2, 1] = math.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        learner.condition(bad)
    flat = x.clone()
    flat[..., 0] = 4.2
    with pytest.raises(UserError, match="column 1 is constant"):
        learner.condition(flat)
    # Prefixes of real data are often constant in a column for a while; they are no mistake.
    assert learner.predictives(flat, [2]).energy(x[:, None]).isfinite().all()
    with pytest.raises(UserError, match=r"prefixes must lie in 0\.\.5"):
        learner.predictives(x, [6])


def test_contexts_of_no_and_one_point_are_taken_as_they_are() -> None:
    plain, standardised = (EnergyDensity(network(2), standardise=flag) for flag in (False, True))
    x, c = data(2, 1, 2), data(2, 4, 2, seed=1)
    for n in (0, 1):
        a, b = (learner.condition(x[:, :n]).energy(c).double() for learner in (plain, standardised))
        assert torch.allclose(a, b, atol=1e-6)
