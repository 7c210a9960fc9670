"""The network trained on each context against torch's own layers, gradients and Adam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.learners import TrainedNetwork, Zero
from iclkit.tasks import ReluNetworks


def data(episodes: int = 3, points: int = 8, dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(episodes, points, dim, generator=generator, dtype=torch.float64)
    return x, torch.randn(episodes, points, generator=generator, dtype=torch.float64)


def reference(learner: TrainedNetwork, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
    """One network on all pairs given, by torch's own parts."""
    network = nn.Sequential(nn.Linear(x.shape[-1], learner.hidden), nn.ReLU(), nn.Linear(learner.hidden, 1))
    network = network.double()
    with torch.no_grad():
        for layer, start in zip((network[0], network[2]), learner.initial(x.shape[-1]), strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(start[:-1].mT)
            layer.bias.copy_(start[-1])
    optimizer = torch.optim.Adam(network.parameters(), lr=learner.rate)
    for _ in range(learner.steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x)[:, 0], y).backward()
        optimizer.step()
    return network(queries)[:, 0].detach()


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_is_torchs_adam_on_torchs_layers(steps: int) -> None:
    learner = TrainedNetwork(hidden=16, steps=steps)
    x, y = data()
    queries = torch.randn(3, 4, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prefixes = [5, 1, 8, 2]
    found = learner.predict_queries(x, y, queries, prefixes)
    expected = torch.stack(
        [
            torch.stack([reference(learner, x[b, :n], y[b, :n], queries[b, p]) for p, n in enumerate(prefixes)])
            for b in range(3)
        ]
    )
    # Float64 against another order of summation, which a hundred steps enlarge.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_predictions_are_those_at_the_next_input() -> None:
    learner = TrainedNetwork(hidden=8, steps=5)
    x, y = data()
    expected = reference(learner, x[1, :6], y[1, :6], x[1, 6:7])
    torch.testing.assert_close(learner.predict(x, y)[1, 6:7], expected, rtol=0, atol=1e-10)
    assert torch.equal(learner.predict(x, y)[:, 0], torch.zeros(3).double())


def test_initial_weights_are_bounded_as_torchs_and_decided_by_the_seed() -> None:
    inner, outer = TrainedNetwork(hidden=50).initial(16)
    assert inner.shape == (17, 50)
    assert outer.shape == (51, 1)
    # Uniform in ±1/√(inputs): 850 draws come within 3% of the bound but once in e^(0.03 x 850) = 10¹¹ seeds.
    assert 0.97 / 4 < inner.abs().max() <= 1 / 4
    assert outer.abs().max() <= 1 / 50**0.5
    assert torch.equal(inner, TrainedNetwork(hidden=50).initial(16)[0])
    assert not torch.equal(inner, TrainedNetwork(hidden=50, seed=1).initial(16)[0])


def test_many_small_parts_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = TrainedNetwork(hidden=8, steps=20)
    x, y = data()
    whole = learner.predict(x, y)
    monkeypatch.setattr("iclkit.learners.context_network._ACTIVATIONS", 100)
    torch.testing.assert_close(learner.predict(x, y), whole, rtol=0, atol=1e-11)


def test_learns_networks() -> None:
    """Two-layer networks in d = 4: after 60 pairs far better than no answer."""
    task = ReluNetworks(dim=4, hidden=100)
    x, y = task.sample(64, 61, torch.Generator().manual_seed(0))
    queries, prefixes = x[:, None, -1:], [60]
    error = (TrainedNetwork().predict_queries(x, y, queries, prefixes)[:, 0, 0] - y[:, -1]).square().mean()
    nothing = (Zero().predict_queries(x, y, queries, prefixes)[:, 0, 0] - y[:, -1]).square().mean()
    assert error < 0.5 * nothing


@pytest.mark.parametrize("fields", [{"hidden": 0}, {"steps": -1}, {"rate": 0.0}, {"rate": float("nan")}])
def test_refuses(fields: dict) -> None:
    with pytest.raises(UserError, match="hidden must be at least 1, steps at least 0 and rate positive"):
        TrainedNetwork(**fields)
