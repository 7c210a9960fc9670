"""Users' tables, altered."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from iclkit.data import read_table
from iclkit.errors import UserError

from . import Findings


def run(count: int, seed: int) -> Findings:
    """Read so many altered tables."""
    found = Findings()
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for trial in range(count):
            content = bytearray(b"x,y\n1,2\n3,4\n")
            content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
            path.write_bytes(content)
            with found.trial(f"flipped bit {trial}", UserError):
                read_table(path)
    return found
