"""The published training step: the fast one against the literal and padded ones; the written-out gradient."""

import pytest
import torch

from iclkit.energy.frozen_queries import FrozenQueries
from iclkit.energy.network import EnergyTransformer
from iclkit.energy.objectives import ContrastiveDivergence
from iclkit.energy.reference import Literal, Padded
from iclkit.tasks import Episodes, GaussianMixtures


def _network(dtype: torch.dtype, **options) -> EnergyTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = EnergyTransformer(width=32, layers=3, heads=4, max_points=12, **options).to(dtype)
        torch.nn.init.normal_(network.readout.weight)
        for parameter in network.parameters():  # norms' gains and shifts other than one and zero
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def _gradients(network: EnergyTransformer, loss: torch.Tensor) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("step", [Literal(), Padded()], ids=["literal", "padded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_fast_step_equals_the_published_one(step, dtype, tolerance):
    """Same weights, data and draws: same loss and gradients, though the chains amplify rounding."""
    network = _network(dtype)
    objective = ContrastiveDivergence(negatives=2, steps=4, step_size=0.1)
    x = GaussianMixtures().sample(3, 6, torch.Generator().manual_seed(0)).to(dtype)
    fast, _, _ = objective(network, Episodes(x, None), torch.Generator().manual_seed(1), {})
    slow = step.loss(network, x, objective, torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)
    expected = _gradients(network, slow)
    assert (_gradients(network, fast) - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "learned"}, {"features": 5, "wavelengths": (0.5, 9.0)}, {"base_std": 2.0}],
    ids=["plain", "positions", "features", "base"],
)
@pytest.mark.parametrize("prefixes", [[0, 1, 2, 3, 4, 5], [6], [0], [5, 0, 2]])
def test_written_out_gradient_equals_automatic_differentiation(options, prefixes):
    network = _network(torch.float64, **options)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    points = torch.randn(3, len(prefixes), 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    context, lengths = network.encode(x), torch.tensor(prefixes)
    energy = network.query(context, points, lengths)
    (expected,) = torch.autograd.grad(energy.sum(), points)
    actual = FrozenQueries(network, context, lengths, 4).gradient(points)
    assert not actual.requires_grad
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_contexts_without_points_are_left_to_automatic_differentiation():
    network = _network(torch.float32)
    assert not FrozenQueries.supports(network, network.encode(torch.zeros(2, 0, 2)))
    assert FrozenQueries.supports(network, network.encode(torch.zeros(2, 1, 2)))
