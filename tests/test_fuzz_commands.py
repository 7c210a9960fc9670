"""A short fuzz of command lines; `make fuzz` runs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz import commands

from iclkit.cli import recipes


def test_altered_command_lines_end_in_one_line() -> None:
    found = commands.run(50, seed=0)
    assert not found
    assert found.trials == 50


def test_the_fuzz_sees_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault, an escape sequence and an unfinished file are found."""
    monkeypatch.setattr(commands, "COMMANDS", {"recipes": "recipes energy-tiny"})
    usual = recipes.run

    def wrong(argv: list[str]) -> None:
        if "--help" in argv or argv == ["energy-tiny"]:
            usual(argv)
            return
        print("\x1b[2J")
        Path(".partial-x").touch()
        raise KeyError("fault")

    monkeypatch.setattr(recipes, "run", wrong)
    found = commands.run(12, seed=0)
    for words in ("exit code 1", "escape sequences", "left ['.partial-x']"):
        assert any(words in line for line in found)
