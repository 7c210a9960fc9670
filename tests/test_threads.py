"""The guard that keeps small calls to one of torch's threads, and leaves the number as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import iclkit
from iclkit.threads import SMALL, one_thread, small

# In a process of its own: the tests run with one thread, and torch keeps a number for each thread that used it.
_IN_A_PROCESS = """
import threading, torch, iclkit
from iclkit.threads import one_thread
torch.set_num_threads(3)
seen, after, entered = [], [], threading.Barrier(8)
density = iclkit.load("energy-2d", "energy")

def work(index):
    for _ in range(20):
        with one_thread():
            if _ == 0:
                entered.wait()  # all eight are inside at once
            seen.append(torch.get_num_threads())
            with one_thread():
                seen.append(torch.get_num_threads())
            seen.append(torch.get_num_threads())
    density.condition(torch.randn(5, 2)).log_partition()
    after.append(torch.get_num_threads())

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert set(seen) == {1}, set(seen)
assert after == [3] * 8, after
assert torch.get_num_threads() == 3
fresh = []
thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
thread.start(); thread.join()
assert fresh == [3], fresh
"""


def test_eight_threads_at_once_leave_the_number_as_it_was() -> None:
    ran = subprocess.run([sys.executable, "-c", _IN_A_PROCESS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
class TestInOneThread:
    def test_an_exception_puts_the_number_back(self) -> None:
        def fail() -> None:
            with one_thread():
                raise ValueError(f"with {torch.get_num_threads()} thread")

        with pytest.raises(ValueError, match="with 1 thread"):
            fail()
        assert torch.get_num_threads() == 2

    def test_large_calls_keep_their_threads(self) -> None:
        with one_thread(where=small(SMALL + 1, torch.device("cpu"))):
            assert torch.get_num_threads() == 2
        with one_thread(where=small(SMALL, torch.device("cpu"))):
            assert torch.get_num_threads() == 1
        assert not small(1, torch.device("meta"))

    def test_small_calls_of_models_run_with_one(self) -> None:
        counts: list[int] = []
        density, regression = iclkit.load("energy-2d", "energy"), iclkit.load("general", "regression")

        def count(value: torch.Tensor) -> None:
            counts.append(torch.get_num_threads())

        x = torch.randn(1, 6, 2)
        with density.network.hooks({"blocks.0.residual": count}):
            landscape = density.condition(x[0])
            landscape.energy(x[0])
            landscape.score(x[0])
            landscape.log_partition()
        with regression.network.hooks({"blocks.0.residual": count}):
            regression.predict(x, x.sum(-1))
            regression.predict_queries(x, x.sum(-1), x[:, None], [6])
        assert counts
        assert set(counts) == {1}
        assert torch.get_num_threads() == 2


def test_one_thread_stays_one() -> None:
    assert torch.get_num_threads() == 1
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1
