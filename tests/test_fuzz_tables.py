"""A short fuzz of tables; `make fuzz` runs a long one."""

from __future__ import annotations

import pytest
from tests.fuzz import tables


def test_altered_tables_are_read_or_refused_in_one_line() -> None:
    found = tables.run(300, seed=0)
    assert not found
    assert found.trials == 300


def test_the_fuzz_sees_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(path: object, **options: object) -> None:
        raise KeyError(path)

    monkeypatch.setattr(tables, "read_table", wrong)
    assert len(tables.run(5, seed=0)) == 5
