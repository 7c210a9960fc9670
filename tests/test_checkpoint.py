"""Checkpoints and model folders: whole or not there, exact, and refused when anything about them is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import iclkit
from iclkit.errors import UserError
from iclkit.training import RECIPES, checkpoint, export, files, models, train
from iclkit.training.checkpoint import Checkpoint


def some(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "weights": {"a": torch.randn(3, 2, generator=generator), "b": torch.randn((), generator=generator)},
        "objective": {},
        "optimizer": {"a:seen": torch.tensor([True, False]), "a:step": torch.tensor(float(step))},
    }
    return Checkpoint(step, {"processes": 1, "sums": {"loss": 0.1}, "seconds": 2.5}, tensors)


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert a.step == b.step
    assert a.tensors.keys() == b.tensors.keys()
    for name, group in a.tensors.items():
        assert group.keys() == b.tensors[name].keys()
        assert all(torch.equal(value, b.tensors[name][key]) for key, value in group.items())
        assert all(value.dtype == b.tensors[name][key].dtype for key, value in group.items())


def test_checkpoints_come_back_exactly(tmp_path: Path) -> None:
    loaded = checkpoint.load(checkpoint.save(tmp_path, some(7)))
    assert_equal(loaded, some(7))
    assert loaded.info["sums"] == {"loss": 0.1}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (3, 10, 9_999, 12_345_678):
        checkpoint.save(tmp_path, some(step))
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00009999", "step-12345678"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


class Crash(BaseException):
    """The power goes: nothing after it runs."""


@pytest.mark.parametrize("call", ["fsync", "rename", "rmtree", "mkdir"])
def test_a_crash_at_any_call_leaves_whole_checkpoints_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Crash before or after the n-th call of a kind, for every n: the newest checkpoint is whole."""
    owner: object = {"rmtree": shutil, "mkdir": Path}.get(call, os)
    original: Callable[..., object] = getattr(owner, call)
    crashes = 0
    for late in (False, True):
        for moment in range(100):
            run = tmp_path / f"{late}-{moment}"
            for step in (1, 2):
                checkpoint.save(run, some(step))
            seen = 0

            def crashing(*args: object, late: bool = late, moment: int = moment, **kwargs: object) -> object:
                nonlocal seen
                seen += 1
                if seen == moment + 1 and not late:
                    raise Crash
                result = original(*args, **kwargs)
                if seen == moment + 1:
                    raise Crash
                return result

            with monkeypatch.context() as patch:
                patch.setattr(owner, call, crashing)
                try:
                    checkpoint.save(run, some(3))
                    crashed = False
                except Crash:
                    crashed = True
            last = checkpoint.load(checkpoint.found(run)[-1])
            assert_equal(last, some(3 if last.step == 3 else 2))
            for path in checkpoint.found(run):
                checkpoint.load(path)
            if not crashed:
                assert last.step == 3
                break
            crashes += 1
            # What was left unfinished is swept away, and the next attempt goes through.
            files.sweep(run / "checkpoints")
            assert {path.name[:5] for path in (run / "checkpoints").iterdir()} == {"step-"}
            if last.step == 2:
                checkpoint.save(run, some(3))
            assert checkpoint.load(checkpoint.found(run)[-1]).step == 3
    assert crashes >= 2


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    files.write_file(path, b"old")

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    files.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


# What can be wrong with a file


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = checkpoint.save(tmp_path, some(1))
    damage(path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors does not match its recorded SHA-256"):
        checkpoint.load(path)
    damage(path / "state.json")
    if damage is not flip_a_bit:
        with pytest.raises(UserError, match=r"state\.json is not valid JSON"):
            checkpoint.load(path)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, some(1))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "version": 2}))
    with pytest.raises(UserError, match="checkpoint version 2, this iclkit reads version 1"):
        checkpoint.load(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("energy-tiny", tmp_path_factory.mktemp("run") / "run", steps=3, progress=False)


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    return export(run, tmp_path / "model")


def test_an_exported_model_is_the_average_of_its_run(run: Path, model: Path) -> None:
    average = checkpoint.load(checkpoint.found(run)[-1]).tensors["average"]
    for place in (model, run, str(model)):
        loaded = iclkit.load(place)
        weights = dict(loaded.network.named_parameters())
        assert weights.keys() == average.keys()
        assert all(torch.equal(weights[name], value) for name, value in average.items())
        assert not any(value.requires_grad for value in weights.values())
        assert loaded.task == RECIPES["energy-tiny"]().task
        assert (loaded.name, loaded.standardise, loaded.limit) == ("energy-tiny", False, 8)
    description = json.loads((model / "model.json").read_text())
    assert description["training"]["steps"] == 3
    assert description["training"]["starts"][0]["packages"]["torch"] == torch.__version__
    assert {path.name for path in model.iterdir()} == {"model.json", "model.safetensors"}


def test_loading_draws_nothing(model: Path) -> None:
    before = torch.get_rng_state()
    iclkit.load(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_are_not_overwritten_by_accident(run: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists"):
        export(run, model)
    export(run, model, name="renamed", overwrite=True)
    assert iclkit.load(model).name == "renamed"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="already exists"):
        export(run, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_damaged_models_are_refused(model: Path, damage: Callable[[Path], None]) -> None:
    damage(model / "model.safetensors")
    with pytest.raises(UserError, match="truncated or altered") as caught:
        iclkit.load(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "model format 2, this iclkit reads format 1"),
        ({"kind": "regression"}, "kind 'regression'"),
        ({"task": {"type": "GaussianMixture"}}, "did you mean 'GaussianMixtures'"),
        ({"standardise": "no"}, "standardise must be of type bool"),
        ({"sha256": "0" * 64}, "truncated or altered"),
    ],
)
def test_descriptions_that_are_wrong_are_refused(model: Path, changes: dict[str, object], message: str) -> None:
    path = model / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        iclkit.load(model)


@pytest.mark.parametrize("field", ["width", "layers", "mlp_ratio", "features"])
def test_weights_of_another_shape_are_refused(model: Path, field: str) -> None:
    path = model / "model.json"
    description = json.loads(path.read_text())
    description["network"][field] = 2 * description["network"][field] + 2
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="do not belong together"):
        iclkit.load(model)


def test_an_absurd_description_costs_no_memory(model: Path) -> None:
    path = model / "model.json"
    description = json.loads(path.read_text())
    description["network"]["width"] = 2_000_000
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="do not belong together"):
        iclkit.load(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_files_are_named(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        iclkit.load(model)


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "shipped", lambda: {"energy-2d": tmp_path, "energy-mixtures": tmp_path})
    with pytest.raises(UserError, match=r"unknown model 'energy2d'; did you mean 'energy-2d'\?"):
        iclkit.load("energy2d")
    with pytest.raises(UserError, match="there is no folder"):
        iclkit.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds neither a model \(model\.json\) nor a run"):
        iclkit.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        iclkit.load(tmp_path / "file")


def test_a_run_without_a_checkpoint_has_no_model(run: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    shutil.copy(run / "recipe.json", young)
    with pytest.raises(UserError, match="no checkpoint yet"):
        iclkit.load(young)
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path / "elsewhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(models.shipped()))
def test_shipped_models_load_and_are_small(name: str) -> None:
    folder = models.shipped()[name]
    learner = iclkit.load(name)
    assert learner.name == name
    assert learner.card, "write its card"
    # The limit of a shipped model: 5 MB, so that the wheel stays small.
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
