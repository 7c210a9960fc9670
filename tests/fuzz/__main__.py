"""`python -m tests.fuzz MODULE ...`: run modules of altered inputs and say what was found."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from . import BYTES, SECONDS, Findings

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("module", choices=MODULES, help="what is altered")
    parser.add_argument("--count", type=int, default=5000, help="trials (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the alterations (default: 0)")
    given = parser.parse_args()
    start = time.perf_counter()
    found: Findings = importlib.import_module(f".{given.module}", __package__).run(given.count, given.seed)
    for failure in found:
        print(failure)
    seconds = time.perf_counter() - start
    print(
        f"{given.module}: {found.trials:,} trials, {len(found)} failures in {seconds:.0f} s; "
        f"slowest {found.slowest[0]:.2f} s ({found.slowest[1]}), at most {SECONDS:g} are accepted; "
        f"most memory {found.largest[0] / 2**20:.0f} MiB ({found.largest[1]}), at most {BYTES / 2**20:.0f}"
    )
    return 1 if found or found.trials < given.count else 0


if __name__ == "__main__":
    raise SystemExit(main())
