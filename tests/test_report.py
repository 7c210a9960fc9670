"""The report, the model cards and the benchmark on real data, with small untrained networks as models."""

from __future__ import annotations

import html.parser
import io
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.text import Annotation
from torch import Tensor

from iclkit.analysis import real_data
from iclkit.analysis.intervals import Curve
from iclkit.analysis.real_data import ALL_PAIRS, PAIRS, baselines, compare_on, results_table, standing
from iclkit.analysis.sampling import sample_quality
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.learners import bayes
from iclkit.learners.classical import GaussianMixtureLearner
from iclkit.report.card import write_card
from iclkit.report.demo import write_demo
from iclkit.report.figures import Panel, Window, curves, landscapes, png, sample_rows
from iclkit.report.html import Page
from iclkit.report.sections import fitted
from iclkit.tasks import BroadMixtures, GaussianMixtures
from iclkit.training import EnergyConfig, Recipe, recipe_named
from iclkit.training.models import load, save_model

PNG = b"\x89PNG\r\n\x1a\n"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_folder(folder: Path, base: str, task: GaussianMixtures | BroadMixtures, std: float) -> Path:
    """An untrained model: its energy is its base density whatever the context is."""
    network = EnergyConfig(dim=2, width=8, layers=1, heads=1, max_points=16, base_std=std)
    recipe = Recipe(
        name=base,
        task=task,
        objective=recipe_named("energy-tiny").objective,
        network=network,
        points=9,
        standardise=isinstance(task, BroadMixtures),
    )
    training = {"steps": 7, "seconds": 8000.0}
    return save_model(folder / base, recipe, network.build().state_dict(), training)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        model_folder(folder, "tiny-mixtures", GaussianMixtures(), 5.0),
        model_folder(folder, "tiny-plane", BroadMixtures(max_components=2), 1.2),
    )


# ------------------------------------------------------------------------------------------------ figures


def panels(count: int) -> tuple[list[Panel], Window]:
    window = Window((-2.0, 2.0), (-1.0, 3.0), ("x / cm", "y / cm"), equal=True)
    values = -0.5 * np.square(window.grid(12)).sum(-1)
    points = seeded_points()
    return [Panel(values, points[:n], points) for n in range(count)], window


def seeded_points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 2))


def test_a_grid_holds_the_centres_of_its_pixels():
    grid = Window((0.0, 2.0), (10.0, 14.0), ("a", "b")).grid(2)
    assert grid.tolist() == [[[0.5, 11.0], [1.5, 11.0]], [[0.5, 13.0], [1.5, 13.0]]]


def test_rows_of_landscapes_share_one_scale_and_their_limits():
    shown, window = panels(3)
    figure = landscapes({"model": shown, "exact": shown}, window, (-8.0, 0.0), "cm")
    *axes, bar = figure.axes
    assert len(axes) == 6
    assert {(*a.get_xlim(), *a.get_ylim()) for a in axes} == {(-2.0, 2.0, -1.0, 3.0)}
    assert {image.get_clim() for a in axes for image in a.images} == {(-8.0, 0.0)}
    assert [a.get_title() for a in axes] == ["no points", "1 point", "2 points", "", "", ""]
    assert axes[0].get_ylabel() == "model\ny / cm"
    assert bar.get_ylabel() == "log density / nats per cm²"
    assert png(figure).startswith(PNG)


def test_pixels_are_where_their_points_are():
    """The image's upper right corner is the window's: a density that grows with y alone grows upwards."""
    window = Window((0.0, 1.0), (0.0, 1.0), ("x", "y"))
    panel = Panel(window.grid(10)[..., 1], np.zeros((0, 2)))
    (axes, _) = landscapes({"": [panel]}, window, (0.0, 1.0)).axes
    (image,) = axes.images
    assert image.origin == "lower"
    assert image.get_extent() == [0.0, 1.0, 0.0, 1.0]
    drawn = image.get_array()
    assert drawn is not None
    assert drawn[-1].min() > drawn[0].max()


def test_samples_are_drawn_over_their_landscape():
    shown, window = panels(2)
    figure = sample_rows({"": shown}, window, (-8.0, 0.0))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["20 samples", "context"]
    # Samples and context, and on the first axes the legend's two empty handles.
    assert [len(a.collections) for a in figure.axes] == [4, 2]
    with pytest.raises(UserError, match="equally long"):
        sample_rows({"a": shown, "b": shown[:1]}, window, (-8.0, 0.0))


def test_names_at_the_ends_of_curves_do_not_overlap():
    values = torch.randn(30, 3, generator=seeded()).double()
    lines = {f"line {i}": Curve((1, 2, 4), values + 0.001 * i) for i in range(4)}
    lines["far below"] = Curve((1, 2, 4), values - 1000)
    figure = curves(lines, "quantity", floor=-2.0)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low > -2.5
    heights = sorted(text.xy[1] for text in axes.texts if isinstance(text, Annotation))
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 0.06 * (high - low)
    assert heights[0] >= low - 1e-9


@pytest.mark.parametrize("first", [0, 1])
def test_every_curve_is_drawn_however_many_there_are(first: int):
    values = torch.randn(30, 3, generator=seeded()).double()
    lines = {f"line {i}": Curve((1, 2, 4), values + i) for i in range(12)}
    (axes,) = curves(lines, "quantity", first=first).axes
    assert len(axes.lines) == 12
    named = {text.get_text() for text in axes.texts if isinstance(text, Annotation)}
    assert named == set(lines)


def test_the_demo_compares_with_the_strongest_baselines():
    assert {"Student-t", "Student-t + kernels"} <= set(fitted("mixture"))


def test_figures_leave_matplotlibs_settings_alone():
    before = dict(mpl.rcParams)
    shown, window = panels(1)
    png(landscapes({"": shown}, window, (-8.0, 0.0)))
    assert dict(mpl.rcParams) == before


def test_figures_of_the_same_data_are_the_same():
    shown, window = panels(1)
    first, second = (png(landscapes({"": shown}, window, (-8.0, 0.0))) for _ in range(2))
    assert first == second


# --------------------------------------------------------------------------------------------------- page


class Checker(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        self.images += tag == "img"
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        assert tag != "img" or dict(attrs).get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    # Self-contained: nothing is fetched from anywhere.
    assert all(reference.startswith("data:image/png;base64,") for reference in checker.references)
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    return checker


def test_a_page_escapes_what_it_is_given():
    page = Page("a < b")
    page.text("x < `y <z>` & so on")
    page.heading("h & i")
    page.figure(PNG, 'say "this"', "a caption")
    page.table(Table(["<n>"], [["1"]]))
    text = page.render()
    check_page(text)
    assert "x &lt; <code>y &lt;z&gt;</code> &amp; so on" in text
    assert "<title>a &lt; b</title>" in text
    assert 'name="viewport"' in text


def test_the_demo_writes_a_page_and_its_pictures(models: tuple[Path, Path], tmp_path: Path):
    report = write_demo(tmp_path / "demo", quick=True, mixtures=models[0], plane=models[1])
    pictures = sorted(path.name for path in report.parent.glob("*.png"))
    assert pictures == [
        "iris-landscapes.png",
        "iris-likelihood.png",
        "iris-samples.png",
        "landscapes-1.png",
        "likelihood.png",
        "samples-1.png",
    ]
    text = report.read_text(encoding="utf-8")
    checker = check_page(text)
    assert checker.images == len(pictures)
    for name in ("tiny-mixtures (frozen)", "exact Bayes", "kernel density (CV)", "EM mixture (BIC)"):
        assert name in text


def test_the_demo_refuses_a_file_as_folder_and_a_missing_model(models: tuple[Path, Path], tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_demo(tmp_path / "file", mixtures=models[0], plane=models[1])
    with pytest.raises(UserError, match="folder"):
        write_demo(tmp_path / "demo", mixtures=tmp_path / "nothing")
    assert not (tmp_path / "demo").exists()


# -------------------------------------------------------------------------------------------------- cards


def test_a_card_says_what_a_model_is_and_how_good(models: tuple[Path, Path]):
    card = write_card(models[0], datasets=3)
    text = card.read_text(encoding="utf-8")
    assert card == models[0] / "card.md"
    assert load(models[0]).card == text
    for words in (
        "# tiny-mixtures",
        "contexts of 0 to 16 points",
        "mixtures of 3 isotropic Gaussians of standard deviation 0.33",
        "7 of 32 data sets: 224 data sets",
        "2 h 13 min",
        "over 3 data sets, where Bayes is the exact predictive",
        "mixtures of 5 isotropic Gaussians of standard deviation 0.13",
        "best temperature",
        "mode recall",
        "## Limits of use",
        "`iclkit card tiny-mixtures --datasets 3`",
    ):
        assert words in text, words
    # Every table is rectangular: as many unescaped bars in each of its lines.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_card_measured_by_particles_states_the_references_error(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Far fewer particles than a real card has: only the words are tested.
    monkeypatch.setattr("iclkit.report.energy_card.bayes", lambda task: bayes(task, particles=16, sweeps=1))
    out = tmp_path / "card.md"
    assert write_card(models[1], out, datasets=2, real_splits=0) == out
    text = out.read_text(encoding="utf-8")
    assert "a long tempered particle run" in text
    assert "error of the reference" in text
    assert "whitened by its own shrunken moments" in text


def test_cards_are_for_model_folders(tmp_path: Path):
    with pytest.raises(UserError, match="iclkit export"):
        write_card(tmp_path)


# ---------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("iris petal", 150),
        ("iris sepal", 150),
        ("wine", 178),
        ("breast cancer", 569),
        ("diabetes", 442),
        ("digits", 1797),
    ],
)
def test_the_pairs(name: str, rows: int):
    pair = PAIRS[name]()
    assert pair.values.shape == (rows, 2)
    assert pair.values.isfinite().all()
    assert len(pair.columns) == 2


def test_digits_are_principal_components():
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    ours = PAIRS["digits"]().values.numpy()
    pixels, _ = load_digits(return_X_y=True)
    theirs = PCA(2, svd_solver="full").fit_transform(pixels)
    # Up to the axes' signs.
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_comparisons_are_paired_and_repeatable(models: tuple[Path, Path]):
    values = PAIRS["iris petal"]().values
    model = load(models[1])
    fast = {"mixture": GaussianMixtureLearner(2, max_components=2, starts=1)}
    first = compare_on(model, "iris petal", values, (8, 16), 3, against=fast)
    again = compare_on(model, "iris petal", values, (8, 16), 3, against={"model again": model, **fast})
    assert torch.equal(first.model.values, again.model.values)
    assert torch.equal(again.model.values, again.baselines["model again"].values)
    assert torch.equal(first.baselines["mixture"].values, again.baselines["mixture"].values)
    assert first.best(8) == "mixture"
    table = results_table([first], 16)
    assert table.columns == ["pair", "model", "best baseline", "which", "gain", "95 % interval"]
    gain = float((first.model.at(16) - first.baselines["mixture"].at(16)).mean)
    assert table.rows[0][3:5] == ["mixture", f"{gain:+.3f}"]
    assert standing([first], 16).above == int(gain > 0)
    with pytest.raises(UserError, match="too few"):
        compare_on(model, "short", values[:50], (8,), 3)
    with pytest.raises(UserError, match="up to 16 points"):
        compare_on(model, "iris petal", values, (32,), 3)


def test_the_comparison_finds_the_held_out_likelihood_of_a_known_density(models: tuple[Path, Path]):
    """The untrained model is N(mean, 1.2² C) with the context's mean and shrunken, widened covariance C."""
    values = torch.randn(400, 2, generator=seeded(1)).double() * torch.tensor([1.0, 30.0]) + 100
    found = compare_on(load(models[1]), "normal", values, (16,), 2, held_out=20, against={})
    order = torch.randperm(400, generator=seeded(0))[:36]
    context, held = values[order[:16]], values[order[16:]]
    scatter = context.T.cov()
    covariance = (1 + 4 / 16 * 8 / 16) * (15 * scatter + scatter.diagonal().diag()) / 16
    law = torch.distributions.MultivariateNormal(context.mean(0), 1.2**2 * covariance)
    # float32 inside, and a quadrature to 1e-3.
    assert float(found.model.values[0]) == pytest.approx(float(law.log_prob(held).mean()), abs=5e-3)


def test_wins_are_counted_with_their_intervals():
    sizes = [16]

    def result(gains: list[float]) -> real_data.PairResult:
        model, zero = torch.tensor(gains)[:, None], torch.zeros(len(gains), 1)
        return real_data.PairResult(
            "pair", Curve(sizes, model), {"a": Curve(sizes, zero), "b": Curve(sizes, zero - 5)}
        )

    results = [result([1.0, 1.1, 0.9]), result([3.0, -2.9, 0.0]), result([-1.0, -1.1, -0.9])]
    found = standing(results, 16)
    assert (found.above, found.surely_above, found.surely_below) == (2, 1, 1)
    assert found.rank == pytest.approx(4 / 3)
    assert found.estimators == 3


def test_pairs_are_named_once_and_have_rows_enough():
    assert len(ALL_PAIRS) == 29
    for load_pair in ALL_PAIRS.values():
        values = load_pair().values
        assert values.shape[1] == 2
        assert len(values) >= max(real_data.CONTEXT_SIZES) + 60


@pytest.mark.parametrize("form", ["full", "diag", "spherical", "tied"])
def test_mixture_baselines_agree_with_scikit_learn(form: str):
    from sklearn.mixture import GaussianMixture

    x = torch.randn(1, 50, 2, generator=seeded(2)).double() @ torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    learner = GaussianMixtureLearner(2, starts=1, covariances=(form,))
    found = learner.predictives(x, [40]).log_prob(x[:, None])[0, 0]
    mean, std = x[0, :40].mean(0), x[0, :40].std(0, correction=0)
    z = ((x[0] - mean) / std).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = [
            GaussianMixture(k, covariance_type=form, reg_covar=1e-3, random_state=0).fit(z[:40])  # pyright: ignore
            for k in range(1, 7)
        ]
    best = min(fits, key=lambda fit: fit.bic(z[:40]))
    expected = torch.from_numpy(best.score_samples(z)) - std.log().sum()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_benchmark_prints_its_tables(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    arguments = ["--model", str(models[1]), "--splits", "2", "--sizes", "8", "--pairs", "iris sepal"]
    real_data.main(arguments)
    printed = capsys.readouterr().out
    assert "8 context points" in printed
    told = r"above the best baseline on [01] of 1 pairs \(the 95 % interval excludes 0 on [01]\)"
    assert re.search(told, printed.replace("\n", " "))
    for name in baselines():
        assert name in printed
    with pytest.raises(UserError, match="did you mean 'iris petal'"):
        real_data.main(["--model", str(models[1]), "--pairs", "iris petals"])


def test_samples_of_the_reference_are_as_good_as_they_can_be():
    task = GaussianMixtures()
    reference = bayes(task, particles=50)
    found = sample_quality(reference, reference, task, (8, 16), datasets=12, draws=60)
    assert set(found.statistics) == set(found.floor)
    # Equal laws: unbiased distances within 4 standard errors of zero, and a classifier that guesses.
    for name in ("energy distance", "squared MMD"):
        values: Tensor = found.statistics[name].values.double()
        assert values.mean().abs() < 4 * values.std() / values.numel() ** 0.5
    assert float(found.statistics["accuracy of a classifier"].mean.mean()) == pytest.approx(0.5, abs=0.06)
    assert (found.statistics["mode recall"].mean > 0.8).all()
    assert len(found.table().rows) == 2
    with pytest.raises(UserError, match="at least 20"):
        sample_quality(reference, reference, task, (8,), draws=5)


def test_rich_prints_every_table():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(Table(["n", "[b]|KL|"], [["1", "0.1 [0, 1]"]]).rich("title"))
    assert isinstance(console.file, io.StringIO)
    assert "0.1 [0, 1]" in console.file.getvalue()
    assert Table(["|a|"], [["1|2"]]).markdown().splitlines() == ["| \\|a\\| |", "|---|", "| 1\\|2 |"]
