"""Samplers against closed forms. Seeds are fixed; tolerances are z-scores of stated false-alarm rate."""

from __future__ import annotations

import math

import pytest
import torch

from iclkit.energy.chains import State, energy_and_gradient
from iclkit.energy.diagnostics import effective_sample_size, split_rhat
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.samplers import HMC, MALA, SAMPLERS, Langevin
from iclkit.errors import UserError

# Every comparison below is of one seed at 4.5 standard errors or more: a false alarm at 7e-6 each if seeds
# change.
SIGMAS = 4.5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(precision: torch.Tensor):
    """E = k |x|² / 2, one k per context."""
    return lambda x: 0.5 * precision[:, None] * x.square().sum(-1)


EXAMPLES = {
    "Langevin": Langevin(steps=400, step_size=0.1),
    "MALA": MALA(steps=200, warmup=100),
    "HMC": HMC(steps=50, warmup=60, leapfrog=4),
}


def test_examples_cover_the_registry():
    assert EXAMPLES.keys() == SAMPLERS.keys()


@pytest.mark.parametrize("name", SAMPLERS)
class TestContract:
    """What every registered sampler does."""

    def test_shapes_dtype_and_reproducibility(self, name):
        sampler, energy = EXAMPLES[name], gaussian(torch.ones(3, dtype=torch.float64))
        start = torch.zeros(3, 7, 2, dtype=torch.float64)
        chains, again = (sampler.run(energy, start, generator(1)) for _ in range(2))
        assert chains.draws.shape == (3, sampler.steps, 7, 2)
        assert chains.draws.dtype == torch.float64
        assert chains.acceptance.shape == (3,)
        assert chains.ess.shape == chains.rhat.shape == (3, 2)
        assert chains.last.shape == (3, 7, 2)
        assert chains.points.shape == (3, 7 * sampler.steps, 2)
        assert torch.equal(chains.draws, again.draws)

    def test_global_generator_and_weights_are_left_alone(self, name):
        weight = torch.nn.Parameter(torch.ones(()))
        before = torch.get_rng_state()
        EXAMPLES[name].run(lambda x: weight * x.square().sum(-1), torch.zeros(2, 4, 2), generator())
        assert torch.equal(torch.get_rng_state(), before)
        assert weight.grad is None
        assert weight.requires_grad

    def test_moments_of_a_mixture(self, name):
        """Overlapping components at ±1.5: the mean is 0, the variance 1 + 1.5² (up to Langevin's bias)."""

        def energy(x):
            return -torch.logaddexp(-0.5 * (x - 1.5).square(), -0.5 * (x + 1.5).square()).sum(-1)

        start = 2 * torch.randn(1, 400, 1, generator=generator(2))
        chains = EXAMPLES[name].run(energy, start, generator(3))
        last = chains.draws[:, -1, :, 0]
        expected = 1 + 1.5**2
        tolerance = SIGMAS * math.sqrt(expected / 400)
        assert abs(last.mean()) < tolerance
        # var(x²) <= 2 expected² for these lighter than Gaussian tails; Langevin's bias at alpha = 0.1 is
        # below 5%.
        assert abs(last.var() - expected) < SIGMAS * expected * math.sqrt(2 / 400) + 0.05 * expected

    def test_temperature_scales_the_variance(self, name):
        changed = {"temperature": 0.25, "step_size": 0.05}
        sampler = type(EXAMPLES[name])(**{**EXAMPLES[name].__dict__, **changed})
        chains = sampler.run(
            gaussian(torch.ones(1)), 0.5 * torch.randn(1, 1000, 1, generator=generator(4)), generator(5)
        )
        variance = chains.last.var()
        assert abs(variance - 0.25) < 0.25 * (SIGMAS * math.sqrt(2 / 1000) + 0.03)

    def test_preconditioning_is_sampling_in_z(self, name):
        """With x = A z the chain in x is A times the chain of E(A z), noise for noise."""
        matrix = torch.tensor([[2.0, 0.0], [0.7, 0.3]], dtype=torch.float64)
        precision = torch.linalg.inv(matrix @ matrix.mT)

        def energy(x):
            return 0.5 * torch.einsum("...i,ij,...j->...", x, precision, x)

        start = torch.randn(1, 5, 2, generator=generator(), dtype=torch.float64)
        # A step size of its own: the warm-up's large first steps would amplify rounding errors.
        settings = {"steps": 20, "step_size": 0.3, "warmup": 0, "thin": 1}
        known = EXAMPLES[name].__dict__
        sampler = type(EXAMPLES[name])(**{**known, **{k: v for k, v in settings.items() if k in known}})
        direct = sampler.run(energy, start @ matrix.mT, generator(6), matrix)
        inner = sampler.run(lambda z: energy(z @ matrix.mT), start, generator(6))
        torch.testing.assert_close(direct.draws, inner.draws @ matrix.mT, rtol=1e-8, atol=1e-8)

    def test_no_steps_are_refused(self, name):
        with pytest.raises(UserError, match="steps"):
            type(EXAMPLES[name])(**{**EXAMPLES[name].__dict__, "steps": 0})


def test_langevin_bias_has_its_closed_form():
    """var = (tau / k) / (1 - alpha k / 2)."""
    precision, alpha, tau = torch.tensor([1.0, 4.0, 12.0]), 0.1, 0.5
    start = torch.zeros(3, 4000, 1)
    chains = Langevin(steps=80, step_size=alpha, temperature=tau).run(gaussian(precision), start, generator())
    expected = tau / precision / (1 - alpha * precision / 2)
    relative = chains.last.var((1, 2)) / expected - 1
    # After 80 steps the start is forgotten to 0.9^160 = 5e-8.
    assert relative.abs().max() < SIGMAS * math.sqrt(2 / 4000)


def test_langevin_noise_and_temperature_are_one_setting():
    published = Langevin.published()
    assert (published.steps, published.step_size, published.sigma) == (15, 3.16, 0.01)
    assert published.tau == pytest.approx(0.01**2 / (2 * 3.16))
    assert Langevin(1, step_size=0.5, temperature=0.3).sigma == pytest.approx(math.sqrt(2 * 0.5 * 0.3))
    with pytest.raises(UserError, match="not both"):
        Langevin(1, step_size=0.1, temperature=0.5, noise_std=0.1)


def test_langevin_longest_move():
    chains = Langevin(steps=1, step_size=1.0, temperature=0.0, max_move=0.5).run(
        gaussian(torch.ones(1)), torch.tensor([[[3.0, 4.0], [0.1, 0.0]]])
    )
    torch.testing.assert_close(chains.last, torch.tensor([[[2.7, 3.6], [0.0, 0.0]]]))


def test_mala_is_hmc_with_one_leapfrog_step():
    """Same noise, epsilon = sqrt(2 alpha), tau = 1: the same proposal and the same acceptance probability."""
    energy = lambda x: x.pow(4).sum(-1) + x.square().sum(-1)  # noqa: E731
    x = torch.randn(2, 50, 3, generator=generator(), dtype=torch.float64)
    alpha = torch.tensor([0.05, 0.2], dtype=torch.float64)
    mala, hmc = MALA(1), HMC(1, leapfrog=1)
    state = mala.init(energy, x)
    momentum = torch.randn(x.shape, generator=generator(7), dtype=x.dtype)
    proposal, final = hmc.trajectory(energy, state, momentum, (2 * alpha).sqrt()[:, None].expand(2, 50))
    log_ratio = state.energy - proposal.energy + 0.5 * (momentum.square() - final.square()).sum(-1)
    moved, info = mala.step(energy, state, alpha, None, generator(7))
    torch.testing.assert_close(info.acceptance, log_ratio.clamp_max(0).exp(), rtol=1e-10, atol=1e-12)
    accepted = (moved.x != state.x).any(-1)
    assert accepted.any()
    torch.testing.assert_close(moved.x[accepted], proposal.x[accepted], rtol=1e-10, atol=1e-12)


def test_hmc_is_reversible_and_conserves_energy_to_second_order():
    energy = lambda x: x.pow(4).sum(-1) + 0.5 * x.square().sum(-1)  # noqa: E731
    x = torch.randn(1, 20, 2, generator=generator(), dtype=torch.float64)
    momentum = torch.randn(x.shape, generator=generator(1), dtype=x.dtype)
    errors = []
    for leapfrog in (32, 64):
        sampler = HMC(1, leapfrog=leapfrog)
        step = torch.full((1, 20), 0.64 / leapfrog, dtype=torch.float64)
        state = sampler.init(energy, x)
        forward, final = sampler.trajectory(energy, state, momentum, step)
        back, _ = sampler.trajectory(energy, forward, -final, step)
        torch.testing.assert_close(back.x, x, rtol=0, atol=1e-10)  # rounding of 128 float64 steps
        change = forward.energy - state.energy + 0.5 * (final.square() - momentum.square()).sum(-1)
        errors.append(change.abs().mean())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # halving the step quarters the error


def test_adaptation_finds_the_step_size_of_every_context():
    """Contexts that differ 100-fold in width accept alike, with step sizes that differ accordingly."""
    chains = MALA(steps=200, warmup=300).run(
        gaussian(torch.tensor([1.0, 1e4])), torch.zeros(2, 32, 2), generator()
    )
    assert (chains.acceptance - 0.574).abs().max() < 0.06
    assert chains.step_size[0] / chains.step_size[1] == pytest.approx(1e4, rel=0.3)
    assert chains.rhat.max() < 1.02


def test_moves_into_forbidden_regions_are_refused():
    """E = infinity or NaN outside [0, 1]: a uniform law, of mean 1/2 and variance 1/12."""

    def energy(x):
        inside = ((x > 0) & (x < 1)).all(-1)
        return torch.where(inside, 0.0 * x.sum(-1), torch.where((x > 1).any(-1), math.nan, math.inf))

    start = torch.rand(1, 500, 1, generator=generator())
    chains = MALA(steps=50, warmup=50).run(energy, start, generator())
    assert ((chains.draws > 0) & (chains.draws < 1)).all()
    assert abs(chains.last.mean() - 0.5) < SIGMAS * math.sqrt(1 / 12 / 500)
    with pytest.raises(UserError, match="starting point"):
        MALA(steps=1).run(energy, torch.full((1, 1, 1), 2.0))


def test_gradients_leave_the_points_alone_and_work_in_inference_mode():
    x = torch.randn(2, 3, 2, generator=generator())
    with torch.inference_mode():
        value, gradient = energy_and_gradient(lambda p: p.square().sum(-1), x)
    assert not x.requires_grad
    torch.testing.assert_close(gradient, 2 * x)
    torch.testing.assert_close(value, x.square().sum(-1))


def test_states_are_chosen_by_chain():
    a, b = (
        State(torch.full((1, 2, 3), v), torch.full((1, 2), v), torch.full((1, 2, 3), v)) for v in (1.0, 2.0)
    )
    chosen = a.where(torch.tensor([[True, False]]), b)
    assert chosen.energy.tolist() == [[1.0, 2.0]]
    assert chosen.x[0, :, 0].tolist() == [1.0, 2.0]


class TestDiagnostics:
    def autoregression(self, phi: float, length: int = 4000, chains: int = 8) -> torch.Tensor:
        noise = torch.randn(length, chains, generator=generator(8), dtype=torch.float64)
        draws = [noise[0]]
        for n in noise[1:]:
            draws.append(phi * draws[-1] + math.sqrt(1 - phi**2) * n)
        return torch.stack(draws)[:, :, None]

    @pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
    def test_size_of_an_autoregression(self, phi):
        """An AR(1) chain of length n is worth n (1 - phi) / (1 + phi) draws; 10% is noise of Geyer's sum."""
        draws = self.autoregression(phi)
        expected = 32000 * (1 - phi) / (1 + phi)
        for rank in (True, False):
            assert effective_sample_size(draws, rank).item() == pytest.approx(expected, rel=0.1)
        assert split_rhat(draws).item() < 1.01

    def test_rhat_by_hand(self):
        """Two chains 0 1 2 3 and 4 5 6 7: halves of variance 1/2; means 1/2, 5/2, 9/2, 13/2."""
        draws = torch.tensor([[0.0, 4], [1, 5], [2, 6], [3, 7]], dtype=torch.float64)[..., None]
        expected = math.sqrt((0.5 * 0.5 + 20 / 3) / 0.5)
        assert split_rhat(draws, rank=False).item() == pytest.approx(expected, rel=1e-12)

    def test_rhat_sees_disagreement_in_place_spread_and_time(self):
        draws = self.autoregression(0.0, 500, 4)
        assert split_rhat(draws).item() < 1.01
        shifted, spread, drift = draws.clone(), draws.clone(), draws.clone()
        shifted[:, 0] += 2
        spread[:, 0] *= 4
        drift += torch.linspace(-2, 2, 500, dtype=torch.float64)[:, None, None]
        for bad in (shifted, spread, drift):
            assert split_rhat(bad).item() > 1.1
        assert effective_sample_size(shifted).item() < 50

    def test_batches_are_independent(self):
        draws = torch.stack([self.autoregression(0.3, 200, 4), self.autoregression(0.8, 200, 4)])
        torch.testing.assert_close(effective_sample_size(draws)[1], effective_sample_size(draws[1]))
        torch.testing.assert_close(split_rhat(draws)[1], split_rhat(draws[1]))

    def test_undefined_cases_are_nan(self):
        assert split_rhat(torch.zeros(3, 2, 1)).isnan().all()
        assert effective_sample_size(torch.zeros(3, 2, 1)).isnan().all()
        assert split_rhat(torch.zeros(10, 2, 1)).isnan().all()
        assert effective_sample_size(torch.zeros(10, 2, 1)).isnan().all()


def equation_5(score, x, generator):
    """The published sampler as written: 15 times x <- x - alpha grad E + omega, omega ~ N(0, sigma² I)."""
    for _ in range(15):
        x = x + 3.16 * score(x) + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


class TestPublished:
    """On an energy whose scale is 7: rescaled, the steps would be 49 times as long."""

    @staticmethod
    def landscape(batch=None, dtype=torch.float32):
        stiffness = torch.linspace(0.05, 0.2, batch or 1, dtype=dtype)[:, None]
        return EnergyLandscape(
            lambda x: stiffness * (x**2).sum(-1) + 0.1 * x.sin().sum(-1),
            2,
            batch,
            torch.ones(2, dtype=dtype),
            7 * torch.eye(2, dtype=dtype),
        )

    @pytest.mark.parametrize("batch", [None, 3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_by_its_name_it_is_equation_5_draw_for_draw(self, batch, dtype):
        land = self.landscape(batch, dtype)
        literal = generator(4)
        shape = (500, 2) if batch is None else (batch, 500, 2)
        start = torch.empty(shape, dtype=dtype).uniform_(-15, 15, generator=literal)
        expected = equation_5(land.score, start, literal)
        for options in ({}, {"start": "uniform", "precondition": False}, {"start": "uniform"}):
            found = land.sample(500, Langevin.published(), generator(4), **options)
            assert torch.equal(found, expected)
        # The numbers alone, told to start and step as the paper does.
        plain = Langevin(steps=15, step_size=3.16, noise_std=0.01)
        found = land.sample(500, plain, generator(4), start="uniform", precondition=False)
        assert torch.equal(found, expected)

    def test_it_ends_where_the_energy_is_least(self):
        land = EnergyLandscape(lambda x: 0.05 * (x**2).sum(-1), 2, None, torch.zeros(2), 7 * torch.eye(2))
        points = land.sample(500, Langevin.published(), generator())
        # 15 (1 - 0.316)^15 = 0.05, and noise of 0.01 / sqrt(1 - 0.684²) = 0.014.
        assert points.abs().max() < 0.05 + 6 * 0.014

    def test_from_given_points(self):
        land = self.landscape()
        start = torch.randn(20, 2, generator=generator(1))
        expected = equation_5(land.score, start, generator(2))
        sampler = Langevin.published()
        assert torch.equal(land.sample(20, sampler, generator(2), start=start), expected)
        assert torch.equal(land.sample(20, sampler, generator(2), start=start.tolist()), expected)
        draws, chains = land.sample(20, sampler, generator(2), start=start, diagnostics=True)
        assert torch.equal(draws, chains.last)
        assert chains.draws.shape == (15, 20, 2)

    def test_every_sampler_starts_where_it_is_told(self):
        land = self.landscape(3)
        start = torch.full((3, 10, 2), 2.0)
        for sampler in (Langevin(steps=1, step_size=1e-12), MALA(1, warmup=0, step_size=1e-12), None):
            draws = land.sample(10, sampler, generator(), start=start, precondition=False)
            assert draws.shape == (3, 10, 2)
            if sampler is not None:
                torch.testing.assert_close(draws, start, atol=1e-4, rtol=0)

    def test_without_preconditioning_steps_are_in_units_of_x(self):
        land, start = self.landscape(), torch.ones(5, 2)
        sampler = Langevin(steps=2, step_size=0.1)
        chains = sampler.run(land.energy, start[None], generator())
        assert torch.equal(
            land.sample(5, sampler, generator(), start=start, precondition=False), chains.last[0]
        )
        scaled = sampler.run(land.energy, start[None], generator(), 7 * torch.eye(2))
        assert torch.equal(land.sample(5, sampler, generator(), start=start), scaled.last[0])

    @pytest.mark.parametrize(
        ("start", "words"),
        [
            ("normal", "unknown start 'normal'"),
            (torch.zeros(4, 2), r"one point for each of 5 draws, \[5, 2\], given \[4, 2\]"),
            (torch.zeros(5, 3), r"given \[5, 3\]"),
            (torch.full((5, 2), math.nan), "start must be finite"),
        ],
    )
    def test_refuses_other_starts(self, start, words):
        with pytest.raises(UserError, match=words):
            self.landscape().sample(5, Langevin.published(), start=start)
