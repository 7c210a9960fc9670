"""Every speed figure of the energy models, one table each: what `make bench` runs."""

from __future__ import annotations

import subprocess
import sys

# Each in a process of its own, so that none inherits another's threads or warm caches.
MODULES = ("benchmarks.published_step", "benchmarks.scoring")


def main() -> None:
    for module in MODULES:
        subprocess.run([sys.executable, "-m", module], check=True)


if __name__ == "__main__":
    main()
