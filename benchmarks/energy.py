"""Every speed figure of the energy models, one table each: what `make bench` runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

MODULES = ("benchmarks.published_step", "benchmarks.scoring", "benchmarks.busy")


def run(modules: Sequence[str]) -> None:
    """Run benchmarks one after another, each in a process of its own: none inherits threads or warm caches."""
    for module in modules:
        print(f"\npython -m {module}", flush=True)
        subprocess.run([sys.executable, "-m", module], check=True)


def main() -> None:
    run(MODULES)


if __name__ == "__main__":
    main()
