"""`iclkit regress` and what is behind it: closed forms, explicit loops, and every mistake in one line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from iclkit import cli
from iclkit.analysis import real_regression
from iclkit.analysis.fitted_regressors import FITTED, fit_predict
from iclkit.cli.actions import too_many_rows
from iclkit.conditioned_regression import ConditionedRegression
from iclkit.errors import UserError
from iclkit.learners.trained_regression import TrainedProbabilisticRegressor
from iclkit.training import models
from iclkit.training.models import load
from small_models import LIMIT, SAID, save_small_regressor

Array = NDArray[np.float64]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as the package ships them, small and untrained."""
    folder = tmp_path_factory.mktemp("regressors")
    save_small_regressor(folder / "general", name="general")
    save_small_regressor(folder / "rugged", name="rugged", readout=1.0)
    save_small_regressor(folder / "raw", 2, name="raw", readout=1.0, standardise=False, pads=False)
    save_small_regressor(folder / "numbers", name="numbers", components=0)
    return folder


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which the models above are the shipped ones."""
    monkeypatch.setattr(models, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def table(rows: int = 12, columns: int = 3, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, columns)) * 10.0 ** np.arange(columns) + 100.0
    return x, 5.0 * x[:, 0] + generator.normal(size=rows) - 2000.0


def write_csv(path: str, values: Array, header: str) -> None:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.17g")


def read_csv(text: str) -> tuple[list[str], Array]:
    header, *body = csv.reader(text.splitlines())
    return header, np.array(body, dtype=float)


def said(y: Array) -> tuple[Array, Array, Array]:
    """Weights, means and standard deviations of what the stand-in says behind targets y."""
    weights = np.exp(SAID["logits"]) / np.exp(SAID["logits"]).sum()
    scale = y.std(ddof=1)
    stds = scale * np.sqrt(np.exp(2 * np.array(SAID["log_stds"])) + 1e-6)
    return weights, y.mean() + scale * np.array(SAID["means"]), stds


def normal_cdf(z: Array) -> Array:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()


# The model behind a context


def test_predictions_are_the_closed_form_in_the_data_s_units() -> None:
    x, y = table()
    found = ConditionedRegression(load("general", "regression"), x, y).predict(x[:5] + 1.0)
    weights, means, stds = said(y)
    mean = (weights * means).sum()
    std = np.sqrt((weights * (stds**2 + means**2)).sum() - mean**2)
    # Float32 weights, read in double precision: the constants above have seven digits.
    np.testing.assert_allclose(found.mean, np.full(5, mean), rtol=1e-7)
    np.testing.assert_allclose(found.std, np.full(5, std), rtol=1e-6)
    levels = [0.001, 0.05, 0.5, 0.95]
    quantiles = found.quantiles(levels)
    assert quantiles.shape == (5, 4)
    below = (weights * normal_cdf((quantiles[0][:, None] - means) / stds)).sum(-1)
    np.testing.assert_allclose(below, levels, rtol=1e-5)
    densities = weights * np.exp(-0.5 * ((y[:5, None] - means) / stds) ** 2) / stds / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found.log_density(y[:5]), np.log(densities.sum(-1)), rtol=1e-6)
    draws = found.sample(4000, seed=0)
    assert draws.shape == (5, 4000)
    # 20,000 draws; a mean is off by more than 4.5 standard errors for 7e-6 of seeds.
    assert abs(draws.mean() - mean) < 4.5 * std / np.sqrt(draws.size)
    np.testing.assert_array_equal(found.sample(3, seed=1), found.sample(3, seed=1))


def test_the_network_is_asked_in_standard_units_of_the_context() -> None:
    """Against the network itself, whose inputs are padded by hand."""
    x, y = table()
    points = x[:3] + 0.5
    learner = load("rugged", "regression")
    scale = x.std(0, ddof=1), y.std(ddof=1)
    pad = np.zeros((len(x), 1))
    inputs = [np.hstack([(v - x.mean(0)) / scale[0], pad[: len(v)]]) for v in (x, points)]
    tensors = [torch.tensor(v, dtype=torch.float32)[None] for v in (inputs[0], (y - y.mean()) / scale[1])]
    outputs = learner.network.queries(
        tensors[0], tensors[1], torch.tensor(inputs[1], dtype=torch.float32)[None, None], torch.tensor([len(x)])
    )[0, 0]
    logits, means, _ = outputs.double().numpy().reshape(3, 3, 2).swapaxes(0, 1)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = y.mean() + scale[1] * (weights * means).sum(-1)
    # The network is asked in single precision here.
    found = ConditionedRegression(learner, x, y, orders=1).predict(points)
    np.testing.assert_allclose(found.mean, expected, rtol=0, atol=1e-5 * scale[1])


@pytest.mark.parametrize("model", ["rugged", "raw"])
def test_leaving_one_out_is_a_loop_over_contexts(model: str) -> None:
    x, y = table(9, 2)
    x = x if model == "rugged" else (x - 100) / [1, 10]
    learner = load(model, "regression")
    found = ConditionedRegression(learner, x, y, orders=1).leave_one_out()
    for i in range(len(x)):
        alone = ConditionedRegression(learner, np.delete(x, i, 0), np.delete(y, i), orders=1).predict(x[[i]])
        np.testing.assert_allclose(found.mean[i], alone.mean[0], rtol=1e-9)
        np.testing.assert_allclose(found.std[i], alone.std[0], rtol=1e-9)


def test_a_column_that_varies_in_the_row_left_out_alone_carries_nothing() -> None:
    x, y = table(9, 2)
    x[:, 1] = 7.0
    x[4, 1] = 1e6
    learner = load("rugged", "regression")
    found = ConditionedRegression(learner, x, y, orders=1).leave_one_out()
    without = ConditionedRegression(learner, x[:, :1], y, orders=1).leave_one_out()
    np.testing.assert_allclose(found.mean[4], without.mean[4], rtol=1e-9)


def test_constant_columns_are_left_out() -> None:
    x, y = table()
    points = x[:4].copy()
    learner = load("rugged", "regression")
    expected = ConditionedRegression(learner, x, y).predict(points).mean
    wide, moved = np.insert(x, 1, 3.0, axis=1), np.insert(points, 1, -50.0, axis=1)
    np.testing.assert_array_equal(ConditionedRegression(learner, wide, y).predict(moved).mean, expected)


@pytest.mark.parametrize(("unit", "offset"), [(1e-9, 0.0), (1e12, 1e13), (-1.0, 5.0)])
def test_other_units_of_columns_and_target_change_nothing_else(unit: float, offset: float) -> None:
    x, y = table()
    learner = load("rugged", "regression")
    expected = ConditionedRegression(learner, x, y).predict(x)
    other = abs(unit)
    moved = ConditionedRegression(learner, x * unit + offset, y * other + offset)
    found = moved.predict(x * unit + offset)
    if unit < 0:  # mirrored columns are others to the network
        assert not np.allclose(found.mean, expected.mean + offset)
        return
    # Standard units of data with a large mean have fewer digits.
    np.testing.assert_allclose(found.mean, expected.mean * other + offset, rtol=1e-8)
    np.testing.assert_allclose(found.std, expected.std * other, rtol=1e-6)
    np.testing.assert_allclose(
        found.log_density(y * other + offset), expected.log_density(y) - np.log(other), atol=1e-5
    )


def test_orders_average_densities() -> None:
    """With one column, the orders of the rows alone."""
    x, y = table(6, 1)
    learner = load("rugged", "regression")
    regression = ConditionedRegression(learner, x, y, orders=5, seed=3)
    found = regression.predict(x)
    orders = regression._rows
    assert orders[0].tolist() == list(range(6))
    assert all(sorted(order.tolist()) == list(range(6)) for order in orders)
    each = [ConditionedRegression(learner, x[order], y[order], orders=1).predict(x) for order in orders.numpy()]
    assert np.ptp([p.mean for p in each], axis=0).min() > 1e-3  # this network does care
    np.testing.assert_allclose(found.mean, np.mean([p.mean for p in each], axis=0), rtol=1e-9)
    densities = np.mean([np.exp(p.log_density(y)) for p in each], axis=0)
    np.testing.assert_allclose(found.log_density(y), np.log(densities), rtol=1e-7)


@pytest.mark.parametrize("orders", [2, 4])
def test_the_order_of_the_columns_does_not_matter(orders: int) -> None:
    x, y = table(12)
    x[:, 0] = np.arange(12) % 2  # two columns of zeros and ones, whose kurtosis is the same
    x[:, 1] = np.arange(12) % 4 < 2
    learner, other = load("rugged", "regression"), np.roll(np.arange(x.shape[1]), 1)[::-1]
    found = ConditionedRegression(learner, x, y, orders=orders)
    turned = ConditionedRegression(learner, x[:, other] * [10, 1, 1e-3] + 5, y, orders=orders)
    moved = turned.predict(x[:, other] * [10, 1, 1e-3] + 5)
    np.testing.assert_allclose(moved.mean, found.predict(x).mean, rtol=1e-6)
    np.testing.assert_allclose(turned.leave_one_out().std, found.leave_one_out().std, rtol=1e-6)
    one = [ConditionedRegression(learner, z, y, orders=1).predict(z).mean for z in (x, x[:, other])]
    assert np.abs(one[0] - one[1]).max() > 1e-3, "a network that does not care would test nothing"


def test_longer_contexts_are_drawn_from_in_every_order() -> None:
    x, y = table(40)
    regression = ConditionedRegression(load("rugged", "regression"), x, y, orders=4)
    used = regression._rows[:, : regression._longest]
    assert used.shape == (4, LIMIT)
    assert len({tuple(sorted(order)) for order in used.tolist()}) == 4
    assert np.isfinite(regression.leave_one_out().log_density(y)).all()
    with pytest.warns(UserWarning, match="has 40 rows, rugged was trained on up to 16: nothing is known"):
        longer = ConditionedRegression(load("rugged", "regression"), x, y, allow_longer=True)
    assert not np.allclose(longer.predict(x).mean, regression.predict(x).mean)


def test_many_points_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table()
    points = table(50, seed=1)[0]
    regression = ConditionedRegression(load("rugged", "regression"), x, y, orders=2)
    whole, left = regression.predict(points).mean, regression.leave_one_out().mean
    monkeypatch.setattr("iclkit.conditioned_regression._POINTS", 7)
    monkeypatch.setattr("iclkit.conditioned_regression._PAIRS", 60)
    np.testing.assert_allclose(regression.predict(points).mean, whole, rtol=1e-12)
    np.testing.assert_allclose(regression.leave_one_out().mean, left, rtol=1e-12)


# The command


def test_predict_writes_predictions_of_new_rows(run: Run, workplace: Path) -> None:
    x, y = table()
    write_csv("a.csv", np.column_stack([y, x]), "price,a,b,c")
    new = table(5, seed=1)[0]
    write_csv("new.csv", new[:, ::-1], "c,b,a")  # matched by name
    told = run("regress", "predict", "a.csv", "--target", "price", "--points", "new.csv", "--out", "p.csv")
    assert told == (0, "", "")
    header, values = read_csv((workplace / "p.csv").read_text())
    assert header == ["a", "b", "c", "price mean", "price std", "price q0.05", "price q0.5", "price q0.95"]
    np.testing.assert_array_equal(values[:, :3], new)
    expected = ConditionedRegression(load("general", "regression"), x, y).predict(new)
    np.testing.assert_allclose(values[:, 3:5], np.column_stack([expected.mean, expected.std]), rtol=1e-12)
    np.testing.assert_allclose(values[:, 5:], expected.quantiles([0.05, 0.5, 0.95]), rtol=1e-12)


def test_points_far_outside_are_told(run: Run) -> None:
    (x, y), z = table(), np.ones(12)
    write_csv("a.csv", np.column_stack([x[:, :2], z, y]), "a,b,c,y")
    span = np.ptp(x[:, 1])
    new = np.array([[100.0, x[:, 1].max() + 0.4 * span, 9.0], [100.0, x[:, 1].max() + 0.6 * span, 1.0]])
    write_csv("new.csv", new, "a,b,c")
    err = run("regress", "predict", "a.csv", "--target", "y", "--points", "new.csv")[2]
    assert "1 of 2 rows lie far outside the range of DATA (most in column 'b')" in err


def test_predict_without_points_leaves_one_out(run: Run) -> None:
    x, y = table()
    np.save("a.npy", np.column_stack([x, y]))
    code, out, err = run("regress", "predict", "a.npy", "--target", 4, "--interval", 0.5, "--model", "rugged")
    assert code == 0
    header, values = read_csv(out)
    assert header[3:] == [f"column 4{name}" for name in ("", " mean", " std", " q0.25", " q0.5", " q0.75")]
    expected = ConditionedRegression(load("rugged", "regression"), x, y).leave_one_out()
    np.testing.assert_allclose(values[:, 4], expected.mean, rtol=1e-12)
    score = 1 - ((y - expected.mean) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    inside = ((y >= values[:, 6]) & (y <= values[:, 8])).sum()
    assert f"leave-one-out: R² {score:.3f}" in err
    assert f"{inside} of 12 rows inside their 0.5 interval" in err


def test_chosen_columns_and_rows(run: Run) -> None:
    x, y = table(40)
    write_csv("a.csv", np.column_stack([x, y]), "a,b,c,y")
    options = ("--columns", "c", "a", "--subsample", 10, "--seed", 3)
    code, out, _ = run("regress", "predict", "a.csv", "--target", "y", *options)
    assert code == 0
    header, values = read_csv(out)
    assert header[:3] == ["c", "a", "y"]
    chosen = np.sort(np.random.default_rng(3).choice(40, 10, replace=False))
    np.testing.assert_array_equal(values[:, :3], np.column_stack([x[:, 2], x[:, 0], y])[chosen])


def test_columns_of_one_name_are_chosen_by_numbers_in_both_files(run: Run) -> None:
    x, y = table(12, 2)
    write_csv("rows.csv", np.column_stack([x, y]), "a,a,y")
    code, _, err = run("regress", "predict", "rows.csv", "--target", "y", "--points", "rows.csv")
    assert code == 2
    assert "rows.csv has 2 columns 'a'; choose by numbers from 1" in err
    code, out, _ = run(
        "regress", "predict", "rows.csv", "--target", "y", "--columns", 2, 1, "--points", "rows.csv"
    )
    assert code == 0
    np.testing.assert_array_equal(read_csv(out)[1][:, :2], x[:, [1, 0]])


def test_longer_tables(run: Run) -> None:
    x, y = table(40)
    write_csv("a.csv", np.column_stack([x, y]), "a,b,c,y")
    predict = ("regress", "predict", "a.csv", "--target", "y", "--model", "rugged")
    code, out, err = run(*predict, "--allow-longer")
    assert (code, out.count("\n")) == (0, 41)
    assert "warning: the context has 40 rows, rugged was trained on up to 16" in err
    code, out, err = run(*predict, "--orders", 3)
    assert (code, out.count("\n"), "warning" in err) == (0, 41, False)
    assert run(*predict, "--orders", 3)[1] == out
    assert run(*predict, "--orders", 3, "--seed", 1)[1] != out


def test_constant_columns_are_told(run: Run) -> None:
    x, y = table()
    write_csv("a.csv", np.column_stack([x[:, 0], np.ones(12), y]), "a,b,y")
    code, _, err = run("regress", "predict", "a.csv", "--target", "y")
    assert code == 0
    assert "column 'b' is constant in a.csv, so the predictions do not depend on it" in err


@pytest.mark.parametrize(("columns", "kind"), [(1, ".png"), (3, ".svg"), (3, ".pdf")])
def test_plot_writes_a_picture(run: Run, workplace: Path, columns: int, kind: str) -> None:
    x, y = table(9, columns)
    write_csv("a.csv", np.column_stack([x, y]), ",".join([*"abc"[:columns], "y $^2"]))
    told = run("regress", "plot", "a.csv", "--target", "y $^2", "--out", f"p{kind}", "--model", "rugged")
    assert told == (0, "", "")
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[kind]
    assert (workplace / f"p{kind}").read_bytes().startswith(magic)


@pytest.mark.parametrize("command", ["regress", "regress predict", "regress plot"])
def test_help(run: Run, command: str) -> None:
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: iclkit {command}")


MISTAKES = {
    "unknown action": ("regress predcit good.csv", "unknown action of iclkit regress 'predcit'; did you mean"),
    "no target": ("regress predict good.csv", "required: --target"),
    "unknown target": ("regress predict good.csv --target hight", "did you mean 'height'"),
    "target by number": ("regress predict good.csv --target 4", "columns are numbered 1 to 3"),
    "target chosen": (
        "regress predict good.csv --target y --columns x y",
        "the target 'y' is among the columns",
    ),
    "unknown column": ("regress predict good.csv --target y --columns X", "unknown column of good.csv 'X'"),
    "missing file": ("regress predict none.csv --target y", "there is no file none.csv"),
    "word": ("regress predict word.csv --target y", "word.csv, line 3, column 'x': 'abc' is not a number"),
    "missing value": ("regress predict nan.csv --target y", "line 2, column 'y': the value is missing"),
    "no inputs": ("regress predict lone.csv --target y", "has no column beside the target 'y'"),
    "one row": ("regress predict row.csv --target y", "needs at least 2 rows"),
    "two rows": ("regress predict two.csv --target y", "2 rows are too few to leave one out"),
    "wide table": ("regress predict wide.csv --target 1", "5 columns of inputs, general takes up to 4; choose"),
    "another width": ("regress predict good.csv --target y --columns x --model raw", "raw takes 2"),
    "constant target": ("regress predict flat.csv --target y", "the target 'y' is constant (always 3)"),
    "constant inputs": (
        "regress predict flat.csv --target x --columns y",
        "every column of inputs is constant",
    ),
    "long table": (
        "regress predict long.npy --target 1",
        "general was trained on contexts of up to 16: draw some",
    ),
    "far too long": (
        "regress predict far.npy --target 1 --orders 2",
        "draw some at random by --subsample 16",
    ),
    "far too long at once": ("regress predict far.npy --target 1", "draw some at random by --subsample 16"),
    "longer": (
        "regress predict longer.npy --target 1",
        "by --orders 8, or go on with up to 2,048 by --allow-longer",
    ),
    "too long to leave out": ("regress predict longer.npy --target 1 --allow-longer", "leaving one out"),
    "points of other names": ("regress predict good.csv --target y --points nan.csv", "no column 'height'"),
    "points too few": (
        "regress predict good.csv --target y --points long.npy --columns x",
        "unknown column of long.npy 'x'",
    ),
    "interval": ("regress predict good.csv --target y --interval 90", "--interval must lie between 0 and 1"),
    "orders": ("regress predict good.csv --target y --orders 0", "--orders must lie in 1..256, given 0"),
    "seed": ("regress predict good.csv --target y --seed -1", "--seed must lie in"),
    "model of numbers": ("regress predict good.csv --target y --model numbers", "numbers and no densities"),
    "unknown model": ("regress predict good.csv --target y --model generel", "did you mean 'general'"),
    "output there": ("regress predict good.csv --target y --out flat.csv", "flat.csv exists"),
    "output is the input": (
        "regress predict good.csv --target y --out good.csv --force",
        "is the file that is read",
    ),
    "kind of picture": ("regress plot good.csv --target y --out p.gif", "unknown kind of picture '.gif'"),
    "samples": ("regress plot good.csv --target y --out p.png --samples -1", "--samples must lie in 0..10000"),
    "unknown option": ("regress plot good.csv --traget y", "did you mean '--target'"),
    "evaluated on pairs": ("evaluate --model general --pairs wine", "choose data sets by --tables"),
    "unknown table": ("evaluate --model general --tables whine", "did you mean 'wine'"),
    "evaluated numbers": ("evaluate --model numbers", "numbers predicts numbers and no densities"),
    "evaluated too long": ("evaluate --model general --sizes 32", "context sizes must lie in 8..16"),
}


def test_advice_for_many_rows_is_what_helps_with_so_many() -> None:
    """Neither orders nor a longer context take more rows than the longest context of all."""
    head = "m was trained on contexts of up to 16: draw some at random by --subsample 16"
    longer = "go on with up to 2,048 by --allow-longer"
    advice = too_many_rows("m", 16, 2048, orders=True)
    assert advice(2048) == f"{head}, average over such draws by --orders 8, or {longer}"
    assert advice(2049) == head
    assert too_many_rows("m", 16, 2048)(17) == f"{head}, or {longer}"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(run: Run, workplace: Path, mistake: str) -> None:
    texts = {
        "good": "x,height,y\n1,2,3\n3,5,1\n4,1,1\n7,7,2\n",
        "word": "x,y\n1,2\nabc,3\n",
        "nan": "x,y\n1,NaN\n3,4\n",
        "lone": "y\n1\n2\n",
        "row": "x,y\n1,2\n",
        "two": "x,y\n1,2\n2,3\n",
        "flat": "x,y\n1,3\n2,3\n4,3\n",
        "wide": "a,b,c,d,e,f\n1,2,3,4,5,6\n2,4,1,3,5,1\n",
    }
    for name, text in texts.items():
        (workplace / f"{name}.csv").write_text(text)
    for name, rows in (("long", LIMIT + 1), ("longer", 513), ("far", 2049)):
        np.save(f"{name}.npy", np.random.default_rng(0).normal(size=(rows, 3)))
    before = sorted((path.name, path.stat().st_size) for path in workplace.iterdir())
    command, message = MISTAKES[mistake]
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("iclkit: warning")]
    assert len(lines) == 1
    assert lines[0].startswith("iclkit: error: ")
    assert message in lines[0]
    assert sorted((path.name, path.stat().st_size) for path in workplace.iterdir()) == before


# The benchmark


def line(rows: int = 200) -> real_regression.Rows:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return real_regression.Rows(x, 100 + 30 * x[:, 0] + 10 * x[:, 1] + noise, "y")


def model() -> TrainedProbabilisticRegressor:
    learner = load("general", "regression")
    assert isinstance(learner, TrainedProbabilisticRegressor)
    return learner


def test_benchmark_scores_are_what_they_say() -> None:
    pytest.importorskip("sklearn")
    rows = line()
    calls = []

    def constant(x: Array, y: Array, points: Array) -> tuple[Array, Array]:
        """Standard normal in the units of the rows that it is given."""
        np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-12)
        calls.append(len(x))
        return np.zeros(len(points)), np.ones(len(points))

    given = {"ridge": FITTED["ridge"], "constant": constant}
    found = real_regression.compare_on(model(), "line", rows, (8, 16), splits=4, held_out=50, against=given)
    assert calls == [8, 16] * 4
    # Signal of variance 1000 and noise of variance 1.
    assert (found.r2["ridge"].mean > 0.99).all()
    # Nothing is explained; the mean of 8 rows costs 1/8 on average, and the stand-in a tenth of that more.
    assert (found.r2["constant"].mean < 0.0).all()
    # Deviations are in units of the target's own, so the density of N(0, 1) is not far off.
    np.testing.assert_allclose(found.log_density["constant"].mean.numpy(), -1.42, atol=0.4)
    gain = real_regression.gained(found, "r2", 16)
    np.testing.assert_allclose(gain.values, (found.r2["model"] - found.r2["ridge"]).at(16).values)
    table = real_regression.results_table([found], "r2", 16)
    assert list(table.columns) == ["table", "model", "ridge", "constant", "gain", "95 % interval"]
    assert table.best == {(0, 2)}
    assert "on 0 of 1 tables (the interval above 0 on 0, below on 1)" in real_regression.summary(
        [found], "r2", 16
    )


@pytest.mark.parametrize("name", FITTED)
def test_fitted_regressors_learn_a_line_and_know_their_error(name: str) -> None:
    pytest.importorskip("sklearn")
    rows = line()
    x, y = rows.x.numpy(), rows.y.numpy()
    mean, std = fit_predict(FITTED[name], x[:64], y[:64], x[64:])
    error = y[64:] - mean
    assert (error**2).mean() < 0.3 * y.var()
    assert 0.4 < np.sqrt((error**2).mean()) / np.sqrt((std**2).mean()) < 2.5
    # Powers of two, by which standard units are the same to the last digit.
    other, wider = fit_predict(FITTED[name], x[:64] * 8, y[:64] / 64, x[64:] * 8)
    np.testing.assert_allclose(other, mean / 64, rtol=1e-12)
    np.testing.assert_allclose(wider, std / 64, rtol=1e-12)


@pytest.mark.parametrize("name", real_regression.TABLES)
def test_tables_are_large_enough_and_vary(name: str) -> None:
    pytest.importorskip("sklearn")
    rows = real_regression.TABLES[name]()
    assert rows.x.shape[0] == len(rows.y) >= 64 + 60
    assert rows.x.shape[1] <= 8
    assert rows.x.isfinite().all()
    assert (rows.x.std(0) > 0).all()
    assert rows.y.std() > 0


def test_the_benchmark_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match=r"context sizes must lie in 8\.\.16, given \[4\]"):
        real_regression.compare_on(model(), "line", line(), (4,))
    with pytest.raises(UserError, match="line: 60 rows are too few for 16 in context and 60 held out"):
        real_regression.compare_on(model(), "line", line(60), (16,))
    with pytest.raises(UserError, match="at least 2 splits"):
        real_regression.compare_on(model(), "line", line(), (16,), splits=1)


def test_evaluate_prints_the_tables(run: Run) -> None:
    pytest.importorskip("sklearn")
    code, out, _ = run(
        "evaluate", "--model", "general", "--tables", "iris", "--splits", 2, "--sizes", 8, "--held-out", 10
    )
    assert code == 0
    assert "8 rows shown: R²" in out
    assert "of 1 tables" in out
