"""Trained linear layers as attention over their training data: W_T q = c_0 W_0 q + Σ v_i (k_iᵀ q)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iclkit.analysis import DualRecorder
from iclkit.analysis.inside.descent_response import Update, response
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor
from iclkit.training.muon import Muon

# Sums of some hundred terms of order one in float64; the project asks for 1e-10.
TOLERANCE = 1e-11


def mlp() -> Any:
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 100, batch: int = 8) -> Tensor:
    """Regression on random batches; the inputs [steps, batch, 5]."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, batch, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    for inputs in x:
        optimizer.zero_grad()
        (model(inputs) - (inputs @ teacher).sin()).square().mean().backward()
        optimizer.step()
    return x


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01},
    "dampening": {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "one by one": {"momentum": 0.9, "weight_decay": 0.01, "foreach": False},
    "fused": {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True, "fused": True},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_dual_is_the_trained_layer(name: str, scheduled: bool) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **SETTINGS[name])
    first = model[2].weight.detach().clone()
    recorder = DualRecorder(model).attach(optimizer)
    if scheduled:
        # A rate of 0 at first: those gradients act by the momentum alone.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / (10 + step))
        optimizer.register_step_post_hook(lambda *_: schedule.step())
    train(model, optimizer)
    assert (model[2].weight - first).abs().max() > 0.1
    queries = torch.randn(7, 5, dtype=torch.float64)
    for place, layer in ((0, model[0]), (2, model[2])):
        assert isinstance(layer, nn.Linear)
        dual = recorder.dual(str(place))
        assert dual.keys.shape == (800, layer.in_features)
        torch.testing.assert_close(dual.weight, layer.weight, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(dual(queries), layer(queries), rtol=0, atol=TOLERANCE)
        whole = queries @ dual.initial.mT + dual.contributions(queries).sum(-2) + layer.bias
        torch.testing.assert_close(whole, layer(queries), rtol=0, atol=TOLERANCE)
        queries = queries @ layer.weight.mT + layer.bias
        queries = queries.tanh().detach()


def test_the_response_without_decay_is_the_geometric_series() -> None:
    rate, momentum, steps = 0.3, 0.8, 12
    found = response([Update(rate, momentum, first=step == 0) for step in range(steps)])
    expected = [-rate * (1 - momentum ** (steps - t)) / (1 - momentum) for t in range(steps)]
    torch.testing.assert_close(torch.tensor(found.gradients), torch.tensor(expected), rtol=1e-6, atol=0)
    assert found.weights == 1.0
    assert found.momentum == 0.0


def test_decay_alone_shrinks_the_first_weights() -> None:
    found = response([Update(0.1, weight_decay=0.5)] * 4)
    assert abs(found.weights - 0.95**4) < 1e-15


def test_every_number_of_the_response_is_a_derivative_of_torchs_own_update() -> None:
    """One impulse at a time: the weight of a parameter that starts at 0 and gets one gradient of 1."""
    rates = [0.1, 0.0, 0.3, 0.2, 0.05]
    given: dict[str, Any] = {"momentum": 0.7, "dampening": 0.2, "weight_decay": 0.3, "maximize": True}
    updates = [Update(rate, 0.7, 0.2, 0.3, maximize=True, first=step == 0) for step, rate in enumerate(rates)]
    for impulse in range(len(rates)):
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1.0, **given)
        for step, rate in enumerate(rates):
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = torch.full_like(weight, float(step == impulse))
            optimizer.step()
        assert abs(float(weight.detach()) - response(updates).gradients[impulse]) < 1e-15


def test_momentum_from_before_is_kept_apart() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    train(model, optimizer, 10)
    recorder = DualRecorder(model, "2")
    with recorder.attach(optimizer):
        train(model, optimizer, 3)
    at_end = model[2].weight.detach().clone()
    train(model, optimizer, 5)  # no longer recorded
    dual = recorder.dual("2")
    assert int(dual.updates.max()) == 2
    torch.testing.assert_close(dual.weight, at_end, rtol=0, atol=TOLERANCE)
    with recorder.attach(optimizer):  # afresh
        train(model, optimizer, 2)
    torch.testing.assert_close(recorder.dual("2").weight, model[2].weight.detach(), rtol=0, atol=TOLERANCE)


def test_accumulated_and_clipped_gradients() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    with DualRecorder(model).attach(optimizer) as recorder:
        for _ in range(20):
            optimizer.zero_grad()
            for size in (4, 3):
                model(torch.randn(size, 5, dtype=torch.float64)).square().sum().div(7).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            assert norm > 0.1
    dual = recorder.dual("0")
    assert dual.examples.tolist() == list(range(140))
    torch.testing.assert_close(dual.weight, model[0].weight.detach(), rtol=0, atol=TOLERANCE)


def test_a_buffer_that_is_filled_again_does_not_change_the_record() -> None:
    layer = nn.Linear(4, 2, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    buffer = torch.empty(3, 4, dtype=torch.float64)
    with DualRecorder(layer).attach(optimizer) as recorder:
        for _ in range(5):
            optimizer.zero_grad()
            layer(buffer.normal_()).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(recorder.dual("").weight, layer.weight.detach(), rtol=0, atol=TOLERANCE)


def test_evaluation_and_layers_without_gradient_are_left_alone() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with DualRecorder(model).attach(optimizer) as recorder:
        train(model, optimizer, 2)
        model(torch.randn(4, 5, dtype=torch.float64)).sum()  # never backward
        with torch.no_grad():
            model(torch.randn(4, 5, dtype=torch.float64))
        optimizer.zero_grad()
        model[2](torch.randn(4, 16, dtype=torch.float64)).square().sum().backward()
        optimizer.step()  # the first layer has no gradient: torch does not decay it either
    for place in (0, 2):
        dual = recorder.dual(str(place))
        torch.testing.assert_close(dual.weight, model[place].weight.detach(), rtol=0, atol=TOLERANCE)
    assert len(recorder.dual("0").keys) == 16
    assert len(recorder.dual("2").keys) == 20


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", ["interleaved", "joined"])
def test_layers_of_the_projects_transformer(tied: bool, tokens: str) -> None:
    """Also those that take no call of their own: queries, keys and values of the fused attention."""
    sizes: dict[str, Any] = {"dim": 3, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2}
    model = InContextRegressor(tokens=tokens, tied=tied, **sizes).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    with DualRecorder(model).attach(optimizer) as recorder:
        for _ in range(10):
            x = torch.randn(4, 6, 3, dtype=torch.float64)
            y = x.sum(-1)
            optimizer.zero_grad()
            (model(x, y)[..., 0] - y).square().mean().backward()
            optimizer.step()
    modules = dict(model.named_modules())
    assert {"blocks.0.attention.qkv", "blocks.0.attention.out", "blocks.0.mlp.2", "readout"} <= set(
        recorder.layers
    )
    for name, layer in recorder.layers.items():
        dual = recorder.dual(name)
        assert layer in modules.values()
        torch.testing.assert_close(dual.weight, layer.weight.detach(), rtol=0, atol=TOLERANCE)


def test_float32() -> None:
    model = mlp().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    with DualRecorder(model).attach(optimizer) as recorder:
        for _ in range(300):
            optimizer.zero_grad()
            x = torch.randn(8, 5)
            (model(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(recorder.dual("0").weight, model[0].weight.detach(), rtol=0, atol=1e-5)


# What it is for


def two_tasks() -> tuple[DualRecorder, nn.Linear]:
    """A layer that learned examples 0 to 3, one input coordinate each, over several epochs."""
    layer = nn.Linear(4, 2, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
    recorder = DualRecorder(layer).attach(optimizer)
    targets = torch.tensor([[3.0, 0], [0, 2], [-1, 0], [0, 0]], dtype=torch.float64)
    for epoch in range(30):
        for examples in ([0, 1], [2, 3]) if epoch % 2 else ([3, 1], [0, 2]):
            recorder.label(torch.tensor(examples))
            optimizer.zero_grad()
            (layer(torch.eye(4, dtype=torch.float64)[examples]) - targets[examples]).square().sum().backward()
            optimizer.step()
    return recorder, layer


def test_a_prediction_attends_to_the_examples_that_taught_it() -> None:
    recorder, layer = two_tasks()
    dual = recorder.dual("")
    for example in range(4):
        query = torch.eye(4, dtype=torch.float64)[example]
        names, attention = dual.by_example(dual.attention(query))
        assert names.tolist() == [0, 1, 2, 3]
        assert attention.nonzero().flatten().tolist() == [example]
        assert set(dual.top(query, 5).examples.tolist()) == {example}
        (moved,) = (dual.initial - layer.weight.detach())[:, example].norm().reshape(1)
        assert moved > 0
    up = torch.tensor([1.0, 0.0], dtype=torch.float64)
    query = torch.tensor([1.0, 1, 1, 1], dtype=torch.float64)
    _, share = dual.by_example(dual.contributions(query, up))
    assert int(share.argmax()) == 0  # target 3 along the first output
    assert int(dual.top(query, 1, up).examples) == 0
    torch.testing.assert_close(
        share.sum() + dual.initial[0] @ query, layer(query)[0].detach(), rtol=0, atol=TOLERANCE
    )
    scores = dual.top(query, 200).scores
    assert len(scores) == 120
    assert (scores.diff() <= 0).all()


# Refusals


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (torch.optim.Adam, "root of running squares"),
        (torch.optim.AdamW, "root of running squares"),
        (torch.optim.RMSprop, "root of running squares"),
        (torch.optim.Rprop, "signs"),
        (Muon, "singular values"),
    ],
)
def test_optimisers_that_are_not_linear_are_refused(kind: Any, reason: str) -> None:
    model = mlp()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    with pytest.raises(UserError, match=rf"^{kind.__name__} has no dual form: .*{reason}.*torch\.optim\.SGD"):
        DualRecorder(model).attach(kind(matrices, lr=1e-3))


OPTIMISERS = [
    kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
]


@pytest.mark.parametrize("kind", [k for k in OPTIMISERS if k not in (torch.optim.SGD, torch.optim.Optimizer)])
def test_every_other_optimiser_of_torch_is_refused_with_its_own_reason(kind: Any) -> None:
    model = nn.Linear(3, 2, bias=False)
    with pytest.raises(UserError, match=rf"^{kind.__name__} has no dual form: (?!its updates are not known)"):
        DualRecorder(model).attach(kind(model.parameters(), lr=1e-3))


def test_optimisers_that_nobody_knows_are_refused_too() -> None:
    class Signed(torch.optim.SGD):
        """Changes what SGD does, for all that is known."""

    model = mlp()
    with pytest.raises(UserError, match=r"^Signed has no dual form: its updates are not known to be linear"):
        DualRecorder(model).attach(Signed(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match=r"^Sequential has no dual form"):
        DualRecorder(model).attach(model)  # pyright: ignore[reportArgumentType]


def test_layers_of_the_transformer_that_do_not_exist_are_answered_with_the_nearest() -> None:
    model = InContextRegressor(dim=3, width=16, layers=2, heads=2)
    with pytest.raises(UserError, match=r"unknown linear layer 'blocks.1.attention.kqv'; did you mean"):
        DualRecorder(model, ["readout", "blocks.1.attention.kqv"])
    assert set(DualRecorder(model, "blocks.*.mlp.0").layers) == {"blocks.0.mlp.0", "blocks.1.mlp.0"}


def test_other_mistakes_are_refused_in_one_line() -> None:
    model = mlp()
    with pytest.raises(UserError, match=r"unknown linear layer '00'; did you mean '0'\? \(accepted: 0, 2\)"):
        DualRecorder(model, "00")
    with pytest.raises(UserError, match="only these have duals"):
        DualRecorder(nn.Tanh())
    with pytest.raises(UserError, match="does not train the weight of layer '2'"):
        DualRecorder(model).attach(torch.optim.SGD(model[0].parameters(), lr=0.1))
    recorder = DualRecorder(model, ["0"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="no update of layer '0'"):
        recorder.dual("0")
    with recorder.attach(optimizer):
        with pytest.raises(UserError, match="attached already"):
            recorder.attach(optimizer)
        with pytest.raises(UserError, match="unknown recorded layer '2'"):
            recorder.dual("2")
        with pytest.raises(UserError, match="closure"):
            optimizer.step(lambda: 0.0)
        recorder.label(torch.arange(3))
        with pytest.raises(UserError, match="8 examples and labels of shape"):
            train(model, optimizer, 1)
        recorder.label(None)
        optimizer.zero_grad()
        train(model, optimizer, 2)
        dual = recorder.dual("0")
    for call in (dual.attention, dual.top):
        with pytest.raises(UserError, match="queries must be inputs of the layer"):
            call(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(UserError, match="direction must be"):
        dual.contributions(torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(UserError, match="count of at least 1"):
        dual.top(torch.zeros(5, dtype=torch.float64), 0)


@pytest.mark.parametrize("mistake", ["penalty", "clipped by value", "dropped", "shared"])
def test_gradients_that_did_not_pass_the_layer_are_refused(mistake: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 5, dtype=torch.float64)
    before = model[2].weight.detach().clone()
    with DualRecorder(model, "2").attach(optimizer):
        loss = model(x).square().sum()
        if mistake == "penalty":
            loss = loss + 0.1 * model[2].weight.abs().sum()
        if mistake == "shared":
            loss = loss + (model[0](x) @ model[2].weight.mT).square().sum()
        loss.backward()
        if mistake == "clipped by value":
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
        if mistake == "dropped":
            optimizer.zero_grad()
            model(-x).square().sum().backward()
        with pytest.raises(UserError, match="not the sum of what passed"):
            optimizer.step()
    assert torch.equal(model[2].weight, before)


def test_weights_changed_by_hand_are_refused() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with DualRecorder(model).attach(optimizer) as recorder:
        train(model, optimizer, 3)
        with torch.no_grad():
            model[0].weight.clamp_(-0.1, 0.1)
    with pytest.raises(UserError, match="something else changed it"):
        recorder.dual("0")
