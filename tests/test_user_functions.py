"""Users' functions other than energies: hooks, watchers and features are checked where they come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclkit.energy import EnergyTransformer
from iclkit.errors import UserError
from iclkit.learners import OnFeatures, Ridge
from iclkit.training import train

X = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda value: value.mean(), r"given \[\] of torch.float32"),
        (lambda value: value[:1], r"given \[1, 6, 8\]"),
        (lambda value: value.long(), "torch.int64"),
        (lambda value: value.numpy(), "given ndarray"),
        (lambda value: 0.0, "given float"),
    ],
)
def test_hooks_put_back_what_would_broadcast(function: Callable[[Tensor], Any], words: str) -> None:
    network = EnergyTransformer(2, 8, 1, 2, base_std=1.0).requires_grad_(False)
    with network.hooks({"blocks.0.residual": function}), pytest.raises(UserError, match=words):
        network.energies(X)
    with network.hooks({"blocks.0.residual": lambda value: 2 * value}):
        assert network.energies(X).shape == (3, 6)


WATCHED: dict[str, tuple[Any, str]] = {
    "no mapping": (lambda step, network: 3.0, "a mapping from names to numbers, given float"),
    "a name of the run": (lambda step, network: {"loss": 1.0}, "'loss', which is a metric of the run"),
    "no name": (lambda step, network: {3: 1.0}, "given 3, which is no text"),
    "no number": (lambda step, network: {"mine": "high"}, "given str for 'mine'"),
    "an object": (lambda step, network: {"mine": network}, "for 'mine'"),
    "no function": ("mine", r"watch must be a function of \(step, network\), given str"),
}


@pytest.mark.parametrize("name", WATCHED)
def test_watchers_return_numbers_by_name(name: str, tmp_path: Path) -> None:
    watch, words = WATCHED[name]
    with pytest.raises(UserError, match=words):
        train("energy-tiny", tmp_path / "run", steps=1, progress=False, watch=watch)


def test_watchers_may_return_tensors_and_arrays(tmp_path: Path) -> None:
    def watch(step: int, network: Any) -> dict[str, Any]:
        return {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": torch.arange(2), "d": [1, 2.5], "e": True}

    train("energy-tiny", tmp_path / "run", steps=1, progress=False, watch=watch)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert [line[name] for name in "abcde"] == [0.5, 0.25, [0, 1], [1, 2.5], True]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (lambda x: x.sum(), "given \\[\\] of torch.float32"),
        (lambda x: x.flatten(1), r"\[3, 6, 'F'\] for points \[3, 6, 2\]"),
        (lambda x: x.numpy(), "given ndarray"),
        (lambda x: x > 0, "torch.bool"),
        (lambda x: x - x.mean(1, keepdim=True), "change with the points beside it"),
        (lambda x: x / x.std(), "change with the points beside it"),
    ],
)
def test_features_are_rows_of_numbers_for_each_point(features: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        OnFeatures(Ridge(0.1), features).predict(X, X[..., 0])
    assert OnFeatures(Ridge(0.1), lambda x: torch.cat([x, x**2], -1)).predict(X, X[..., 0]).shape == (3, 6)
