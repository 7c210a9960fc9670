"""Recipes, batches, optimisers, and whole runs: resumed, killed, shared, stopped by a bad number."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from iclkit.energy import objectives
from iclkit.energy.network import EnergyTransformer
from iclkit.energy.objectives import ContrastiveDivergence, Objective, PersistentDivergence
from iclkit.errors import UserError
from iclkit.tasks import BroadMixtures, FinitePool, GaussianMixtures, Mixtures
from iclkit.training import (
    RECIPES,
    EnergyConfig,
    OptimizerConfig,
    Recipe,
    Schedule,
    Trainer,
    TrainingError,
    checkpoint,
    draw_batch,
    recipe_named,
    seeds,
    train,
)
from iclkit.training.distributed import World
from iclkit.training.models import load
from iclkit.training.muon import Muon, orthogonalise
from iclkit.training.optimizers import Optimizers
from iclkit.training.run import _lines_until
from iclkit.training.trainer import _move


def tiny(**changes: Any) -> Recipe:
    """A run of a second, with every kind of state: averaged weights, Muon and Adam, persistent chains."""
    network = EnergyConfig(dim=1, width=8, layers=1, heads=2, max_points=6, base_std=2.0)
    settings = {
        "objective": PersistentDivergence(negatives=2, steps=2, start=4.0, reuse=3.0),
        "network": network,
        "episodes": 4,
        "accumulate": 2,
        "points": 5,
        "steps": 12,
        "checkpoint_every": 5,
        "log_every": 3,
    }
    return dataclasses.replace(RECIPES["energy-tiny"](), **{**settings, **changes})


def final_tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.load(checkpoint.found(run)[-1]).tensors


def assert_same(a: dict[str, dict[str, torch.Tensor]], b: dict[str, dict[str, torch.Tensor]]) -> None:
    """Bit for bit, every tensor of every file."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key in a[name]:
            assert torch.equal(a[name][key], b[name][key]), f"{name}: {key}"


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    recipe = recipe_named(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_published_recipe_is_the_published_one() -> None:
    recipe = recipe_named("energy-published")
    network, optimizer = recipe.network, recipe.optimizer
    assert recipe.task == FinitePool(GaussianMixtures(3, 2, 5.0, 0.33), 1000)
    assert recipe.objective == ContrastiveDivergence(3, 15, 3.16, 0.01, 15.0, 1e-3)
    assert (network.layers, network.width, network.heads) == (6, 128, 8)
    assert (network.features, network.base_std) == (0, None)
    assert (optimizer.name, optimizer.rate, optimizer.weight_decay) == ("adam", 1e-3, 1e-5)
    assert (optimizer.eps, optimizer.clip) == (1e-4, 0.1)
    assert (recipe.episodes, recipe.accumulate, recipe.points, recipe.steps) == (32, 2, 40, 1250)
    assert all(recipe.schedule.factor(step, 1250) == 1 for step in (0, 1, 600, 1249))


def test_network_config_mirrors_the_network() -> None:
    arguments = inspect.signature(EnergyTransformer).parameters
    fields = {field.name: field.default for field in dataclasses.fields(EnergyConfig)}
    assert fields == {name: argument.default for name, argument in arguments.items()}


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'energy-tiny'"):
        recipe_named("energy-tinny")
    data = recipe_named("energy-tiny").to_dict()
    with pytest.raises(UserError, match="did you mean 'episodes'"):
        Recipe.from_dict({**data, "episode": 3})
    with pytest.raises(UserError, match="did you mean 'BinaryNCE'"):
        Recipe.from_dict({**data, "objective": {**data["objective"], "type": "BinaryNSE"}})
    with pytest.raises(UserError, match=r"recipe\.steps must be of type int, given 'many'"):
        Recipe.from_dict({**data, "steps": "many"})
    with pytest.raises(UserError, match="not valid JSON"):
        Recipe.from_json(recipe_named("energy-tiny").to_json()[:-20])


@pytest.mark.parametrize(
    "changes", [{"points": 8}, {"steps": 0}, {"ema": 1.0}, {"network": EnergyConfig(dim=2)}, {"episodes": 0}]
)
def test_recipes_that_cannot_run_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        tiny(**changes)


@dataclass(frozen=True)
class Stranger(GaussianMixtures):
    """A task that is not registered."""


def test_tasks_that_are_not_registered_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Stranger is not registered"):
        train(tiny(task=Stranger(dim=1)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_schedule() -> None:
    """Warm-up over 10%, level until 50%, then down to a tenth: values by hand."""
    linear = Schedule(warmup=0.1, decay=0.5, shape="linear", final=0.1)
    values = [linear.factor(step, 100) for step in (0, 4, 9, 30, 50, 75, 100)]
    assert values == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.55, 0.1])
    cosine = dataclasses.replace(linear, shape="cosine", final=0.0)
    assert cosine.factor(75, 100) == pytest.approx(0.5)
    assert dataclasses.replace(linear, shape="constant").factor(99, 100) == 1
    # Fractions: the same course in a run of another length.
    assert linear.factor(750, 1000) == pytest.approx(linear.factor(75, 100))


# Seeds and batches


def test_seeds_are_pinned_and_distinct() -> None:
    # A golden value: a change of the hash would silently make every recorded seed mean another batch.
    assert seeds.batch_seed(0, 1, 2) == 7347127451114827032
    drawn = {seeds.batch_seed(s, step, slot) for s in range(5) for step in range(40) for slot in range(5)}
    assert len(drawn) == 5 * 40 * 5


@dataclass(frozen=True)
class Recorder(Objective):
    """Remembers the batches it saw; the loss turns to NaN at one of them, or its gradient to infinity."""

    bad_call: int = -1
    gradient_only: bool = False
    seen = []  # noqa: RUF012 - shared by design: the member is frozen

    def __call__(self, network: Any, episodes: Any, generator: Any, state: Any) -> Any:
        self.seen.append(episodes.x)
        loss = network.energies(episodes.x).mean() ** 2
        if len(self.seen) - 1 == self.bad_call:
            if self.gradient_only:
                # sqrt(0) has a finite value and an infinite slope.
                loss = loss + (0 * next(network.parameters()).sum() + torch.zeros(())).abs().sqrt()
            else:
                loss = loss * math.nan
        return loss, {}, state


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(objectives.OBJECTIVES, "Recorder", Recorder)
    monkeypatch.setattr(Recorder, "seen", [])
    return Recorder


def test_batches_are_a_function_of_seed_step_and_slot(recorder: type[Recorder]) -> None:
    recipe = tiny(objective=recorder())
    trainer = Trainer(recipe)
    for _ in range(3):
        trainer.update()
    expected = [draw_batch(recipe, step, slot).x for step in range(3) for slot in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(recorder.seen, expected, strict=True))
    assert len({float(x.sum()) for x in expected}) == 6
    other = dataclasses.replace(recipe, seed=1)
    assert not torch.equal(draw_batch(other, 0).x, expected[0])
    assert draw_batch(recipe, 0, processes=2).x.shape == (2, 5, 1)


def test_batches_move_with_their_laws() -> None:
    """The meta device stands for an accelerator, which the test machine may lack."""
    for task in (GaussianMixtures(), BroadMixtures()):
        moved = _move(task.draw(2, 3, torch.Generator().manual_seed(0)), torch.device("meta"))
        assert moved.x.device.type == "meta"
        assert isinstance(moved.law, Mixtures)
        assert moved.law.log_prob(moved.x).device.type == "meta"


def test_initial_weights_follow_the_seed_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (EnergyConfig(width=8, heads=2, layers=1).build(seed) for seed in (0, 0, 1))
    Trainer(tiny()).update()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.embedding.linear.weight, b.embedding.linear.weight)
    assert not torch.equal(a.embedding.linear.weight, c.embedding.linear.weight)


# Optimisers


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalise_keeps_directions_and_levels_singular_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    levelled = torch.diagonal(u.mT @ result @ v.mT, dim1=-2, dim2=-1)
    # The quintic's own range on [1e-3, 1] after five rounds; the smallest singular value here is 0.01 relative.
    assert levelled.min() > 0.5
    assert levelled.max() < 1.3
    # Nothing outside the singular directions; 1e-4 is float32 rounding through 15 products.
    assert (u @ torch.diag_embed(levelled) @ v - result).abs().max() < 1e-4


def test_muon_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in [(8, 24), (24, 8), (8, 8), (8, 24)]]
    ours = [torch.nn.Parameter(value.clone()) for value in start]
    theirs = [torch.nn.Parameter(value.clone()) for value in start]
    mine = Muon(ours, lr=0.02, momentum=0.9, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, origin in zip(ours, theirs, start, strict=True):
        # Theirs orthogonalises in bfloat16 (8 bits): 3% of the distance moved.
        assert (a - b).norm() < 0.03 * (a - origin).norm()
        assert (a - origin).norm() > 0.1


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_every_parameter_is_updated_once(name: str) -> None:
    """At zero momentum and equal gradients the first Adam step moves each weight by the rate, and no more."""
    network = EnergyConfig(dim=1, width=8, heads=2, layers=2, positions="learned").build()
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    optimizers = Optimizers(network, OptimizerConfig(name=name, rate=0.01))  # pyright: ignore[reportArgumentType]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(0.5)
    for key, value in network.named_parameters():
        moved = before[key] - value.detach()
        if name == "muon" and ".blocks." in key and value.ndim == 2:
            assert moved.abs().max() > 0
        else:
            # 1e-6: float32 rounding of weights of size one.
            assert torch.allclose(moved, torch.full_like(moved, 0.005), atol=1e-6), key
    named = {key.partition(":")[0] for key in optimizers.tensors()}
    assert named == set(before)


def test_weight_decay_spares_what_is_no_matrix() -> None:
    network = EnergyConfig(dim=1, width=8, heads=2, layers=1).build()
    with torch.no_grad():
        network.readout.bias.fill_(1.0)
    weight = network.readout.weight.detach().clone()
    optimizers = Optimizers(network, OptimizerConfig(name="adamw", rate=0.1, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(1.0)
    assert torch.allclose(network.readout.weight, weight * (1 - 0.1 * 0.5))
    assert network.readout.bias.item() == 1.0


def test_clipping_limits_the_gradient() -> None:
    recipe = tiny(optimizer=OptimizerConfig(name="adam", clip=1e-3))
    trainer = Trainer(recipe)
    reported = trainer.update()["gradient_norm"]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.network.parameters() if p.grad is not None])
    assert reported > 1e-3
    # torch adds 1e-6 to the norm before dividing, so the clipped one falls short by up to 0.1% here.
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_average_of_the_weights() -> None:
    trainer = Trainer(tiny(ema=0.5))
    assert trainer.average is not None
    name = "readout.weight"
    expected = trainer.network.get_parameter(name).detach().clone()
    for step in range(3):
        trainer.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.network.get_parameter(name).detach()
    assert torch.allclose(trainer.average[name], expected)
    assert trainer.weights()[name] is trainer.average[name]


# Runs


def test_training_learns(tmp_path: Path) -> None:
    """Late losses lie 0.1 nats below early ones: about ten standard errors of their means."""
    run = train("energy-tiny", tmp_path / "run", progress=False)
    losses = [line["loss"] for line in metrics(run)]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.1


def test_run_folder_and_metrics(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "a" / "run", progress=False)
    assert Recipe.from_json((run / "recipe.json").read_text()) == tiny()
    assert [path.name for path in checkpoint.found(run)] == ["step-00000010", "step-00000012"]
    assert [line["step"] for line in metrics(run)] == [3, 6, 9, 12]
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    assert start["packages"]["torch"] == torch.__version__
    assert socket.gethostname() not in (run / "environment.json").read_text().split('"')
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert suffixes == {".json", ".jsonl", ".safetensors"}


def test_metrics_are_means_between_lines(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", progress=False)
    trainer = Trainer(tiny())
    losses = [trainer.update()["loss"] for _ in range(12)]
    expected = [sum(losses[i : i + 3]) / 3 for i in range(0, 12, 3)]
    assert [line["loss"] for line in metrics(run)] == expected


@pytest.mark.parametrize("first", [1, 5, 7, 11])
def test_resumed_equals_uninterrupted(tmp_path: Path, first: int) -> None:
    whole = train(tiny(), tmp_path / "whole", progress=False)
    parts = train(tiny(), tmp_path / "parts", progress=False, stop_after=first)
    # As if it had gone on a little after the checkpoint, up to the middle of a line.
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 1.0}\n{"step": 1')
    train(tiny(), parts, resume=True, progress=False)
    assert_same(final_tensors(whole), final_tensors(parts))
    timeless = [
        [{key: value for key, value in line.items() if "second" not in key} for line in metrics(run)]
        for run in (whole, parts)
    ]
    assert timeless[0] == timeless[1]
    # A finished run stays as it is.
    train(tiny(), parts, resume=True, progress=False)
    assert metrics(parts)[-1]["step"] == 12


def test_resume_where_nothing_is_begins(tmp_path: Path) -> None:
    run = train(tiny(steps=2), tmp_path / "run", resume=True, progress=False)
    assert checkpoint.found(run)


CHILD = """
import sys, torch
torch.set_num_threads(1)
from iclkit.training import Recipe, train
train(Recipe.from_json(open(sys.argv[1]).read()), sys.argv[2], resume=True, progress=False)
"""


def _child(*arguments: object, **variables: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def _step_reached(run: Path) -> int:
    found = checkpoint.found(run)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def test_killed_at_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    """SIGKILL, three times, each at a random moment after the run has got further; then left to finish.

    A checkpoint is written at every other update, so kills fall into writing as well as into computing.
    """
    recipe = tiny(steps=150, checkpoint_every=2, log_every=3)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    killed, chance = tmp_path / "killed", random.Random(0)
    reached = 0
    for _ in range(3):
        child = _child(tmp_path / "recipe.json", killed)
        # In steps, not seconds: the same moments on fast and slow machines, but for the last few milliseconds.
        reached += chance.randrange(2, 30)
        deadline = time.monotonic() + 60
        while _step_reached(killed) < reached and time.monotonic() < deadline:
            assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL, "the run ended before it could be killed; make it longer"
        reached = _step_reached(killed)
    child = _child(tmp_path / "recipe.json", killed)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors.decode()

    whole = train(recipe, tmp_path / "whole", progress=False)
    assert_same(final_tensors(whole), final_tensors(killed))
    assert [line["step"] for line in metrics(killed)] == list(range(3, 151, 3))
    assert not [path for path in killed.rglob("*") if path.name.startswith(".partial-")]


@pytest.mark.parametrize("field", ["sums", "seconds", "sha256"])
def test_a_checkpoint_that_was_altered_is_refused(tmp_path: Path, field: str) -> None:
    run = train(tiny(), tmp_path / "run", progress=False, stop_after=2)
    path = checkpoint.found(run)[-1] / "state.json"
    state = json.loads(path.read_text())
    if field == "sha256":
        del state[field]["weights.safetensors"]
    else:
        del state[field]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="step-00000002"):
        train(tiny(), run, resume=True, progress=False)
    # Deleting it, as the message says, starts over here.
    shutil.rmtree(path.parent)
    train(tiny(), run, resume=True, progress=False, stop_after=3)


def test_other_runs_are_refused(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", progress=False, stop_after=2)
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny(), run, progress=False)
    with pytest.raises(UserError, match=r"optimizer\.rate is 0\.005, yours 0\.1"):
        train(tiny(optimizer=OptimizerConfig(name="muon", rate=0.1)), run, resume=True, progress=False)
    with pytest.raises(UserError, match="its steps is 12, yours 24"):
        train(tiny(), run, resume=True, steps=24, progress=False)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no run"):
        train(tiny(), stranger, resume=True, progress=False)
    with pytest.raises(UserError, match="is a file"):
        train(tiny(), stranger / "thesis.txt", progress=False)
    assert [path.name for path in stranger.iterdir()] == ["thesis.txt"]


def test_a_run_in_progress_is_not_entered(tmp_path: Path) -> None:
    from iclkit.training.run import _locked

    run = train(tiny(), tmp_path / "run", progress=False, stop_after=2)
    with _locked(run / ".lock"), pytest.raises(UserError, match="another process is training"):
        train(tiny(), run, resume=True, progress=False)
    train(tiny(), run, resume=True, progress=False, stop_after=3)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_numbers_that_are_not_finite_stop_the_run(
    tmp_path: Path, recorder: type[Recorder], gradient_only: bool
) -> None:
    # Two micro-batches a step: call 15 is the second of step 7; the last checkpoint before is of step 5.
    recipe = tiny(objective=recorder(bad_call=15, gradient_only=gradient_only))
    with pytest.raises(TrainingError) as caught:
        train(recipe, tmp_path / "run", progress=False)
    message = str(caught.value)
    assert message.startswith("step 7: ")
    assert str(seeds.batch_seed(0, 7, 1)) in message
    assert "step-00000005" in message
    assert "\n" not in message
    assert ("loss = nan" in message) != gradient_only
    assert "gradient norm = " in message
    assert torch.equal(recorder.seen[-1], draw_batch(recipe, 7, 1).x)
    assert [path.name for path in checkpoint.found(tmp_path / "run")] == ["step-00000005"]


def test_a_bad_step_leaves_the_weights_alone(recorder: type[Recorder]) -> None:
    trainer = Trainer(tiny(objective=recorder(bad_call=0)))
    before = [value.detach().clone() for value in trainer.network.parameters()]
    with pytest.raises(TrainingError):
        trainer.update()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


def test_lines_until() -> None:
    content = b'{"step": 2}\n{"step": 4}\n{"step": 6}\n{"ste'
    assert _lines_until(content, 4) == b'{"step": 2}\n{"step": 4}\n'
    assert _lines_until(content, 9) == b'{"step": 2}\n{"step": 4}\n{"step": 6}\n'
    assert _lines_until(b"", 9) == b""


def test_progress_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny(), tmp_path / "run")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("energy-tiny: step 12/12  loss ")
    assert "steps/s" in last
    assert last.endswith("0:00 left")


# Many processes


def _free_port() -> str:
    """A port that nobody has, below those that systems give to outgoing connections at any time."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return str(port)
    raise RuntimeError("no free port in 100 tries")


def test_two_processes_equal_one_that_accumulates(tmp_path: Path) -> None:
    """Two processes that share 8 episodes see the micro-batches of one that accumulates two of 4."""
    shared = tiny(episodes=8, accumulate=1, steps=6, checkpoint_every=4)
    (tmp_path / "recipe.json").write_text(shared.to_json())
    port = _free_port()
    members = [
        _child(
            tmp_path / "recipe.json",
            tmp_path / "two",
            WORLD_SIZE="2",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    for member in members:
        _, errors = member.communicate(timeout=120)
        assert member.returncode == 0, errors.decode()
    one = train(tiny(episodes=4, accumulate=2, steps=6, checkpoint_every=4), tmp_path / "one", progress=False)
    ours, theirs = final_tensors(one), final_tensors(tmp_path / "two")
    for name, value in ours["weights"].items():
        # Sums in another order: 1e-7 in the gradients, which Adam's division by their size amplifies.
        assert torch.allclose(value, theirs["weights"][name], atol=1e-4), name
    # The states of the second micro-batch are those of the second process.
    expected = {f"{rank}.0.{key}" for rank in range(2) for key in ("contexts", "chains")}
    assert set(theirs["objective"]) == expected
    for key in ("contexts", "chains"):
        for slot in range(2):
            a, b = ours["objective"][f"0.{slot}.{key}"], theirs["objective"][f"{slot}.0.{key}"]
            assert torch.allclose(a, b, atol=1e-3)
    assert [line["step"] for line in metrics(tmp_path / "two")] == [3, 6]
    with pytest.raises(UserError, match="trained by 2 processes"):
        train(shared, tmp_path / "two", resume=True, progress=False)


def test_episodes_must_be_shared_equally() -> None:
    with pytest.raises(UserError, match="cannot be shared equally by 3"):
        Trainer(tiny(), World(0, 3, torch.device("cpu")))


def test_a_run_starts_from_the_weights_it_names(tmp_path):
    recipe = dataclasses.replace(recipe_named("energy-tiny"), steps=2)
    first = train(recipe, tmp_path / "first", progress=False)
    weights = load(first).network.state_dict()
    following = Trainer(dataclasses.replace(recipe, start=str(first), seed=5))
    for name, value in following.network.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    wider = dataclasses.replace(recipe.network, width=32)
    with pytest.raises(UserError, match="another shape"):
        Trainer(dataclasses.replace(recipe, start=str(first), network=wider))
