"""The limit of training linear attention: closed forms, constructed weights, and a real training run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.attention_limit import trained_distance
from iclkit.analysis.attention_limit import attention_limit, distance_to_limit
from iclkit.errors import UserError
from iclkit.networks import MergedAttention
from iclkit.tasks import LinearRegression
from iclkit.training import recipe_named

OSWALD = LinearRegression(dim=10, inputs_law="uniform", half_width=0.5)


@pytest.mark.parametrize(("dim", "points", "risk"), [(20, 40, 0.344), (5, 20, 0.231), (10, 1, 11 / 12)])
def test_risk_of_normal_inputs(dim: int, points: int, risk: float) -> None:
    """(d + 1)/(N + d + 1) a dimension; the published two to three digits."""
    limit = attention_limit(LinearRegression(dim=dim), points)
    assert limit.loss / dim == pytest.approx((dim + 1) / (points + dim + 1), rel=1e-12)
    assert limit.loss / dim == pytest.approx(risk, abs=5e-4)
    # Γ = (1 + 1/N) I + (d/N) I, and the product of the two matrices is Γ⁻¹.
    gamma = 1 + 1 / points + dim / points
    assert float(limit.key_query[0, 0] * limit.value_out[-1, -1]) == pytest.approx(1 / gamma, rel=1e-12)
    assert float(limit.key_query.norm()) == pytest.approx(float(limit.value_out.norm()), rel=1e-12)


def test_published_loss() -> None:
    assert attention_limit(OSWALD, 10).loss / 2 == pytest.approx(0.20623, abs=5e-6)


def limit_network(scale: float = 1.0) -> torch.nn.Module:
    """A network with the limit's weights, their free scale turned."""
    network = recipe_named("lsa").network.build(0).double()
    limit = attention_limit(OSWALD, 10)
    (layer,) = (module for module in network.modules() if isinstance(module, MergedAttention))
    with torch.no_grad():
        layer.key_query.weight.copy_(limit.key_query * scale)
        layer.value_out.weight.copy_(limit.value_out / scale)
    return network


@pytest.mark.parametrize("scale", [1.0, 3.0, -0.2])
def test_constructed_weights_are_the_limit(scale: float) -> None:
    found = distance_to_limit(
        limit_network(scale), OSWALD, episodes=100, generator=torch.Generator().manual_seed(0)
    )
    assert found.key_query < 1e-12
    assert found.value_out < 1e-12
    # The task's episodes are float32.
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert float(found.loss.mean) == pytest.approx(found.limit, rel=1e-5)


def test_other_weights_are_not() -> None:
    network = limit_network()
    (layer,) = (module for module in network.modules() if isinstance(module, MergedAttention))
    with torch.no_grad():
        layer.key_query.weight[0, 0] *= 2
    found = distance_to_limit(network, OSWALD, episodes=2000, generator=torch.Generator().manual_seed(0))
    # One of ten equal entries doubled: 1/√10 of the norm, after a scale that grows with it.
    assert 0.25 < found.key_query < 0.35
    assert found.cosine < 0.99
    assert float(found.loss.low) > found.limit


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"known without noise .* given noise_std=0\.5"):
        attention_limit(LinearRegression(noise_std=0.5), 10)
    with pytest.raises(UserError, match="at least 1 pair"):
        attention_limit(LinearRegression(), 0)
    two = dataclasses.replace(recipe_named("lsa-recurrent").network, tied=False).build(0)
    with pytest.raises(UserError, match=r"one layer with matrices of \(11, 11\)"):
        distance_to_limit(two, OSWALD)
    with pytest.raises(UserError, match="the scale is free in linear attention alone"):
        distance_to_limit(recipe_named("linear").network.build(0), OSWALD)


@pytest.mark.slow
def test_training_reaches_the_limit() -> None:
    """Weights within 2%, predictions' cosine at least 0.999, loss within 1% of 0.20623, in 5 minutes."""
    found, seconds = trained_distance()
    assert max(found.key_query, found.value_out) < 0.02
    assert found.cosine >= 0.999
    assert float(found.loss.mean) / 2 == pytest.approx(0.20623, rel=0.01)
    assert seconds < 300
