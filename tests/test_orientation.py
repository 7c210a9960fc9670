"""What turning, reflecting or swapping columns does to a trained density: nothing, or as little as is said."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import iclkit
from iclkit.analysis.equivariance import axis_changes, axis_maps, real_sets, together
from iclkit.analysis.real_data import PAIRS
from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.learners.orientation import orientations
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import TASKS, BroadMixtures, FinitePool, GaussianMixtures

DOUBLE = torch.float64


def skewed(*shape: int, seed: int = 0) -> torch.Tensor:
    """Points whose third moments are far from zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=DOUBLE)
    return x.square() + 0.3 * x


def orthogonal(dim: int, seed: int, reflected: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=DOUBLE)).Q
    q[0] *= torch.linalg.det(q) * (-1 if reflected else 1)
    return q


def learner(dim: int = 2, **fields: object) -> EnergyDensity:
    """A random network, as if trained on standard units of a prior that is the same from all sides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = EnergyTransformer(dim, width=16, layers=2, heads=2, max_points=32, base_std=1.5, features=4)
        torch.nn.init.normal_(network.readout.weight, std=0.5)
    network.requires_grad_(False).eval()
    return EnergyDensity(network, BroadMixtures(dim=dim), standardise=True, **fields)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_points_in_their_own_axes_stay_as_they_are(dim: int, count: int, reflected: bool) -> None:
    z = skewed(3, 12, dim)
    z = z - z.mean(1, keepdim=True)
    turn = orthogonal(dim, 5, reflected)
    own, turned = orientations(z, count), orientations(z @ turn.mT, count)
    identity = torch.eye(dim, dtype=DOUBLE).expand(count, 3, -1, -1)
    assert torch.allclose(own @ own.mT, identity, atol=1e-12)
    # Rounding, times the condition of the moments' directions.
    assert torch.allclose(z @ own.mT, z @ turn.mT @ turned.mT, atol=1e-8)


def test_both_signs_of_the_last_axis() -> None:
    z = skewed(9, 3)
    pair = z @ orientations(z, 2).mT
    assert torch.allclose(pair[0][:, :2], pair[1][:, :2], atol=1e-12)
    assert torch.allclose(pair[0][:, 2], -pair[1][:, 2], atol=1e-12)


def test_a_line_has_two_directions() -> None:
    z = skewed(9, 1)
    assert orientations(z, 2).flatten().tolist() == [1, -1]
    assert orientations(-z, 2).flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    "z", [torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), torch.zeros(4, 2), torch.eye(2)[[0, 0]]]
)
def test_symmetric_and_degenerate_contexts_have_axes_too(z: torch.Tensor) -> None:
    axes = orientations(z, 4)
    assert torch.allclose(axes @ axes.mT, torch.eye(2).expand(4, -1, -1), atol=1e-6)


@pytest.mark.parametrize("points", [0, 1])
def test_contexts_without_moments_are_seen_as_they_are(points: int) -> None:
    assert torch.equal(orientations(torch.ones(3, points, 2), 8), torch.eye(2).expand(1, 3, 2, 2))


@pytest.mark.parametrize("count", [2, 12])
def test_swapped_columns_change_nothing(count: int) -> None:
    """Shrunken moments swap with the columns; what whitening leaves open, the points decide."""
    x, c = skewed(2, 9, 2) + 100, skewed(2, 1, 5, 2, seed=1) + 100
    plain, averaged = learner(transforms=1), learner(transforms=count)

    def change(judged: EnergyDensity) -> float:
        straight = judged.predictives(x, [9]).log_prob(c)
        swapped = judged.predictives(x.flip(-1), [9]).log_prob(c.flip(-1))
        return float((straight - swapped).abs().max())

    # The network computes in single precision.
    assert change(averaged) < 1e-4
    assert change(plain) > 0.01, "a network that is indifferent by itself would test nothing"


def test_any_affine_map_of_a_network_in_standard_units_by_hand() -> None:
    """Turned about the origin, without whitening, to rounding; reflections too, and in three dimensions."""
    for dim in (2, 3):
        judged = dataclasses.replace(learner(dim), standardise=False, transforms=2)
        x, c = skewed(2, 7, dim), skewed(2, 4, dim, seed=1)
        turn = orthogonal(dim, 3, reflected=True)
        straight = judged.condition(x).energy(c)
        assert torch.allclose(judged.condition(x @ turn.mT).energy(c @ turn.mT), straight, atol=1e-4)


def test_orders_and_transforms_are_averaged_together() -> None:
    judged = learner(orders=3, transforms=4)
    x, c = skewed(6, 2), skewed(5, 2, seed=1)
    landscape = dataclasses.replace(judged, standardise=False).condition(x)
    generator = torch.Generator().manual_seed(6)
    orders = [torch.arange(6), *(torch.randperm(6, generator=generator) for _ in range(2))]
    members = [
        judged.network.condition((x @ axes.mT)[order]).energy(c @ axes.mT)
        for axes in orientations(x, 4)
        for order in orders
    ]
    # Float32 sums of 24 numbers.
    assert torch.allclose(landscape.energy(c), torch.stack(members).mean(0), atol=1e-5)
    batched = dataclasses.replace(judged, standardise=False).condition(x[None].expand(2, -1, -1))
    assert torch.allclose(batched.energy(c.expand(2, -1, -1))[1], landscape.energy(c), atol=1e-5)


def test_scores_and_far_points() -> None:
    judged = learner(transforms=2)
    x = skewed(9, 2)
    landscape = judged.condition(x)
    point = skewed(1, 2, seed=2)
    step = 1e-2 * torch.eye(2, dtype=DOUBLE)
    slope = torch.stack([landscape.energy(point + s) - landscape.energy(point - s) for s in step], -1) / 2e-2
    # Central differences of a single-precision energy.
    assert torch.allclose(-slope, landscape.score(point), atol=2e-2)
    far = landscape.normalise().log_prob(
        torch.tensor([[1e300, -1e300], [math.inf, 0.0], [1e38, 1e38]], dtype=DOUBLE)
    )
    assert not far.isnan().any()
    assert (far < -1e10).all()


def test_by_default_where_the_prior_is_the_same_from_all_sides() -> None:
    plain = learner()
    assert plain.averaged == 2
    assert dataclasses.replace(plain, standardise=False).averaged == 1
    assert dataclasses.replace(plain, task=FinitePool(GaussianMixtures(), size=4)).averaged == 1
    assert dataclasses.replace(plain, task=None).averaged == 1
    x = skewed(8, 2)
    assert plain.condition(x).energy(x).equal(learner(transforms=2).condition(x).energy(x))


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.rotation_invariant])
def test_tasks_that_say_so_are_the_same_from_all_sides(name: str) -> None:
    """Of such a distribution E x₁⁴ = 3 E x₁² x₂², odd moments vanish, and a turn by 45° shows no difference."""
    x = TASKS[name]().sample(6000, 2, torch.Generator().manual_seed(0))[:, 0].double()
    x = x * (x.norm(dim=-1, keepdim=True) < 20)
    across = x @ torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=DOUBLE) / math.sqrt(2)
    for difference in (
        x.pow(4).mean(-1) - 3 * x.square().prod(-1),
        x.abs().mean(-1) - across.abs().mean(-1),
        x[:, 0] * x[:, 1],
        x[:, 0] + x[:, 1].pow(3),
    ):
        # Four standard errors, four statistics of three tasks: a false alarm in a thousand.
        assert difference.mean().abs() < 4 * difference.std() / math.sqrt(len(difference))


@pytest.mark.parametrize("count", [0, 3, -2, 98, 10**9])
def test_numbers_of_transforms(count: int) -> None:
    with pytest.raises(UserError, match=f"must be 1 .* or an even number up to 96, given {count}"):
        learner(transforms=count)
    with pytest.raises(UserError, match="two directions"):
        learner(1, transforms=4)


def test_the_shipped_model_on_real_data() -> None:
    """0.01 for the turn, 0 for the swap; 0.11 for both without own axes (`benchmarks.equivariance`)."""
    sets = together(real_sets(load().values, 1, 24, held_out=20) for load in PAIRS.values())
    maps = {
        name: axis_maps(len(sets.context), 2)[name] for name in ("columns in reverse order", "turned by 45°")
    }
    swapped, turned = axis_changes(iclkit.load("energy-2d"), sets, [24], maps).values()
    assert swapped.mean() < 0.001
    assert turned.mean() < 0.05
