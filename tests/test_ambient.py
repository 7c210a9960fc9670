"""What is set around a call does not reach into it: each case gives bit for bit what a fresh process gives."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iclkit import ambient


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
}


def work() -> dict[str, Tensor]:
    """One of everything whose type is left to torch, and of what has a type of its own."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.arange(1, 5)
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(4, 3, generator=generator)
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    return {
        "zeros": torch.zeros(2),
        "ones": torch.ones(2, 2),
        "eye": torch.eye(2),
        "rand": torch.rand(3, generator=generator),
        "normal": torch.normal(0.0, 1.0, (3,), generator=generator),
        "linspace": torch.linspace(0, 1, 7),
        "arange": torch.arange(3),
        "steps": torch.arange(0.0, 1.0, 0.3),
        "full": torch.full((2,), 0.1),
        "full of integers": torch.full((2,), 3),
        "numbers": torch.tensor([[0.1, 1 / 3], [2.0, 1e-9]]),
        "integers": torch.tensor([1, 2]),
        "array": torch.tensor(np.array([0.1, 0.2])),
        "numpy's numbers": torch.tensor([np.float64(0.1)]),
        "shared": torch.from_numpy(np.array([0.1])),
        "double": x.double() + 1 / 3,
        "to double": whole.to(torch.float64) / 3,
        "quotient": whole / 3,
        "reversed": 1 / whole,
        "logarithm": whole.log(),
        "root": whole.sqrt() * 0.1,
        "product": whole * 0.1,
        "power": 0.1**whole,
        "boolean": (whole > 2) * 0.3,
        "where": torch.where(whole > 2, 0.1, 0.2),
        "mixed": torch.where(whole > 2, x[:, 0], 0.2),
        "float": (whole > 2).float().mean(),
        "layer": layer.weight.detach(),
        "gradient": layer.weight.grad,
        "matrix": (x @ x.T).softmax(-1),
    }


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return work()


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_changes_no_bit(name: str, plain: dict[str, Tensor]) -> None:
    with AROUND[name](), ambient.neutral(grad=True):
        found = work()
    for case, expected in plain.items():
        assert found[case].dtype == expected.dtype, case
        assert found[case].device == expected.device, case
        assert not found[case].is_inference(), case
        assert torch.equal(found[case], expected), case


@pytest.mark.parametrize("name", AROUND)
def test_all_is_as_before_after_a_failure_too(name: str) -> None:
    with AROUND[name]():
        before = _state()
        with contextlib.suppress(KeyError), ambient.neutral(grad=True):
            raise KeyError
        assert _state() == before
        with ambient.neutral(grad=False):
            assert not torch.is_grad_enabled()
        assert _state() == before


def _state() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


def test_gradients_are_the_callers_choice_unless_asked_for() -> None:
    with ambient.neutral():
        assert torch.is_grad_enabled()
    with torch.no_grad(), ambient.neutral():
        assert not torch.is_grad_enabled()
    with torch.inference_mode(), ambient.neutral():
        assert not torch.is_grad_enabled()
        assert not torch.zeros(2).is_inference()


def test_other_threads_see_nothing_of_it() -> None:
    inside, seen = threading.Event(), threading.Event()
    found: list[torch.dtype] = []

    def other() -> None:
        inside.wait(10)
        found.extend([torch.get_default_dtype(), torch.zeros(1).dtype, (torch.arange(3) / 2).dtype])
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    with default_dtype(torch.float64):
        with ambient.neutral():
            inside.set()
            assert seen.wait(10)
            assert torch.zeros(1).dtype == torch.float32
        assert torch.zeros(1).dtype == torch.float64
    thread.join()
    assert found == [torch.float64] * 3
