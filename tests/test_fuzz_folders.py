"""A short fuzz of model folders and run folders; `make fuzz` runs a long one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz import folders

from iclkit.training import files


def test_altered_folders_are_used_or_refused_in_a_line() -> None:
    found = folders.run(100, seed=1)
    assert found.trials == 100
    assert not found, "\n".join(found)


def test_the_fuzz_sees_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(path: Path, missing: str | None = None) -> Any:
        return json.loads(path.read_bytes()) if path.is_file() else {}

    monkeypatch.setattr(files, "read_json", trusting)
    assert folders.run(60, seed=1)
