"""What holds for every test: one thread, fixed seeds, and no change of global state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

# Tests run side by side; torch's own threads would fight over the same cores, and one thread sums in one order.
torch.set_num_threads(1)


def _settings() -> dict[str, object]:
    """Every process-wide setting that a library could be tempted to change."""
    settings: dict[str, object] = {
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.get_default_device": torch.get_default_device(),
        "torch.get_num_threads": torch.get_num_threads(),
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled": torch.is_inference_mode_enabled(),
        "torch.is_anomaly_enabled": torch.is_anomaly_enabled(),
        "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "np.geterr": np.geterr(),
    }
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is not None:
        settings["matplotlib.rcParams"] = dict(matplotlib.rcParams)
    return settings


def _generators() -> dict[str, object]:
    """The states of the global random generators."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global generator is what is watched
    assert isinstance(numpy_state, dict)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]),
    }


@pytest.fixture(autouse=True)
def global_settings() -> Iterator[None]:
    """Fails a test after which a process-wide setting differs; matplotlib's may appear with its import."""
    before = _settings()
    yield
    after = _settings()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device("cpu")
        torch.set_num_threads(1)
    assert not changed, f"the test changed {', '.join(changed)}"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Networks that a test initialises from the global generator do not depend on the tests before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def untouched_generators() -> Iterator[None]:
    """Fails a test that draws from a global generator: everything random takes a generator of its own.

    Networks must be built before this fixture is set up, that is, in a fixture that is requested earlier.
    """
    before = _generators()
    yield
    after = _generators()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test drew from the global generator of {', '.join(changed)}"


@pytest.fixture
def told_in_one_line(capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str], str], None]:
    """Checks that a command line is a mistake: exit code 2, and one line on stderr alone, with a message."""
    from iclkit.cli import main

    def check(arguments: Sequence[str], message: str) -> None:
        assert main([*arguments]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert not said.out

    return check
