"""Model folders and run folders, altered: JSON, weights, and what stands in the place of files."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

import iclkit
from iclkit.errors import UserError
from iclkit.regression.objectives import MixtureLikelihood
from iclkit.tasks import LinearRegression
from iclkit.training import (
    Curriculum,
    EnergyConfig,
    Recipe,
    RegressorConfig,
    export,
    files,
    recipe_named,
    train,
)
from iclkit.training import checkpoint as checkpoints
from iclkit.training.models import recipe_of

from . import Findings

Generator = np.random.Generator

_hooked: list[bool] = []
_armed: list[bool] = []
_executed: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _armed and event in _CODE:
        _executed.append(f"{event} {arguments!r}"[:200])


def run(count: int, seed: int) -> Findings:
    """Load, export or resume so many altered folders."""
    found = Findings()
    generator = np.random.default_rng(seed)
    if not _hooked:  # such a hook stays for the life of the process
        sys.addaudithook(_watch)
        _hooked.append(True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        originals = _originals(place / "originals")
        victim = place / "victim"
        for trial in range(count):
            recipe, source, is_run = originals[int(generator.integers(len(originals)))]
            folder = place / "altered"
            shutil.copytree(source, folder)
            victim.write_text("kept")
            told = _alter(folder, generator, victim)
            act = _RUN[int(generator.integers(len(_RUN)))] if is_run else _use_model
            _armed.append(True)
            with found.trial(f"{trial} ({told}, {act.__name__})", UserError):
                act(folder, recipe)
            _armed.clear()
            if victim.read_text() != "kept" or (place / "made").exists():
                found.append(f"{trial} ({told}): wrote outside of the folder")
                (place / "made").unlink(missing_ok=True)
            found.extend(f"{trial} ({told}): executed {what}" for what in _executed)
            _executed.clear()
            shutil.rmtree(folder)
            shutil.rmtree(place / "out", ignore_errors=True)
    return found


# What would run code that a file brings; annotations of our own classes are compiled as well.
_CODE = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}


def _originals(place: Path) -> list[tuple[Recipe, Path, bool]]:
    """Small models and runs of every kind: the recipe, the folder, and whether it is a run."""
    tiny = EnergyConfig(dim=1, width=8, layers=1, heads=2, max_points=8, features=4, base_std=1.0)
    energy = dataclasses.replace(recipe_named("energy-tiny"), network=tiny, steps=2, episodes=4, ema=0.9)
    regressor = RegressorConfig(dim=2, width=8, layers=2, heads=2, max_points=8, tokens="joined", components=2)
    regression = dataclasses.replace(
        recipe_named("general"),
        task=LinearRegression(2),
        objective=MixtureLikelihood(),
        network=regressor,
        points=8,
        episodes=4,
        steps=2,
        standardise=False,
        curriculum=Curriculum(dim=1, points=4),
    )
    tokens = recipe_named("copying")
    tokens = dataclasses.replace(
        tokens, steps=2, episodes=4, network=dataclasses.replace(tokens.network, width=8, heads=2, layers=1)
    )
    found = []
    for i, recipe in enumerate((energy, regression, tokens)):
        run = train(recipe, place / f"run-{i}", progress=False, stop_after=1)
        model = export(run, place / f"model-{i}")
        (model / "card.md").write_text("# A card\n")
        found += [(recipe, run, True), (recipe, model, False)]
    return found


# What is done with a folder


def _use_model(folder: Path, recipe: Recipe) -> None:
    _use(iclkit.load(folder), recipe)
    recipe_of(folder)


def _load_run(folder: Path, recipe: Recipe) -> None:
    _use(iclkit.load(folder), recipe)


def _export(folder: Path, recipe: Recipe) -> None:
    export(folder, folder.with_name("out"))


def _resume(folder: Path, recipe: Recipe) -> None:
    train(recipe, folder, resume=True, progress=False)


_RUN = (_load_run, _export, _resume)


def _use(learner: Any, recipe: Recipe) -> None:
    if recipe.kind == "energy":
        learner.condition(torch.zeros(3, learner.dim)).energy(torch.zeros(2, learner.dim))
    elif recipe.kind == "regression":
        learner.predict(torch.ones(1, 3, learner.network.dim), torch.ones(1, 3))
    else:
        learner.predict(torch.zeros(1, 2, dtype=torch.long))


# What is done to it


def _alter(folder: Path, generator: Generator, victim: Path) -> str:
    """Alter a folder; what was done, in words."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    path = paths[int(generator.integers(len(paths)))]
    if path.suffix == ".json" and generator.random() < 0.8:
        told = _alter_json(path, generator)
    elif path.suffix == ".safetensors" and generator.random() < 0.8:
        told = _alter_tensors(path, generator)
    else:
        told = _choice(_FILES, generator)(path, generator, victim)
    return f"{path.relative_to(folder)}: {told}"


def _choice(options: Any, generator: Generator) -> Any:
    return options[int(generator.integers(len(options)))]


def _values(generator: Generator) -> Any:
    nested: Any = 1
    for _ in range(int(generator.integers(1, 300))):
        nested = [nested] if generator.random() < 0.5 else {"a": nested}
    return _choice(
        [
            None, True, False, 0, 1, -1, 2, 3, 10**9, -(10**9), 2**31, 2**63, 10**40, 0.5, -0.5, 1e300, 5e-324,
            float("nan"), float("inf"), "", "x", "1", "../x", "\x1b[31m\u202e", "\ud800", "a" * 10**5,
            [], {}, [1], ["x"], [[1, 2], None], {"type": "x"}, {"type": ["x"]}, {"a": 1}, list(range(2000)),
            nested,
        ],
        generator,
    )  # fmt: skip


def _alter_json(path: Path, generator: Generator) -> str:
    data = json.loads(path.read_bytes())
    spots = _spots(data)
    holder, key = _choice(spots, generator)
    how = int(generator.integers(5))
    if how == 0:
        del holder[key]
        told = f"without {key!r}"
    elif how == 1:
        other, name = _choice(spots, generator)
        holder[key] = copy.deepcopy(other[name])
        told = f"{key!r} as {name!r}"
    elif how == 2 and isinstance(holder, dict):
        holder[str(_values(generator))[:50]] = _values(generator)
        told = f"more beside {key!r}"
    elif how == 3 and isinstance(holder, dict):
        text = json.dumps(data)
        path.write_text(text[:-1] + f", {json.dumps(next(iter(data)))}: {json.dumps(_values(generator))}}}")
        return "a name twice"
    else:
        holder[key] = _values(generator)
        told = f"{key!r} is {holder[key]!r:.40}"
    if "digest" in data and generator.random() < 0.5:
        data["digest"] = checkpoints._digest(data) if _plain(data) else ""
        told += " (digest)"
    path.write_text(json.dumps(data))
    return told


def _plain(data: Any) -> bool:
    try:
        json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict)


def _spots(data: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON data: what holds it, and its key there."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [spot for key in keys for spot in ((data, key), *_spots(data[key]))]


def _alter_tensors(path: Path, generator: Generator) -> str:
    how = int(generator.integers(8))
    content = bytearray(path.read_bytes())
    if how == 0:
        content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
        told = "a flipped bit"
    elif how == 1:
        del content[int(generator.integers(len(content))) :]
        told = "cut off"
    elif how == 2:
        content[int(generator.integers(min(200, len(content))))] = int(generator.integers(256))
        told = "another byte in the header"
    elif how == 3:
        content[:8] = int(generator.integers(2**62)).to_bytes(8, "little")
        told = "another length of the header"
    else:
        tensors = load_file(path)
        told = _choice(_TENSORS, generator)(tensors, generator) if tensors else "as it was"
        content = bytearray(save({name: value.contiguous() for name, value in tensors.items()}))
    path.write_bytes(content)
    if generator.random() < 0.8:
        _correct_digest(path)
        told += " (digest)"
    return told


def _name(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    return str(_choice(sorted(tensors), generator))


def _not_finite(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    name = _name(tensors, generator)
    if tensors[name].is_floating_point():
        tensors[name] = torch.full_like(
            tensors[name], float(_choice([float("nan"), float("inf"), 1e38], generator))
        )
    return f"{name} not finite"


def _typed(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    dtype = _choice(
        [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.uint8], generator
    )
    names = list(tensors) if generator.random() < 0.5 else [_name(tensors, generator)]
    tensors.update({name: tensors[name].to(dtype) for name in names})
    return f"{len(names)} tensors of {dtype}"


def _shaped(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    name = _name(tensors, generator)
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (7, 3), (2**16,), (*tensors[name].shape, 1)]
    tensors[name] = torch.zeros(_choice(shapes, generator), dtype=tensors[name].dtype)
    return f"{name} of shape {list(tensors[name].shape)}"


def _dropped(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    name = _name(tensors, generator)
    del tensors[name]
    return f"without {name}"


def _added(tensors: dict[str, torch.Tensor], generator: Generator) -> str:
    tensors[
        str(_choice(["x", "0.0.x", "9.9.9", "a:b", "\x1b[31m", "0.999999999999999999999.x"], generator))
    ] = torch.ones(2)
    return "one more"


_TENSORS: list[Callable[[dict[str, torch.Tensor], Generator], str]] = [
    _not_finite,
    _typed,
    _shaped,
    _dropped,
    _added,
]


def _correct_digest(path: Path) -> None:
    """Let the description beside a file hold the digest of what it is now."""
    digest = files.digest(path.read_bytes())
    if (path.parent / "state.json").exists():
        data = json.loads((path.parent / "state.json").read_bytes())
        data["sha256"][path.name] = digest
        data["digest"] = checkpoints._digest(data)
        (path.parent / "state.json").write_text(json.dumps(data))
    else:
        data = json.loads((path.parent / "model.json").read_bytes())
        (path.parent / "model.json").write_text(json.dumps({**data, "sha256": digest}))


def _bytes(path: Path, generator: Generator, victim: Path) -> str:
    content = bytearray(path.read_bytes()) or bytearray(b"x")
    for _ in range(int(generator.integers(1, 4))):
        content[int(generator.integers(len(content)))] = int(generator.integers(256))
    path.write_bytes(content)
    return "other bytes"


def _cut(path: Path, generator: Generator, victim: Path) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: int(generator.integers(len(content) + 1))])
    return "cut off"


def _missing(path: Path, generator: Generator, victim: Path) -> str:
    path.unlink()
    return "missing"


def _nested(path: Path, generator: Generator, victim: Path) -> str:
    path.write_text(str(_choice(["[", '{"a":', '[{"":'], generator)) * int(generator.integers(10, 200_000)))
    return "nested"


def _link(path: Path, generator: Generator, victim: Path) -> str:
    target = _choice(
        [victim, victim.with_name("made"), "/dev/zero", "/dev/null", path, path.parent, "/proc/kcore"],
        generator,
    )
    path.unlink()
    path.symlink_to(target)
    return f"a link to {target}"


def _pipe(path: Path, generator: Generator, victim: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "a pipe"


def _directory(path: Path, generator: Generator, victim: Path) -> str:
    path.unlink()
    path.mkdir()
    return "a folder"


def _long(path: Path, generator: Generator, victim: Path) -> str:
    with path.open("ab") as file:
        file.truncate(int(generator.integers(1 << 24, 1 << 28)))
    return "long, with zeros"


_FILES = [_bytes, _cut, _missing, _nested, _link, _pipe, _directory, _long]
