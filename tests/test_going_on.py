"""Runs that are stopped, go on, or grow; and what is set around a call, which reaches none of their weights."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import iclkit
from iclkit.cli import main
from iclkit.cli.signals import stopping
from iclkit.errors import UserError
from iclkit.training import Recipe, Schedule, Trainer, checkpoint, export, recipe_named, train
from test_ambient import AROUND


def recipe(steps: int = 6, **changes: object) -> Recipe:
    return dataclasses.replace(
        recipe_named("energy-tiny"), steps=steps, log_every=2, checkpoint_every=4, **changes
    )


def constant(steps: int) -> Recipe:
    return recipe(steps, schedule=Schedule(shape="constant", warmup=0.0))


def final(run: Path) -> dict[str, dict[str, Tensor]]:
    return checkpoint.load(checkpoint.found(run)[-1]).tensors


def assert_same(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> None:
    assert a.keys() == b.keys()
    for kind, group in a.items():
        assert group.keys() == b[kind].keys()
        for name, value in group.items():
            assert value.dtype == b[kind][name].dtype, name
            assert torch.equal(value, b[kind][name]), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(), tmp_path_factory.mktemp("plain") / "run", progress=False)


@pytest.mark.parametrize("name", AROUND)
def test_training_does_not_depend_on_what_stands_around_it(name: str, plain: Path, tmp_path: Path) -> None:
    """Nor does resuming, exporting or loading: each half of a run in other surroundings, bit for bit."""
    with AROUND[name]():
        assert_same(final(train(recipe(), tmp_path / "whole", progress=False)), final(plain))
        train(recipe(), tmp_path / "half", progress=False, stop_after=3)
        model = export(plain, tmp_path / "model")
        learner = iclkit.load(model)
        assert not any(p.is_inference() or p.is_meta for p in learner.network.parameters())
    train(recipe(), tmp_path / "half", progress=False, resume=True)
    assert_same(final(tmp_path / "half"), final(plain))
    context = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    expected = iclkit.load(plain).condition(context).score(context)
    assert torch.equal(learner.condition(context).score(context), expected)


def test_a_trainer_does_not_either() -> None:
    expected = Trainer(recipe())
    expected.update()
    for around in AROUND.values():
        with around():
            found = Trainer(recipe())
            found.update()
        for name, value in found.weights().items():
            assert torch.equal(value, expected.weights()[name]), name


def test_threads_train_as_one_does(plain: Path, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=train, args=(recipe(), tmp_path / str(i)), kwargs={"progress": False})
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert_same(final(tmp_path / str(i)), final(plain))


# Growing


def test_a_run_of_a_constant_rate_grows_and_equals_one_that_was_long_from_the_start(tmp_path: Path) -> None:
    whole = train(constant(8), tmp_path / "whole", progress=False)
    run = train(constant(4), tmp_path / "run", progress=False)
    train(constant(4), run, resume=True, steps=8, progress=False)
    assert_same(final(run), final(whole))
    assert Recipe.from_json((run / "recipe.json").read_text()) == constant(8)
    assert iclkit.load(run).name == "energy-tiny"


@pytest.mark.parametrize(
    "schedule", [Schedule(), Schedule(shape="cosine"), Schedule(shape="constant", warmup=1.0)]
)
def test_a_run_whose_rate_would_have_been_another_does_not_grow(tmp_path: Path, schedule: Schedule) -> None:
    run = train(recipe(4, schedule=schedule), tmp_path / "run", progress=False, stop_after=2)
    before = (run / "recipe.json").read_bytes()
    with pytest.raises(UserError, match=r"its steps is 4, yours 8.*--start .*--steps 8"):
        train(recipe(8, schedule=schedule), run, resume=True, progress=False)
    assert (run / "recipe.json").read_bytes() == before


def test_a_run_does_not_shrink(tmp_path: Path) -> None:
    run = train(constant(8), tmp_path / "run", progress=False, stop_after=2)
    with pytest.raises(UserError, match="its steps is 8, yours 4"):
        train(constant(4), run, resume=True, progress=False)


# Stopping


def test_a_run_that_is_told_to_stop_writes_a_checkpoint(plain: Path, tmp_path: Path) -> None:
    updates: list[int] = []

    def stop() -> bool:
        updates.append(1)
        return len(updates) == 3

    run = train(recipe(), tmp_path / "run", progress=False, stop=stop)
    assert [path.name for path in checkpoint.found(run)] == ["step-00000003"]
    train(recipe(), run, resume=True, progress=False)
    assert_same(final(run), final(plain))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    command = [
        "train",
        "energy-tiny",
        "--steps",
        "1000000",
        "--out",
        "a run",
        "--network.width",
        "8",
        "--quiet",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "iclkit", *command],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background makes them, and their children, deaf to interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "a run" / "metrics.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in err
    [last] = checkpoint.found(tmp_path / "a run")
    told = next(line for line in err.splitlines() if f"stopped by {number.name}; {Path('a run')}" in line)
    assert last.name in told
    again = shlex.split(told.partition("go on by: iclkit ")[2])
    assert again == [*command, "--resume"]
    monkeypatch.chdir(tmp_path)
    assert main([*again, "--stop-after", str(int(last.name[5:]) + 1)]) == 0


def test_handlers_are_put_back_and_a_second_signal_does_what_it_did() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    own = signal.getsignal(signal.SIGTERM)
    try:
        with stopping() as stopped:
            assert not stopped()
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stopped(), stopped.name, stopped.code, seen) == (True, "SIGTERM", 143, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
        with stopping():
            pass
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_no_handler_is_set() -> None:
    found: list[bool] = []

    def other() -> None:
        with stopping() as stopped:
            found.append(stopped())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [False]
