"""`iclkit evaluate`: a model against classical density estimates, on the data sets of scikit-learn."""

from __future__ import annotations

from iclkit.cli.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser(
        "evaluate",
        "Held-out log-likelihood of a model on real data, next to cross-validated kernel density estimates and "
        "mixtures chosen by BIC, with intervals of the paired difference.",
    )
    parser.add_argument("--model", help="model by name, its folder or a run (default: energy-2d)")
    parser.add_argument("--splits", type=int, help="random splits of each data set (default: 30)")
    parser.add_argument("--held-out", type=int, help="points scored in each split (default: 60)")
    parser.add_argument("--sizes", type=int, nargs="+", help="context sizes (default: 8 16 32 64)")
    parser.add_argument("--pairs", nargs="+", help="data sets (default: all six)")
    parser.add_argument("--seed", type=int, help="seed of the splits (default: 0)")
    parser.parse(argv)  # mistakes are told here, in one line

    from iclkit.analysis.real_data import main

    main(argv)
