"""Every figure of regression, one table each: what `make bench-regression` runs on one thread; takes long."""

from __future__ import annotations

from benchmarks.energy import run

# The quick ones first.
MODULES = (
    "benchmarks.regression",
    "benchmarks.lasso",
    "benchmarks.regression_step",
    "benchmarks.attention_limit",
    "benchmarks.time_to_bayes",
    "benchmarks.identify",
)


def main() -> None:
    run(MODULES)


if __name__ == "__main__":
    main()
