"""Landscapes against closed forms: normalising constants, draws, and the landscape of a conditioned network.

Statistical checks are at 4.5 standard errors of one seed: 7e-6 false alarms each, were the seeds to change.
"""

from __future__ import annotations

import math

import pytest
import torch

from iclkit.energy.annealing import anneal
from iclkit.energy.landscape import EnergyLandscape
from iclkit.energy.network import EnergyTransformer
from iclkit.energy.quadrature import integrate
from iclkit.energy.rejection import draw
from iclkit.energy.samplers import HMC, MALA, Langevin
from iclkit.energy.student import Student
from iclkit.errors import UserError
from iclkit.tasks import BroadMixtures, GaussianMixtures, Mixtures

SIGMAS = 4.5
SHIFT = 1.7  # E = SHIFT - log p, so that log Z = -SHIFT


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def landscape(law: Mixtures, scale: float, anchors=None) -> EnergyLandscape:
    """The landscape of a batch of known densities."""
    batch, _, dim = law.means.shape
    centre = law.means.new_zeros(dim)
    matrix = scale * torch.eye(dim, dtype=centre.dtype)
    return EnergyLandscape(lambda x: SHIFT - law.log_prob(x), dim, batch, centre, matrix, anchors)


def gaussian(std: float, dim: int, batch: int = 1, mean: float = 0.0) -> Mixtures:
    factor = (std * torch.eye(dim)).expand(batch, 1, dim, dim)
    return Mixtures(torch.zeros(batch, 1), torch.full((batch, 1, dim), mean), factor)


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    n, m = len(a), len(b)
    return float(
        2 * torch.cdist(a, b).mean()
        - torch.cdist(a, a).sum() / (n * (n - 1))
        - torch.cdist(b, b).sum() / (m * (m - 1))
    )


class TestQuadrature:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    @pytest.mark.parametrize(("std", "mean"), [(1.0, 0.0), (0.3, 1.0), (1.2, -0.5)])
    def test_gaussians(self, dim, std, mean):
        found = landscape(gaussian(std, dim, 1, mean), 1.0).log_partition()
        # Either error counts as 3; 2e-5 is float32 rounding of energies near 10.
        assert abs(found.estimate.item() + SHIFT) <= 3 * found.error.item() + 2e-5
        assert found.error.item() < 5e-3  # in 3-D with std 1.2, the tail beyond the outermost cells
        assert "quadrature" in found.method

    @pytest.mark.parametrize(("dim", "std"), [(1, 0.33), (1, 0.05), (2, 0.33), (2, 0.1), (2, 0.05)])
    def test_narrow_modes_at_the_context(self, dim, std):
        """Modes down to a hundredth of the scale; the context tells where to look."""
        episodes = GaussianMixtures(dim=dim, std=std).draw(20, 24, generator(1))
        found = landscape(episodes.law, 5.0, episodes.x).log_partition()
        assert ((found.estimate + SHIFT).abs() <= 3 * found.error + 1e-3).all()
        assert found.error.max() <= 1e-3
        # Padded to the neediest of 20; a lattice this fine takes 10^6. Other seeds take 13,700 to 17,400.
        assert found.evaluations < 25_000

    def test_a_context_is_cut_as_if_it_were_alone(self):
        """Errors of 1e45, of cells that have not seen their mode yet, leave what comes after them as it is."""
        episodes = GaussianMixtures(std=0.05).draw(8, 24, generator(1))

        def cells(index: torch.Tensor) -> torch.Tensor:
            """How many cells each of these contexts has in the end, all integrated together."""
            law, count = episodes.law.take(index), len(index)
            energy = lambda x: SHIFT - law.log_prob(x)  # noqa: E731
            scale = 5 * torch.eye(2).expand(count, 2, 2)
            found = integrate(energy, torch.zeros(count, 2), scale, episodes.x[index])
            return torch.bincount(found.cells.owner, minlength=count)

        alone = torch.cat([cells(torch.tensor([i])) for i in range(8)])
        # Energies alone and together differ by rounding, and with it the order of cells that err alike: a cell
        # or two in some 750. With errors of any size in one sum there were up to 1.5 times as many.
        torch.testing.assert_close(cells(torch.arange(8)), alone, rtol=0.02, atol=0)

    def test_three_dimensions(self):
        episodes = GaussianMixtures(dim=3, std=0.33).draw(1, 24, generator(2))
        found = landscape(episodes.law, 5.0, episodes.x).log_partition(tolerance=1e-2)
        assert ((found.estimate + SHIFT).abs() <= 3 * found.error + 1e-3).all()
        assert found.error.max() <= 1e-2

    def test_mixed_widths_batched_equal_one_by_one(self):
        episodes = BroadMixtures().draw(6, 32, generator(3))
        together = landscape(episodes.law, 1.7, episodes.x).log_partition()
        # A component without a point in the context and narrower than the cells may be missed: up to its
        # weight.
        assert ((together.estimate + SHIFT).abs() <= 3 * together.error + 2e-3).all()
        law, x = episodes.law, episodes.x
        one = Mixtures(law.log_weights[4:5], law.means[4:5], law.scale_tril[4:5])
        alone = landscape(one, 1.7, x[4:5]).log_partition()
        torch.testing.assert_close(alone.estimate[0], together.estimate[4], rtol=0, atol=1e-6)

    def test_a_mode_far_outside_the_scale_is_found_through_its_point(self):
        law = gaussian(0.2, 2, 1, 11.0)
        found = landscape(law, 1.0, torch.full((1, 1, 2), 11.0)).log_partition()
        assert abs(found.estimate.item() + SHIFT) <= 3 * found.error.item() + 1e-4

    def test_tolerance_and_budget(self):
        episodes = GaussianMixtures().draw(4, 24, generator(4))
        coarse, fine = (landscape(episodes.law, 5.0, episodes.x).log_partition(t) for t in (1e-2, 1e-5))
        assert coarse.evaluations < fine.evaluations
        assert fine.error.max() <= 2e-5
        assert (fine.estimate + SHIFT).abs().max() < 1e-5
        stopped = landscape(episodes.law, 5.0, episodes.x).log_partition(1e-5, max_evaluations=5000)
        assert stopped.evaluations <= 5000
        assert stopped.error.max() > 1e-5

    def test_undefined_energies_are_refused(self):
        bad = EnergyLandscape(lambda x: x.sum(-1) * math.nan, 1, None, torch.zeros(1), torch.eye(1))
        with pytest.raises(UserError, match="NaN"):
            bad.log_partition()

    def test_an_energy_that_does_not_decay(self):
        """E = 0: nothing to normalise, but over the box [-6, 6]^2 Z = 144 exactly."""
        flat = EnergyLandscape(lambda x: 0.0 * x.sum(-1), 2, None, torch.zeros(2), torch.eye(2))
        assert flat.log_partition().estimate.item() == pytest.approx(math.log(144), abs=1e-5)
        assert flat.log_partition().error > 0.1
        with pytest.raises(UserError, match="does not decay"):
            flat.normalise()
        uniform = flat.normalise(truncate=True, generator=generator())
        inside = uniform.log_prob(torch.tensor([[5.9, 0.0], [6.1, 0.0]]))
        assert inside[0].item() == pytest.approx(-math.log(144), abs=1e-5)
        assert inside[1] == -math.inf
        assert uniform.sample((1000,)).abs().max() <= 6


class TestAnnealing:
    @pytest.mark.parametrize("dim", [4, 6])
    def test_gaussians(self, dim):
        law = gaussian(0.5, dim, 3, 0.7)
        found = landscape(law, 1.0).log_partition()
        assert "annealed" in found.method
        assert ((found.estimate + SHIFT).abs() <= SIGMAS * found.error).all()
        assert found.error.max() < 0.2

    def test_a_constant_added_to_the_energy_comes_off_exactly(self):
        law = gaussian(0.5, 4, 1, 0.7)
        start = Student(
            torch.zeros(1, 1, 4), torch.eye(4)[None, None], torch.full((1, 1), 8.0), torch.zeros(1, 1).bool()
        )
        one, other = (
            anneal(lambda x, c=c: c - law.log_prob(x[:, 0])[:, None], start, generator()) for c in (0.0, 40.0)
        )
        # float32: 40 more or less in each of some 20 increments of the log weight.
        assert (one.log_integral - other.log_integral).item() == pytest.approx(40, abs=1e-3)

    def test_mixture(self):
        law = GaussianMixtures(dim=5, mean_std=1.0, std=0.4).laws(4, generator(5))
        found = landscape(law, 1.2).log_partition()
        assert ((found.estimate + SHIFT).abs() <= SIGMAS * found.error + 0.05).all()
        assert found.error.max() < 0.4
        again = landscape(law, 1.2).log_partition()
        assert torch.equal(found.estimate, again.estimate)

    def test_draws_have_the_right_moments(self):
        law = GaussianMixtures(dim=5, mean_std=1.0, std=0.4).laws(2, generator(6))
        draws, chains = landscape(law, 1.2).sample(2000, generator=generator(7), diagnostics=True)
        mean, covariance = law.moments()
        deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        # Mode weights come from 512 weighted particles: an effective 60 at least.
        assert ((draws.mean(1) - mean).abs() < SIGMAS * deviation / math.sqrt(60)).all()
        assert chains.acceptance.min() > 0.6
        # Within the modes the chains are right: the mean log density is the entropy's, whatever the mode
        # weights.
        exact = law.log_prob(law.sample(4000, generator(8)))
        error = SIGMAS * exact.std(1) * math.sqrt(1 / 4000 + 1 / 400)
        assert ((law.log_prob(draws).mean(1) - exact.mean(1)).abs() < error).all()


class TestDraws:
    @pytest.mark.parametrize("dim", [1, 2])
    def test_draws_of_a_mixture(self, dim):
        """Means, covariances and mode weights of 20,000 independent draws for each of 4 contexts."""
        episodes = GaussianMixtures(dim=dim, mean_std=4.0).draw(4, 24, generator(9))
        law, size = episodes.law, 20_000
        draws, chains = landscape(law, 4.0, episodes.x).sample(size, generator=generator(10), diagnostics=True)
        assert draws.shape == (4, size, dim)
        mean, covariance = law.moments()
        deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((draws.mean(1) - mean).abs() < SIGMAS * deviation / math.sqrt(size)).all()
        exact = law.log_prob(law.sample(size, generator(11)))
        error = SIGMAS * exact.std(1) * math.sqrt(2 / size)
        assert ((law.log_prob(draws).mean(1) - exact.mean(1)).abs() < error + 1e-3).all()
        assert (chains.ess > 0.9 * size).all()
        assert (chains.rhat < 1.01).all()
        assert (chains.acceptance > 0.3).all()

    def test_rejection_corrects_a_coarse_quadrature(self):
        """Boxes as wide as the Gaussian: its moments up to the fourth still come out right."""
        law, size = gaussian(0.4, 2, 1, 0.2), 40_000
        energy, centre, scale = lambda x: -law.log_prob(x), torch.zeros(1, 2), torch.eye(2)[None]
        coarse = integrate(energy, centre, scale, tolerance=10.0)
        chains = draw(energy, centre, scale, coarse, size, generator(19))
        z = (chains.points[0] - 0.2) / 0.4
        assert chains.acceptance < 0.7
        # Variances of z, z² and z⁴ are 1, 2 and 96; a thousandth of the mass, at |z| < 5, may be lost.
        for power, moment, variance, lost in ((1, 0, 1, 5e-3), (2, 1, 2, 0.01), (4, 3, 96, 0.1)):
            error = (z.pow(power).mean() - moment).abs()
            assert error < SIGMAS * math.sqrt(variance / (2 * size)) + lost

    def test_energy_distance_to_exact_draws(self):
        episodes = BroadMixtures().draw(1, 32, generator(12))
        draws = landscape(episodes.law, 1.7, episodes.x).sample(2000, generator=generator(13))[0]
        between = [episodes.law.sample(2000, generator(20 + i))[0] for i in range(9)]
        # Unbiased statistic of two exact samples: mean 0. Theirs give its spread; ours must lie within 5 of it.
        null = torch.tensor([energy_distance(between[i], between[i + 1]) for i in range(8)])
        spread = null.square().mean().sqrt()
        assert energy_distance(draws, between[0]) < 5 * spread

    @pytest.mark.parametrize("sampler", [MALA(60, 60), HMC(30, 40), Langevin(200, step_size=5e-3)])
    def test_chains_start_with_the_right_mode_weights(self, sampler):
        """Modes 8 apart that no chain crosses: 100 chains of known start leave the weights to their noise."""
        weights = torch.tensor([[0.8, 0.2]]).log()
        law = Mixtures(weights, torch.tensor([[[-4.0, 0], [4, 0]]]), 0.3 * torch.eye(2).expand(1, 2, 2, 2))
        size = 100 * sampler.steps
        points, chains = landscape(law, 4.0).sample(size, sampler, generator(14), diagnostics=True)
        left = (points[0, :, 0] < 0).float().mean()
        assert abs(left - 0.8) < SIGMAS * math.sqrt(0.16 / 100)
        assert chains.draws.shape == (1, sampler.steps, 100, 2)
        assert chains.rhat[0, 0] > 1.3  # and the diagnostics say that they do not mix

    def test_generator_decides(self):
        single = landscape(gaussian(1.0, 2), 1.0)
        a, b, c = (single.sample(50, generator=generator(s)) for s in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        with pytest.raises(UserError, match="size"):
            single.sample(0)


class TestDistribution:
    def test_shapes_and_values_batched(self):
        episodes = GaussianMixtures(mean_std=2.0).draw(3, 16, generator(15))
        law = episodes.law
        normal = landscape(law, 2.0, episodes.x).normalise(generator=generator())
        assert normal.batch_shape == (3,)
        assert normal.event_shape == (2,)
        draws = normal.sample((5, 4))
        assert draws.shape == (5, 4, 3, 2)
        expected = law.log_prob(draws.movedim(-2, 0)).movedim(0, -1)
        torch.testing.assert_close(normal.log_prob(draws), expected, rtol=0, atol=1e-3)  # quadrature's
        assert normal.log_prob(torch.zeros(2)).shape == (3,)
        assert normal.sample().shape == (3, 2)

    def test_shapes_unbatched(self):
        alone = EnergyLandscape(lambda x: x.square().sum(-1), 1, None, torch.zeros(1), torch.eye(1))
        normal = alone.normalise(generator=generator())
        assert normal.batch_shape == ()
        assert normal.sample((7,)).shape == (7, 1)
        x = torch.randn(2, 3, 1, generator=generator())
        expected = torch.distributions.Normal(0.0, math.sqrt(0.5)).log_prob(x[..., 0])
        torch.testing.assert_close(normal.log_prob(x), expected, rtol=0, atol=1e-4)
        with pytest.raises(ValueError, match=r"shape|support|event"):
            normal.log_prob(torch.zeros(3, 2))

    def test_the_gradient_of_log_prob_is_the_score(self):
        law = gaussian(0.7, 2, 1, 0.3)
        land = landscape(law, 1.0)
        x = torch.randn(1, 5, 2, generator=generator()).requires_grad_()
        land.normalise().log_prob(x.transpose(0, 1)).sum().backward()
        torch.testing.assert_close(x.grad, land.score(x))
        torch.testing.assert_close(land.score(x), (-(x - 0.3) / 0.49).detach(), rtol=1e-4, atol=1e-4)


def test_affine_images_keep_their_constant():
    """y = M x + s: the landscape's density is the image's, its log Z the same, its draws the image's."""
    law = GaussianMixtures(mean_std=2.0).laws(2, generator(16))
    matrix = torch.tensor([[[30.0, 0], [5, 0.02]], [[1, 0.5], [-0.5, 1]]])
    shift = torch.tensor([[100.0, -3], [0, 0]])
    image = landscape(law, 2.0).affine(matrix, shift)
    moved = law.affine(matrix, shift)
    y = moved.sample(50, generator(17))
    torch.testing.assert_close(image.energy(y), SHIFT - moved.log_prob(y), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(image.log_partition().estimate, torch.full((2,), -SHIFT), rtol=0, atol=2e-3)
    mean, covariance = moved.moments()
    draws = image.sample(4000, generator=generator(18))
    deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(1) - mean).abs() < SIGMAS * deviation / math.sqrt(4000)).all()


def test_landscapes_refuse_what_does_not_fit():
    land = landscape(gaussian(1.0, 2, 3), 1.0)
    assert land.energy(torch.zeros(3, 2)).shape == (3,)
    assert land.energy(torch.zeros(3, 4, 5, 2)).shape == (3, 4, 5)
    for bad in (torch.zeros(3, 3), torch.zeros(2, 4, 2), torch.zeros(2)):
        with pytest.raises(UserError, match="points of this landscape"):
            land.energy(bad)
    with pytest.raises(UserError, match="centre"):
        EnergyLandscape(lambda x: x.sum(-1), 2, None, torch.zeros(3), torch.eye(2))
    assert not hasattr(land, "log_prob")


class TestConditionedNetwork:
    def network(self, **changes) -> EnergyTransformer:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = {"dim": 2, "width": 32, "layers": 2, "heads": 4, "base_std": 3.0}
            network = EnergyTransformer(**{**sizes, **changes})
            torch.nn.init.normal_(network.readout.weight, std=0.5)
        return network

    @pytest.mark.parametrize("points", [0, 1, 9])
    def test_energies_are_the_network_s(self, points):
        network = self.network().double()
        x = torch.randn(3, points + 1, 2, generator=generator(), dtype=torch.float64)
        land = network.condition(x[:, :points])
        expected = network.energies(x)[:, points].detach()
        torch.testing.assert_close(land.energy(x[:, points]), expected, rtol=0, atol=1e-12)
        alone = network.condition(x[1, :points])
        torch.testing.assert_close(alone.energy(x[1, points]), land.energy(x[:, points])[1], rtol=0, atol=1e-12)
        assert land.energy(x).dtype == torch.float64

    def test_chunks_do_not_show(self):
        network = self.network()
        land = network.condition(torch.randn(8, 2, generator=generator()))
        x = torch.randn(3000, 2, generator=generator(1))
        parts = torch.cat([land.energy(x[:100]), land.energy(x[100:])])
        torch.testing.assert_close(land.energy(x), parts, rtol=1e-5, atol=1e-5)

    def test_later_training_and_flags_do_not_show(self):
        network = self.network()
        context = torch.randn(8, 2, generator=generator())
        land = network.condition(context)
        x = torch.randn(5, 2, generator=generator(1))
        before = land.energy(x)
        assert not before.requires_grad
        land.sample(10, MALA(steps=5, warmup=5), generator())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1.0)
        assert torch.equal(land.energy(x), before)

    def test_normalised_network_integrates_to_one(self):
        """Against a plain lattice sum: 400² points over ±20."""
        network = self.network()
        normal = network.condition(torch.randn(5, 2, generator=generator())).normalise()
        axis = torch.linspace(-20, 20, 400)
        grid = torch.cartesian_prod(axis, axis)
        total = normal.log_prob(grid).double().logsumexp(0) + 2 * math.log(40 / 399)
        assert abs(total.item()) < 2e-3  # quadrature's tolerance, and as much for float32

    def test_what_is_refused(self):
        network = self.network(max_points=4)
        for shape in ((3,), (4, 3), (0, 3, 2), (1, 1, 1, 2)):
            with pytest.raises(UserError, match="context of this network"):
                network.condition(torch.zeros(shape))
        with pytest.raises(UserError, match="NaN"):
            network.condition(torch.tensor([[0.0, math.nan]]))
        with pytest.raises(UserError, match="at most 4"):
            network.condition(torch.zeros(5, 2))
        with pytest.warns(UserWarning, match="at most 4"):
            network.condition(torch.zeros(5, 2), allow_longer=True)
        with pytest.raises(UserError, match="no positions"):
            self.network(max_points=4, positions="learned").condition(torch.zeros(5, 2), allow_longer=True)

    def test_published_network_is_not_normalisable(self):
        network = self.network(base_std=None)
        land = network.condition(torch.zeros(1, 2))
        assert torch.equal(land.scale, 15 / 4 * torch.eye(2))
        with pytest.raises(UserError, match="does not decay"):
            land.normalise()

    def test_inference_mode(self):
        network, context = self.network(), torch.zeros(2, 2)
        with torch.inference_mode():
            land = network.condition(context)
        x = torch.ones(1, 2)
        with torch.inference_mode():
            inside = land.score(x)
        torch.testing.assert_close(inside, land.score(x))


def test_a_far_point_of_the_context_hides_nothing():
    """Ten points near and one at 10,000: the box is widened a thousandfold, and every mode still is found."""
    near = gaussian(0.3, 2, 1)
    far = torch.tensor([[[1e4, 0.0]]])
    law = Mixtures(
        torch.tensor([[10 / 11, 1 / 11]]).log(),
        torch.cat([near.means, far], 1),
        0.3 * torch.eye(2).expand(1, 2, 2, 2),
    )
    anchors = torch.cat([0.3 * torch.randn(1, 10, 2, generator=generator()), far], 1)
    for held in (anchors, far):  # the near mode is within four scales: it needs no anchor
        found = landscape(law, 1.0, held).log_partition()
        # float32 of points near 10,000: steps of 1e-3, in units of 0.3.
        assert abs(found.estimate.item() + SHIFT) < 3e-3
        assert found.error.item() < 2e-3


def test_a_constant_that_is_not_known_is_refused():
    """A spike of width 1e-6 on a tenth of the mass, seen at its anchor alone, at the deepest cut."""
    at, width = torch.tensor([[[2.0, 1.0, 0.0]]], dtype=torch.float64), 1e-6

    def energy(x: torch.Tensor) -> torch.Tensor:
        spike = -0.5 * ((x - at) / width).square().sum(-1) - 3 * math.log(width)
        return -torch.logaddexp(-0.5 * x.square().sum(-1), spike)

    centre = torch.zeros(3, dtype=torch.float64)
    land = EnergyLandscape(energy, 3, None, centre, torch.eye(3).double(), anchors=at[0])
    found = land.log_partition()
    assert not found.error <= 1
    with pytest.raises(UserError, match="log Z is too uncertain to normalise with"):
        land.normalise()
