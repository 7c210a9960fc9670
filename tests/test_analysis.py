"""Measurements of densities, each on cases whose answer is known."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from iclkit.analysis.calibration import (
    best_temperature,
    calibrate,
    coverage,
    density_rank,
    permutation_sensitivity,
    score_error,
    scores,
)
from iclkit.analysis.cover import Cover
from iclkit.analysis.density import kl_by_context, log_likelihood_by_context
from iclkit.analysis.importance import Candidates, log_partition
from iclkit.analysis.intervals import Curve
from iclkit.analysis.table import Table, console
from iclkit.analysis.two_sample import classifier_test, energy_distance, mmd, mode_shares
from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.learners import DensityLearner, Predictive, bayes
from iclkit.learners.standardise import Whitening
from iclkit.learners.trained import EnergyDensity
from iclkit.tasks import GaussianMixtures, Mixtures


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal_log_prob(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    dim = x.shape[-1]
    return -0.5 * ((x - mean) / std).square().sum(-1) - dim * math.log(std * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class Constant(DensityLearner):
    """N(mean, std² I), whatever the context."""

    dim: int = 2
    mean: float = 0.0
    std: float = 1.0

    def predictives(self, x: Tensor, prefixes: Sequence[int] | None = None) -> Predictive:
        return ConstantPredictive(self, len(x), len(self._check(x, prefixes)))


@dataclass(frozen=True)
class ConstantPredictive(Predictive):
    learner: Constant
    batch: int
    prefixes: int

    def log_prob(self, candidates: Tensor) -> Tensor:
        return normal_log_prob(candidates, self.learner.mean, self.learner.std)

    def sample(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        shape = (self.batch, self.prefixes, size, self.learner.dim)
        return self.learner.mean + self.learner.std * torch.randn(shape, generator=generator)


# ---------------------------------------------------------------------------------------------- intervals


def test_intervals_cover_the_mean_as_often_as_they_say():
    # 400 sets of 100 normal numbers: 95 % intervals should miss 20 times (22, for the bootstrap is a little
    # narrow); 6 standard deviations of a binomial allow 48. False alarms: below 1e-6.
    values = torch.randn(400, 100, generator=seeded(), dtype=torch.float64)
    missed = 0
    for row in values:
        interval = Curve((0,), row[:, None]).interval()[0]
        missed += not (interval.low <= 0 <= interval.high)
    assert 4 <= missed <= 48


def test_an_interval_has_the_width_of_the_central_limit_theorem():
    values = 3 * torch.randn(4000, 2, generator=seeded(1), dtype=torch.float64)
    expected = 1.96 * values.std(0) / math.sqrt(4000)
    # 2000 resamples know a percentile to about 3 %.
    torch.testing.assert_close(Curve((0, 1), values).interval().half_width, expected, rtol=0.12, atol=0)


def test_paired_differences_forget_what_both_share():
    shared = 100 * torch.randn(50, 3, generator=seeded(2), dtype=torch.float64)
    noise = torch.randn(50, 3, generator=seeded(3), dtype=torch.float64)
    sizes = (1, 2, 4)
    difference = Curve(sizes, shared + 1 + noise) - Curve(sizes, shared)
    assert (difference.interval().half_width < 0.5).all()
    torch.testing.assert_close(difference.mean, 1 + noise.mean(0))
    assert difference.at(4, 1).context_sizes == (4, 1)
    torch.testing.assert_close(difference.overall().mean, (1 + noise).mean())


def test_curves_refuse_what_makes_no_average():
    with pytest.raises(UserError, match="context size 2 is not finite"):
        Curve((1, 2), torch.tensor([[0.0, math.inf]]))
    with pytest.raises(UserError, match="shape"):
        Curve((1, 2), torch.zeros(3, 1))
    with pytest.raises(UserError, match="paired"):
        _ = Curve((1,), torch.zeros(3, 1)) - Curve((2,), torch.zeros(3, 1))
    with pytest.raises(UserError, match="not measured"):
        Curve((1,), torch.zeros(3, 1)).at(2)


def test_a_table_reads_the_same_everywhere():
    table = Table(["n", "KL <nats>"], [["0", "0.1"], ["1", "0.2"]], frozenset({(1, 1)}))
    assert table.markdown().splitlines() == [
        "| n | KL <nats> |",
        "|---|---:|",
        "| 0 | 0.1 |",
        "| 1 | **0.2** |",
    ]
    assert "<th>KL &lt;nats&gt;</th>" in table.html()
    assert "<td><b>0.2</b></td>" in table.html()
    assert [line.split() for line in printed(table).splitlines()[1:-1:2]] == [
        ["┃", "n", "┃", "KL", "<nats>", "┃"],
        ["│", "0", "│", "0.1", "│"],
    ]


def printed(table: Table, width: int = 1_000_000, title: str = "") -> str:
    """What a terminal of some width shows of a table."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    console.print(table.rich(title))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


HEADS = ["learner", *(f"n = {n}" for n in range(6))]
WIDE = Table(HEADS, [["NearestNeighbors(3)", *(f"0.45{n} [0.433, 0.469]" for n in range(6))], ["b", *"123456"]])


@pytest.mark.parametrize("width", [1_000_000, 200, 120, 80, 50, 40, 30])
def test_a_table_is_whole_in_every_width(width: int):
    """An interval that is cut in half, or goes on in the next line, is another one."""
    lines = printed(WIDE, width, "a title of more words than a narrow terminal has room for").splitlines()
    assert max(map(len, lines)) <= width
    for n in range(6):
        assert sum(f"0.45{n} [0.433, 0.469]" in line for line in lines) == 1
        assert any(f"n = {n}" in line for line in lines)
    assert any("NearestNeighbors(3)" in line for line in lines)
    assert "…" not in "".join(lines)


def test_a_table_that_fits_stands_once():
    assert printed(WIDE).count("learner") == 1
    assert printed(WIDE, 80).count("learner") == 3  # two columns of 23 beside the names
    assert printed(WIDE, 30).count("learner") == 0  # a list


def test_numbers_survive_the_narrowest_terminal():
    text = printed(Table(["learner", "error"], [["a", "0.4512345 [0.4332, 0.4698]"]]), 16)
    assert all(number in text for number in ("0.4512345", "0.4332", "0.4698"))


def test_names_from_files_do_not_act_on_the_terminal():
    text = printed(Table(["a\x1b[2J", "[red]b[/]"], [["c\x9b", "[/]"]]), title="t\x1b]0;x\x07")
    assert "\x1b" not in text
    assert all(part in text for part in ("a\\x1b[2J", "c\\x9b", "[red]b[/]", "[/]", "t\\x1b]0;x\\x07"))


def test_commands_print_tables_as_wide_as_they_are_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "20")
    console().print(WIDE.rich())
    assert len(capsys.readouterr().out.splitlines()[0]) > 150
    for columns, width in (("60", 60), ("5", 20), ("²", 80), ("0", 80)):
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", columns)
            patch.setattr("sys.stdout.isatty", lambda: True)
            assert console().width == width


# ----------------------------------------------------------------------------------------- log Z and KL


def test_log_partition_of_a_gaussian():
    """exp(-|x|² / 2s²) integrates to 2π s²; the error is what the spread of repetitions is."""
    generator, repetitions, first, extra = seeded(4), 2000, 32, 16
    reference = torch.randn(repetitions, 1, first, 2, generator=generator, dtype=torch.float64)
    broad = 2 * torch.randn(repetitions, 1, extra, 2, generator=generator, dtype=torch.float64)
    points = torch.cat([reference, broad], 2)
    mixed = Candidates.mix(points, normal_log_prob(points), normal_log_prob(points, 0, 2.0), first)
    std = 1.2
    found = log_partition(-0.5 * points.square().sum(-1) / std**2, mixed)
    truth = math.log(2 * math.pi * std**2)
    difference = found.estimate - truth
    # Standard error of the mean over 2000 repetitions; four of them: false alarms 6e-5. The correction's own
    # error is of third order: 0.001.
    assert difference.mean().abs() < 4 * difference.std() / math.sqrt(repetitions) + 1e-3
    assert found.error.square().mean().sqrt() == pytest.approx(float(difference.std()), rel=0.1)


def test_a_model_that_is_the_reference_has_an_exact_log_partition_without_cover():
    points = torch.randn(3, 2, 8, 2, generator=seeded(5))
    candidates = Candidates.mix(points, normal_log_prob(points), normal_log_prob(points), 8)
    found = log_partition(normal_log_prob(points) + 0.7, candidates)
    torch.testing.assert_close(found.estimate, torch.full((3, 2), 0.7).double(), rtol=0, atol=1e-6)
    assert (found.error < 1e-6).all()


def test_the_cover_integrates_to_one_and_draws_what_it_says():
    context = torch.randn(4, 6, 2, generator=seeded(6), dtype=torch.float64) * 3 + 1
    prefixes = torch.tensor([0, 2, 6])
    cover = Cover(Whitening.fit_prefixes(context, prefixes.tolist()), 1.7, context, prefixes)
    draws = cover.sample(20_000, seeded(7))
    # E_cover[g / cover] is the integral of g: here a Gaussian as wide as the cover's broad part, so that the
    # ratio is bounded by 2 and its mean over 20,000 draws known to 0.005.
    z = cover.whitening.forward(draws)
    target = normal_log_prob(z, 0.0, 1.7) - cover.whitening.log_det[..., None]
    ratio = (target - cover.log_prob(draws)).exp()
    assert float(ratio.max()) <= 2 + 1e-9
    torch.testing.assert_close(ratio.mean(-1), torch.ones(4, 3).double(), rtol=0, atol=0.04)


def test_the_cover_of_no_points():
    prefixes = torch.tensor([0])
    cover = Cover(Whitening.fit_prefixes(torch.zeros(2, 0, 2), [0]), 5.0, torch.zeros(2, 0, 2), prefixes)
    draws = cover.sample(5, seeded(0))
    torch.testing.assert_close(cover.log_prob(draws), normal_log_prob(draws, 0.0, 5.0))


def test_kl_between_gaussians():
    """KL(N(0, I) ‖ N(m, s² I)) = d (log s + (1 + m²) / 2s² - 1/2), at every context size."""
    task = GaussianMixtures()
    result = kl_by_context(Constant(), Constant(mean=0.5, std=1.5), task, (0, 3), datasets=400, candidates=100)
    expected = 2 * (math.log(1.5) + 1.25 / (2 * 1.5**2) - 0.5)
    # Standard deviation of log p - log q over 40,000 draws is about 0.9: an error of 0.0045; four of them.
    torch.testing.assert_close(result.kl.mean, torch.full((2,), expected).double(), rtol=0, atol=0.02)
    assert result.log_z is None
    assert result.table().rows[0][0] == "0"


def test_kl_of_the_reference_to_itself_is_zero():
    task = GaussianMixtures()
    result = kl_by_context(bayes(task, particles=30), bayes(task, particles=30), task, (0, 2, 5), datasets=4)
    assert result.kl.values.abs().max() < 1e-6


def test_the_references_own_error_is_reported():
    """Two runs whose log densities differ by 0.2 everywhere: half the difference is 0.1."""

    @dataclass(frozen=True)
    class Noisy(Constant):
        def predictives(self, x: Tensor, prefixes: Sequence[int] | None = None) -> Predictive:
            return NoisyPredictive(self, len(x), len(self._check(x, prefixes)))

    class NoisyPredictive(ConstantPredictive):
        def error(self, candidates: Tensor) -> Tensor:
            return torch.full(candidates.shape[:-1], 0.1)

    result = kl_by_context(Noisy(), Constant(), GaussianMixtures(), (0, 2), datasets=3)
    assert result.reference_error is not None
    torch.testing.assert_close(result.reference_error, torch.full((2,), 0.1).double(), rtol=0, atol=1e-6)
    assert result.table().columns[-1] == "error of the reference"


@pytest.fixture(scope="module")
def untrained() -> EnergyDensity:
    """An energy that is its base density N(0, 1.5² I): nothing is trained, so everything is known."""
    return EnergyDensity(EnergyTransformer(width=16, layers=1, heads=2, max_points=8, base_std=1.5))


def test_kl_of_an_energy_normalises_it(untrained: EnergyDensity):
    task = GaussianMixtures()
    result = kl_by_context(Constant(), untrained, task, (0, 1, 6), datasets=150, candidates=60)
    expected = 2 * (math.log(1.5) + 1 / (2 * 1.5**2) - 0.5)
    # 9,000 draws of sd 0.55 and 150 errors of log Z of about 0.06: 0.006 and 0.005 together; four of them.
    torch.testing.assert_close(result.kl.mean, torch.full((3,), expected).double(), rtol=0, atol=0.03)
    assert result.log_z is not None
    assert result.z_error is not None
    assert result.log_z.mean.abs().max() < 0.03
    assert result.z_error.max() < 0.15
    assert len(result.table().columns) == 5


def test_log_partition_on_candidates_agrees_with_quadrature():
    """A network with random weights everywhere, standardised: two independent ways to its constant."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EnergyTransformer(width=16, layers=2, heads=2, max_points=8, base_std=1.7)
        torch.nn.init.normal_(network.readout.weight, std=0.3)
    model = EnergyDensity(network.requires_grad_(False), standardise=True)
    task = GaussianMixtures(std=1.0)
    curves = log_likelihood_by_context(
        {"by candidates": model},
        task,
        (2, 8),
        6,
        held_out=5,
        proposal=bayes(task, particles=50),
        candidates=3000,
    )
    exact = log_likelihood_by_context({"by quadrature": model}, task, (2, 8), 6, held_out=5)
    difference = curves["by candidates"] - exact["by quadrature"]
    # Constants by 4,500 candidates err by 0.02 or so each.
    assert difference.values.abs().max() < 0.12
    assert difference.mean.abs().max() < 0.04


def test_kl_refuses_sizes_beyond_the_model(untrained: EnergyDensity):
    with pytest.raises(UserError, match="up to 8 points, asked for 9"):
        kl_by_context(Constant(), untrained, GaussianMixtures(), (9,))
    with pytest.raises(UserError, match="zero or more"):
        kl_by_context(Constant(), untrained, GaussianMixtures(), ())
    with pytest.raises(UserError, match="at least 2"):
        kl_by_context(Constant(), untrained, GaussianMixtures(), (1,), datasets=1)


def test_log_likelihood_of_constant_densities():
    task = GaussianMixtures(components=1, mean_std=1e-3, std=1.0)
    learners = {"right": Constant(), "wide": Constant(std=2.0)}
    curves = log_likelihood_by_context(learners, task, (0, 4), datasets=60, held_out=50)
    entropy = math.log(2 * math.pi * math.e)
    # 3,000 points, sd 1 each: 0.018; four of them.
    torch.testing.assert_close(curves["right"].mean, torch.full((2,), -entropy).double(), rtol=0, atol=0.08)
    loss = (curves["right"] - curves["wide"]).interval()
    # KL(N(0,1) ‖ N(0,4)) in two dimensions.
    expected = 2 * (math.log(2) + 1 / 8 - 0.5)
    assert (loss.low - 0.05 < expected).all()
    assert (expected < loss.high + 0.05).all()


# -------------------------------------------------------------------------------------------- calibration


def candidates_of_standard_normal(datasets: int, count: int, seed: int) -> Candidates:
    """Candidates from N(0, 1.5² I) in two dimensions."""
    points = 1.5 * torch.randn(datasets, 1, count, 2, generator=seeded(seed))
    log_prob = normal_log_prob(points, 0.0, 1.5)
    return Candidates.mix(points, log_prob, log_prob, count)


@pytest.mark.parametrize("std", [0.7, 1.0, 1.4])
def test_coverage_of_a_gaussian_of_the_wrong_width(std: float):
    """The region of level p of N(0, s² I₂), of radius s √(-2 log(1 - p)), holds 1 - (1 - p)^(s²) of N(0, I)."""
    candidates = candidates_of_standard_normal(400, 300, 8)
    points = torch.randn(400, 1, 20, 2, generator=seeded(9))
    # Up to a constant, as an energy is.
    f = normal_log_prob(candidates.points, 0.0, std) + 3
    found = coverage(density_rank(normal_log_prob(points, 0.0, std) + 3, f, candidates))
    for level, inside in found.items():
        # 8,000 points: 0.0056 at most; four of them, and 1/300 for the candidates' grain.
        assert float(inside.mean()) == pytest.approx(1 - (1 - level) ** (std**2), abs=0.026)


@pytest.mark.parametrize("std", [0.7, 1.0, 1.4])
def test_the_best_temperature_of_a_gaussian_of_the_wrong_width(std: float):
    """exp(f / T) of N(0, s² I) is N(0, T s² I), so the best T is 1 / s²."""
    candidates = candidates_of_standard_normal(400, 300, 10)
    points = torch.randn(400, 1, 20, 2, generator=seeded(11))
    found = best_temperature(
        normal_log_prob(points, 0.0, std) - 2, normal_log_prob(candidates.points, 0.0, std) - 2, candidates
    )
    # The variance of 16,000 normal numbers is known to 1.1 %; four times that.
    assert float(found) == pytest.approx(1 / std**2, rel=0.05)


def test_score_error_of_gaussians():
    """s = -x and -x / v differ by (1 - 1/v) x: E|.|² is (1 - 1/v)² d on N(0, I)."""
    points = torch.randn(50, 1, 200, 2, generator=seeded(12), dtype=torch.float64)
    model = scores(lambda x: normal_log_prob(x, 0.0, 2.0), points)
    reference = scores(normal_log_prob, points)
    torch.testing.assert_close(reference, -points)
    error, size = score_error(model, reference)
    assert float(error.mean()) == pytest.approx(0.75**2 * 2, rel=0.05)
    assert float(size.mean()) == pytest.approx(2, rel=0.05)


def test_permutation_sensitivity():
    context = torch.arange(6.0).view(1, 3, 2).expand(5, -1, -1)

    def symmetric(x: Tensor) -> Tensor:
        return x.sum((1, 2))[:, None].expand(-1, 4)

    def first_only(x: Tensor) -> Tensor:
        return x[:, :1, 0].expand(-1, 4)

    assert permutation_sensitivity(symmetric, context, 8, seeded()).max() < 1e-6
    # The first coordinate is 0, 2 or 4 with equal probability: variance 8/3. Thousands of orders: 2 %.
    found = permutation_sensitivity(first_only, context, 4000, seeded())
    torch.testing.assert_close(found, torch.full((5,), math.sqrt(8 / 3)), rtol=0.05, atol=0)
    with pytest.raises(UserError, match="permutations"):
        permutation_sensitivity(symmetric, context, 1)


def test_calibrate_finds_bayes_calibrated(untrained: EnergyDensity):
    task = GaussianMixtures(components=1, mean_std=2.0, std=1.0)
    reference = bayes(task)
    good = calibrate(reference, reference, task, (0, 4), datasets=120, candidates=100, held_out=4)
    for level, curve in good.coverage.items():
        interval = curve.interval(level=0.9999)
        assert (interval.low - 0.01 <= level).all()
        assert (level <= interval.high + 0.01).all()
    # The constant reference's log density at 480 points, of which the second half share a mean: 10 %, twice.
    torch.testing.assert_close(good.temperature, torch.ones(2).double(), rtol=0, atol=0.2)
    assert good.score_error.values.max() < 1e-6
    assert good.order.values.max() < 1e-3
    assert good.abs_log_z.values.max() == 0
    bad = calibrate(reference, untrained, task, (0, 4), datasets=40, candidates=64, held_out=2)
    assert bad.abs_log_z.values.mean() < 0.3
    assert float(bad.score_error.mean[1]) > 0.1
    assert len(bad.table().rows) == 2


# --------------------------------------------------------------------------------------------- two samples


def test_energy_distance_of_point_masses_and_of_equal_laws():
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    y = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]]])
    torch.testing.assert_close(energy_distance(x, y), torch.tensor([10.0]))
    a = torch.randn(300, 40, 2, generator=seeded(13))
    b = torch.randn(300, 60, 2, generator=seeded(14))
    equal = energy_distance(a, b)
    # Unbiased: the mean over 300 pairs is within four standard errors of zero (false alarms: 6e-5).
    assert equal.mean().abs() < 4 * equal.std() / math.sqrt(300)


def test_energy_distance_of_shifted_gaussians():
    """In one dimension 2 E|X-Y| - E|X-X'| - E|Y-Y'|, with E|N(m, 2)| = 2/√π e^(-m²/4) + m erf(m/2)."""
    a = torch.randn(200, 100, 1, generator=seeded(15), dtype=torch.float64)
    b = torch.randn(200, 100, 1, generator=seeded(16), dtype=torch.float64) + 1.5
    between = 2 / math.sqrt(math.pi) * math.exp(-(1.5**2) / 4) + 1.5 * math.erf(0.75)
    expected = 2 * between - 4 / math.sqrt(math.pi)
    found = energy_distance(a, b)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / math.sqrt(200))


def test_mmd_of_shifted_gaussians():
    """E k(X, Y) = h/√(h²+2) exp(-m² / 2(h²+2)) in one dimension, for a kernel of width h."""
    a = torch.randn(200, 80, 1, generator=seeded(17), dtype=torch.float64)
    b = torch.randn(200, 80, 1, generator=seeded(18), dtype=torch.float64) + 1.0
    found = mmd(a, b, width=0.8)
    h2 = 0.8**2
    expected = 2 * math.sqrt(h2 / (h2 + 2)) * (1 - math.exp(-1 / (2 * (h2 + 2))))
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / math.sqrt(200))
    same = mmd(a[:100], a[100:])
    assert same.mean().abs() < 4 * same.std() / 10


def test_a_classifier_tells_different_laws_apart_and_equal_ones_not():
    x = torch.randn(400, 2, generator=seeded(19))
    y = torch.randn(400, 2, generator=seeded(20))
    same = classifier_test(x, y)
    assert same.p_value > 0.001  # false alarms: one seed in a thousand
    shifted = classifier_test(x, y + 3)
    # Bayes' accuracy for a shift of (3, 3) is Φ(√18 / 2) = 0.983.
    assert shifted.accuracy == pytest.approx(0.983, abs=0.03)
    assert shifted.p_value < 1e-6
    with pytest.raises(UserError, match="at least 20"):
        classifier_test(x[:10], y[:10])
    with pytest.raises(UserError, match="same pairs"):
        energy_distance(x, y)
    with pytest.raises(UserError, match="two draws"):
        mmd(x[None, :1], y[None])


def test_mode_shares():
    law = Mixtures(
        torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log(),
        torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]]),
        0.1 * torch.eye(2).expand(1, 4, 2, 2),
    )
    found = mode_shares(law.sample(20_000, seeded(21)), law)
    torch.testing.assert_close(found.shares, law.log_weights.exp(), rtol=0, atol=0.015)
    assert float(found.recall) == 1
    assert float(found.weight_error) < 0.015
    # Everything at the first component, a tenth far from all.
    draws = torch.zeros(1, 100, 2)
    draws[:, :10] = 50
    found = mode_shares(draws, law)
    assert float(found.recall) == pytest.approx(1 / 3)
    assert float(found.lost) == pytest.approx(0.1)
    assert float(found.weight_error) == pytest.approx(0.5 * (0.4 + 0.3 + 0.2 + 0.1))
