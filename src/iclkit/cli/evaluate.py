"""`iclkit evaluate`: a model against what is fitted to the same rows, on data sets that scikit-learn offers."""

from __future__ import annotations

from iclkit.cli.parser import Parser, check_seed
from iclkit.errors import UserError

_MODEL = "energy-2d"
_MOST = {"splits": 10_000, "held_out": 1_000_000, "orders": 256}


def run(argv: list[str]) -> None:
    parser = Parser(
        "evaluate",
        "A model on real data, with intervals of the paired differences. Densities: held-out log-likelihood "
        "next to cross-validated kernel density estimates and mixtures chosen by BIC. Regression: held-out R² "
        "and log-likelihood next to ridge, neighbours, a forest and a Gaussian process.",
    )
    parser.add_argument(
        "--model", default=_MODEL, help=f"model by name, its folder or a run (default: {_MODEL})"
    )
    parser.add_argument("--splits", type=int, help="random splits of each data set (default: 30)")
    parser.add_argument("--held-out", type=int, help="rows scored in each split (default: 60)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="context sizes (default: 8 16 32 64; regression: 16 32 64)"
    )
    parser.add_argument("--pairs", nargs="+", help="data sets for densities (default: all six)")
    parser.add_argument("--tables", nargs="+", help="data sets for regression (default: all eight)")
    parser.add_argument("--seed", type=int, help="seed of the splits (default: 0)")
    parser.add_argument("--orders", type=int, help="regression: orders of the context to average (default: 4)")
    given = parser.parse(argv)  # mistakes are told here, in one line
    for name, most in _MOST.items():
        value = getattr(given, name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{name.replace('_', '-')} must lie in 1..{most}, given {value}")
    if given.seed is not None:
        check_seed(given.seed)

    from iclkit.learners.trained_regression import TrainedRegressor
    from iclkit.training.models import load

    regression = isinstance(load(given.model), TrainedRegressor)
    if regression and given.pairs:
        raise UserError(f"{given.model} is a model of regression: choose data sets by --tables, not --pairs")
    if not regression and given.tables:
        raise UserError(f"{given.model} is a model of densities: choose data sets by --pairs, not --tables")
    if not regression and given.orders is not None:
        raise UserError(f"{given.model} is a model of densities: --orders is for regression")
    if regression:
        from iclkit.analysis.real_regression import main
    else:
        from iclkit.analysis.real_data import main
    main(argv)
