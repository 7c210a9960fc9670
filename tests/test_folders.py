"""Model folders and run folders from anywhere: refused in one line, or what they were."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import iclkit
from iclkit import disk
from iclkit.cli import main
from iclkit.errors import UserError
from iclkit.training import checkpoint, export, files, train
from small_models import save_small_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("energy-tiny", tmp_path_factory.mktemp("run") / "run", steps=3, progress=False)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    return export(run, tmp_path / "model")


def rewrite(model: Path, **network: Any) -> None:
    path = model / "model.json"
    data = json.loads(path.read_text())
    data["network"].update(network)
    path.write_text(json.dumps(data))


def reweigh(model: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Other weights with the right digest."""
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors")
    path = model / "model.json"
    data = json.loads(path.read_text())
    data["sha256"] = files.digest((model / "model.safetensors").read_bytes())
    path.write_text(json.dumps(data))


# Reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested too deeply"),
        ('{"format": 1, "format": 1}', "'format' twice"),
        ('{"format": NaN}', "NaN"),
        ('{"format": 1e999}', "not finite"),
        ('{"format": ' + "9" * 10_000 + "}", "more than 64 bits"),
        ('{"format": 1, "name": "\\ud800"}', "no text"),
        ("[1]", "JSON object"),
    ],
)
def test_json_that_is_never_written_is_refused(model: Path, content: str, message: str) -> None:
    (model / "model.json").write_text(content)
    with pytest.raises(UserError, match=message) as told:
        iclkit.load(model)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "value", [1_000_000_000, 10**15, -1, 0, "4", [4], None, {}, 1.5, True], ids=lambda value: repr(value)[:12]
)
@pytest.mark.parametrize("field", ["layers", "width", "heads", "max_points"])
def test_sizes_of_any_kind_are_refused_before_anything_is_built(model: Path, field: str, value: Any) -> None:
    rewrite(model, **{field: value})
    if field == "max_points" and value in (10**9, 10**15):
        assert iclkit.load(model).limit == value  # without learned positions no weight depends on it
        return
    with pytest.raises(UserError):
        iclkit.load(model)


def test_weights_that_are_no_finite_numbers_of_one_type_are_refused(model: Path) -> None:
    def nan(weights: dict[str, Tensor]) -> None:
        weights["readout.weight"][0, 0] = torch.nan

    def whole(weights: dict[str, Tensor]) -> None:
        weights.update({name: value.to(torch.int32) for name, value in weights.items()})

    def mixed(weights: dict[str, Tensor]) -> None:
        weights["readout.weight"] = weights["readout.weight"].double()

    for change, message in ((nan, "NaN or infinite"), (whole, "floating-point"), (mixed, "of one")):
        copy = Path(shutil.copytree(model, model.with_name(change.__name__)))
        reweigh(copy, change)
        with pytest.raises(UserError, match=message):
            iclkit.load(copy)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "card.md"])
def test_links_are_followed_and_pipes_and_devices_are_not(model: Path, name: str) -> None:
    (model / "card.md").write_text("# A card\n")
    path, kept = model / name, model.with_name(name)
    path.rename(kept)
    path.symlink_to(kept)
    assert iclkit.load(model).card == "# A card\n"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe"):
        iclkit.load(model)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a device"):
        iclkit.load(model)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        iclkit.load(model)


def test_folders_of_the_first_version_load(model: Path) -> None:
    """They name no type of network, no padding, and have no fields that came later."""
    path = model / "model.json"
    data = json.loads(path.read_text())
    for name in ("pads", "training"):
        del data[name]
    for name in ("type", "variant"):
        data["network"].pop(name, None)
    path.write_text(json.dumps(data))
    assert iclkit.load(model).name == "energy-tiny"


SYMPY = """
import sys
import torch, iclkit
for name in ("general", "linear", "energy-2d"):
    learner = iclkit.load(name)
    if name == "energy-2d":
        learner.condition(torch.randn(5, 2)).energy(torch.zeros(1, 2))
    else:
        learner.predict(torch.randn(1, 12, learner.dim or 3), torch.randn(1, 12))
    print(name, "sympy" in sys.modules, "torch._dynamo" in sys.modules)
"""


def test_models_load_and_predict_without_sympy() -> None:
    child = subprocess.run([sys.executable, "-c", SYMPY], capture_output=True, text=True, check=True)
    assert child.stdout.splitlines() == [f"{n} False False" for n in ("general", "linear", "energy-2d")]


# Run folders


def test_a_run_writes_through_no_link(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in (".lock", "metrics.jsonl", "environment.json", "recipe.json"):
        copy = Path(shutil.copytree(run, tmp_path / f"run-{name}"))
        for there in (True, False):
            outside.unlink(missing_ok=True)
            if there:
                outside.write_text((copy / name).read_text())
            before = outside.read_bytes() if there else None
            (copy / name).unlink()
            (copy / name).symlink_to(outside)
            with pytest.raises(UserError, match=r"is a link|holds no run|not empty"):
                train("energy-tiny", copy, steps=3, resume=True, progress=False)
            assert (outside.read_bytes() if outside.exists() else None) == before
            shutil.copy(run / name, tmp_path / "fresh")
            (copy / name).unlink()
            shutil.move(tmp_path / "fresh", copy / name)


def test_a_link_in_the_place_of_something_unfinished_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / f"{files.PARTIAL}x").symlink_to(victim)
    (tmp_path / "folder" / f"{files.PARTIAL}y").symlink_to(tmp_path)
    files.write_folder(tmp_path / "folder" / "x", {"a": b"1"})
    files.sweep(tmp_path / "folder")
    assert victim.read_text() == "kept"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("step", 4, "not of its folder"), ("seconds", 1.0, "SHA-256"), ("count", 7, "SHA-256")],
)
def test_a_state_that_was_altered_is_refused(run: Path, field: str, value: Any, message: str) -> None:
    path = checkpoint.found(run)[-1] / "state.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, field: value}))
    for action in (lambda: iclkit.load(run), lambda: train("energy-tiny", run, steps=3, resume=True)):
        with pytest.raises(UserError, match=message):
            action()


def test_a_state_without_digests_of_its_own_is_an_older_one(run: Path) -> None:
    path = checkpoint.found(run)[-1] / "state.json"
    data = json.loads(path.read_text())
    del data["digest"], data["recipe"]
    path.write_text(json.dumps(data))
    assert iclkit.load(run).name == "energy-tiny"
    train("energy-tiny", run, steps=3, resume=True, progress=False)


def test_a_recipe_that_was_altered_is_refused(run: Path) -> None:
    path = run / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ema": None}))
    with pytest.raises(UserError, match="of another recipe"):
        iclkit.load(run)


def test_an_incomplete_line_of_metrics_is_passed_over(run: Path, tmp_path: Path) -> None:
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + b'{"step": 3, "lo')
    folder = export(run, tmp_path / "out")
    described = json.loads((folder / "model.json").read_text())
    assert described["training"]["last_metrics"]["step"] == json.loads(whole.splitlines()[-1])["step"]


# Writing


def full(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["model.safetensors", "model.json"])
def test_a_full_disk_leaves_the_old_model(
    run: Path, model: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    written = files._write
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", lambda path, data: (full if path.name == where else written)(path, data))
        with pytest.raises(OSError, match="No space left") as told:
            export(run, model, overwrite=True)
    assert str(told.value.filename).endswith(str(Path("model") / where))
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert not [path for path in model.parent.iterdir() if path.name.startswith(files.PARTIAL)]


@pytest.mark.parametrize("at_once", [True, False])
def test_export_follows_a_link_and_keeps_it(
    run: Path, model: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("iclkit.training.exchange._at_once", lambda new, old: False)
    link = model.with_name("current")
    link.symlink_to(model.name)
    export(run, link, name="renamed", overwrite=True)
    assert link.is_symlink()
    assert iclkit.load(model).name == iclkit.load(link).name == "renamed"
    assert {path.name for path in model.parent.iterdir()} == {"run", "model", "current"}


def test_what_is_no_part_of_a_model_is_not_lost(run: Path, model: Path) -> None:
    (model / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt besides a model"):
        export(run, model, overwrite=True)
    assert (model / "notes.txt").read_text() == "mine"


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "a.png", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o600)
    link.symlink_to(path)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_through", full)
        with pytest.raises(OSError, match="No space left") as told:
            disk.write_file(path, b"new!")
    assert told.value.filename == str(path)
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"old", 2)
    disk.write_file(link, b"new", follow=True)
    assert (path.read_bytes(), path.stat().st_mode & 0o777, link.is_symlink()) == (b"new", 0o600, True)
    disk.write_file(link, b"mine")
    assert (path.read_bytes(), link.is_symlink()) == (b"new", False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe"):
        disk.write_file(tmp_path / "pipe", b"")


# Commands


def test_a_card_of_the_package_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "energy-2d"]) == 2
    assert "--out FILE" in capsys.readouterr().err


def test_cards_from_elsewhere_are_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_small_model(tmp_path / "model")
    (folder / "card.md").write_text("# \x1b[31mred\x1b[0m <script>x</script> 1 < 2\n")
    assert main(["models", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "&lt;script>" in said
    assert "1 < 2" in said


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "..", "", ".hidden", "a\nb"])
def test_a_recipes_name_does_not_lead_out_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    from iclkit.training import recipe_named

    monkeypatch.chdir(tmp_path)
    data = {**recipe_named("energy-tiny").to_dict(), "name": name, "steps": 1}
    (tmp_path / "r.json").write_text(json.dumps(data))
    assert main(["train", "r.json", "--quiet"]) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
