"""A bare import is cheap, and leaves optional and heavy packages alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import iclkit

SCRIPT = """
import json, sys, time
import torch
start = time.perf_counter()
import iclkit
seconds = time.perf_counter() - start
heavy = ("scipy", "sklearn", "matplotlib", "pandas", "tyro", "rich", "tensorboard")
print(json.dumps([seconds, [name for name in heavy if name in sys.modules]]))
"""


def test_bare_import_is_cheap() -> None:
    """0.3 s over `import torch`; the best of three, since other processes can only make it slower."""
    seconds = []
    for _ in range(3):
        child = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
        spent, heavy = json.loads(child.stdout)
        assert heavy == []
        seconds.append(spent)
        if spent < 0.3:
            break
    assert min(seconds) < 0.3


def test_training_and_learners_need_no_extras() -> None:
    script = SCRIPT.replace("import iclkit\n", "import iclkit.training, iclkit.learners, iclkit.energy\n")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, heavy = json.loads(child.stdout)
    assert set(heavy) <= {"tyro", "rich"}


def test_public_names() -> None:
    assert callable(iclkit.load)
    assert iclkit.training.train
    assert iclkit.tasks.GaussianMixtures
    assert {"load", "training", "learners"} <= set(dir(iclkit))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = iclkit.lode
