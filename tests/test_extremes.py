"""Any finite number gives a finite answer, -inf where the truth is beyond a double, or a refusal; never NaN."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

import iclkit
from iclkit.energy import EnergyTransformer
from iclkit.errors import UserError
from iclkit.estimators import InContextDensity, InContextRegression
from iclkit.learners.standardise import Whitening
from iclkit.networks import power_of_two, within_reach
from iclkit.regression.mixture import mixture_of
from iclkit.regression.units import Units

Array = NDArray[np.float64]
# Largest and smallest units in which 20 numbers of order one keep all of their digits.
UNITS = (-300, -160, -20, 20, 155, 300)
FAR = [10.0**k for k in (6, 12, 18, 19, 20, 38, 39, 100, 154, 155, 200, 308)]


@cache
def data() -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 2))
    return x, x @ [1.0, 2.0] + 0.1 * generator.normal(size=20)


@cache
def density() -> InContextDensity:
    return InContextDensity().fit(data()[0])


@cache
def regression() -> InContextRegression:
    return InContextRegression().fit(*data())


class TestDensities:
    @pytest.mark.parametrize("exponent", UNITS)
    def test_units_change_the_density_by_their_jacobian_alone(self, exponent: int) -> None:
        x, _ = data()
        scaled = InContextDensity().fit(x * 10.0**exponent)
        found = scaled.score_samples(x * 10.0**exponent) + 2 * exponent * math.log(10)
        np.testing.assert_allclose(found, density().score_samples(x), atol=1e-6)

    def test_columns_may_have_units_of_any_two_sizes(self) -> None:
        x, _ = data()
        units = np.array([1e200, 1e-200])
        np.testing.assert_allclose(
            InContextDensity().fit(x * units).score_samples(x * units), density().score_samples(x), atol=1e-6
        )

    def test_falls_as_its_base_does_however_far_a_point_lies(self) -> None:
        points = np.array([[far, -0.3 * far] for far in FAR])
        found = density().score_samples(points)
        assert not np.isnan(found).any()
        # Far out log p is -|z|²/2S² with z linear in x, to a relative error of the network's bounded part.
        representable = np.array(FAR) < 1e150
        ratio = found[representable] / np.array(FAR)[representable] ** 2
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        assert (found[~representable] == -math.inf).all()

    @pytest.mark.parametrize("name", ["energy-2d", "energy-mixtures"])
    def test_in_single_precision_too(self, name: str) -> None:
        learner = iclkit.load(name, "energy")
        context = torch.tensor(data()[0])
        corners = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        points = torch.cat([far * corners for far in (*FAR, math.inf) if far < math.inf])
        infinite = torch.tensor([[math.inf, 0.0], [-math.inf, math.inf]], dtype=torch.float64)
        landscape = learner.condition(context)
        p = landscape.normalise()
        assert not p.log_prob(points).isnan().any()
        assert (p.log_prob(infinite) == -math.inf).all()
        assert (p.log_prob(points[-3:]) == -math.inf).all()
        assert not landscape.score(points).isnan().any()

    def test_a_context_of_any_size_reaches_a_model_without_standard_units(self) -> None:
        learner = iclkit.load("energy-mixtures", "energy")
        for far in FAR:
            context = torch.tensor([[0.0, 1.0], [far, -far], [1.0, 1.0]], dtype=torch.float64)
            assert learner.condition(context).energy(torch.zeros(1, 2)).isfinite().all()

    def test_an_energy_that_nothing_confines_stays_finite(self) -> None:
        network = EnergyTransformer(dim=2, width=16, layers=2, heads=2)
        energy = network.condition(torch.randn(5, 2)).energy(torch.tensor([[1e30, 1.0], [math.inf, 0.0]]))
        assert energy.isfinite().all()


class TestRegression:
    @pytest.mark.parametrize("exponent", UNITS)
    def test_units_of_inputs_and_targets_change_nothing_else(self, exponent: int) -> None:
        x, y = data()
        unit = 10.0**exponent
        expected = np.stack(regression().predict(x, return_std=True))
        inputs = np.stack(InContextRegression().fit(x * unit, y).predict(x * unit, return_std=True))
        np.testing.assert_allclose(inputs, expected, atol=1e-6)
        fitted = InContextRegression().fit(x, y * unit)
        np.testing.assert_allclose(np.stack(fitted.predict(x, return_std=True)) / unit, expected, atol=1e-6)
        log_density = fitted.log_prob(x, y * unit) + exponent * math.log(10)
        np.testing.assert_allclose(log_density, regression().log_prob(x, y), atol=1e-6)

    def test_far_inputs_have_one_prediction_along_a_ray(self) -> None:
        points = np.array([[far, -0.3 * far] for far in FAR[2:]])
        mean, std = regression().predict(points, return_std=True)
        np.testing.assert_allclose(mean, mean[0], atol=1e-3)
        np.testing.assert_allclose(std, std[0], atol=1e-3)

    def test_in_single_precision_too(self) -> None:
        learner = iclkit.load("general", "regression")
        x, y = (torch.tensor(part, dtype=torch.float32)[None] for part in data())
        queries = torch.tensor([[far, -0.3 * far] for far in FAR[1:6]], dtype=torch.float32)
        found = learner.predict_queries(x, y, queries[None, None], [20])
        torch.testing.assert_close(found, found[..., :1].expand_as(found), atol=1e-2, rtol=0)

    @pytest.mark.parametrize("name", ["linear", "general"])
    def test_pairs_of_any_size_give_finite_predictions(self, name: str) -> None:
        learner = iclkit.load(name, "regression")
        x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = x.sum(-1)
        for far in FAR[:-1]:
            moved, targets = x.clone(), y.clone()
            moved[0, 2], targets[0, 3] = far, -far
            assert learner.predict(moved, targets).isfinite().all()

    def test_targets_that_are_nan_are_refused(self) -> None:
        x, y = data()
        with pytest.raises(UserError, match="targets hold NaN"):
            regression().log_prob(x[:2], [y[0], math.nan])

    def test_targets_of_any_size_have_a_log_density(self) -> None:
        x, _ = data()
        found = regression().log_prob(np.repeat(x[:1], len(FAR), 0), FAR)
        assert not np.isnan(found).any()
        assert (found[np.array(FAR) > 1e154] == -math.inf).all()
        assert np.isfinite(found[np.array(FAR) < 1e150]).all()


def test_quantiles_are_exact_in_the_tails() -> None:
    weights, means, stds = (
        np.array([0.7, 0.3 - 1e-9, 1e-9]),
        np.array([0.0, 5.0, -40.0]),
        np.array([1.0, 0.1, 9.0]),
    )
    mixture = mixture_of(*(torch.tensor(part)[None] for part in (np.log(weights), means, stds)))
    levels = [5e-324, 1e-300, 1e-30, 1e-17, 1e-12, 1e-6, 0.3, 0.5, 0.9]

    def expected(level: float) -> float:
        def gap(value: float) -> float:
            return float(logsumexp(np.log(weights) + norm.logcdf(value, means, stds)) - math.log(level))

        return brentq(gap, -1e3, 1e3, xtol=1e-12)

    found = mixture.icdf(torch.tensor(levels, dtype=torch.float64))[:, 0].numpy()
    np.testing.assert_allclose(found, [expected(level) for level in levels], rtol=1e-10)
    # The upper tail is the lower tail of the negative: 1 - 2⁻⁵³ is the largest level below one.
    upper = mixture.icdf(torch.tensor([1 - 2**-53], dtype=torch.float64))
    mirrored = mixture_of(*(torch.tensor(part)[None] for part in (np.log(weights), -means, stds)))
    torch.testing.assert_close(upper, -mirrored.icdf(torch.tensor([2**-53], dtype=torch.float64)))


def test_moments_of_mixtures_survive_small_units() -> None:
    parts = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]])
    logits, means, stds = (part.double() for part in parts)
    plain, small = mixture_of(logits, means, stds), mixture_of(logits, 1e-200 * means, 1e-200 * stds)
    reference = torch.distributions.MixtureSameFamily(plain.mixture_distribution, plain.component_distribution)
    torch.testing.assert_close(plain.stddev, reference.stddev)
    torch.testing.assert_close(plain.log_prob(torch.tensor([0.3])), reference.log_prob(torch.tensor([0.3])))
    torch.testing.assert_close(small.stddev / 1e-200, plain.stddev)
    points = torch.tensor([0.3], dtype=torch.float64)
    shifted = small.log_prob(1e-200 * points) + math.log(1e-200)
    torch.testing.assert_close(shifted, plain.log_prob(points), rtol=1e-12, atol=0)


def test_power_of_two_divides_exactly() -> None:
    magnitudes = torch.tensor([0.0, 5e-324, 1e-310, 0.75, 1.0, 3.0, 1.7e308], dtype=torch.float64)
    expected = torch.tensor([1.0, 5e-324, 2.0**-1030, 0.5, 1.0, 2.0, 2.0**1023], dtype=torch.float64)
    assert power_of_two(magnitudes).equal(expected)


def test_points_within_reach_come_back_bit_for_bit() -> None:
    points = torch.randn(50, 3) * 1e6
    assert within_reach(points).equal(points)
    far = within_reach(torch.tensor([[3e30, -6e30, 0.0], [math.inf, 1.0, 0.0]]))
    torch.testing.assert_close(far[0], torch.tensor([5e11, -1e12, 0.0]))
    assert far[1].isfinite().all()


@pytest.mark.parametrize("exponent", UNITS)
def test_units_are_those_of_numpy(exponent: int) -> None:
    x, y = data()
    scaled, targets = torch.tensor(x * 10.0**exponent)[None], torch.tensor(y)[None]
    units = Units.fit(scaled, targets, torch.tensor([15]))
    np.testing.assert_allclose(units.x_mean[0] / 10.0**exponent, x[:15].mean(0), rtol=1e-12)
    np.testing.assert_allclose(units.x_std[0] / 10.0**exponent, x[:15].std(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(units.y_std[0], y[:15].std(ddof=1), rtol=1e-12)


def test_a_prefix_is_whitened_as_if_what_follows_were_not_there() -> None:
    x = torch.tensor(data()[0])
    x[10:] *= 1e300
    x[:10] *= 1e-300
    alone, among = Whitening.fit(x[:10]), Whitening.fit_prefixes(x, [10, 20])
    assert among.matrix[0].equal(alone.matrix)
    assert among.mean[0].equal(alone.mean)
    z = alone.forward(x[10:])
    assert not z.isnan().any()
