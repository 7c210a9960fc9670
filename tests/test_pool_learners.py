"""Bayes' predictions for pools of linear functions, against explicit sums over the members."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from iclkit.errors import UserError
from iclkit.learners import BayesLinear, PoolPosterior, Ridge, SmoothedPoolPosterior, bayes
from iclkit.tasks import LinearPool

POOL = LinearPool(size=37, dim=3, noise_std=0.5, seed=1)
LEARNERS = [PoolPosterior(POOL, 0.5), SmoothedPoolPosterior(POOL, 0.5, 0.3)]


def data(points: int = 9, episodes: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x, y = POOL.sample(episodes, points, torch.Generator().manual_seed(0))
    return x.to(dtype), y.to(dtype)


def covariance(x: Tensor, noise_std: float, spread: float) -> Tensor:
    """Of the targets of one episode, given the member."""
    return noise_std**2 * torch.eye(len(x)).double() + spread**2 * x @ x.mT


def log_joint(x: Tensor, y: Tensor, noise_std: float, spread: float) -> Tensor:
    """log p(y | m) + log 1/M of each member, for the pairs of one episode."""
    members = POOL.weights().double()
    if not len(x):
        return torch.full((POOL.size,), -math.log(POOL.size), dtype=torch.float64)
    normal = MultivariateNormal(members @ x.mT, covariance(x, noise_std, spread))
    return normal.log_prob(y) - math.log(POOL.size)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_weights_are_explicit_sums_over_the_members(spread: float) -> None:
    learner = SmoothedPoolPosterior(POOL, 0.5, spread) if spread else PoolPosterior(POOL, 0.5)
    x, y = data()
    members = POOL.weights().double()
    found = learner.weights(x, y, range(10))
    for b in range(4):
        for n in range(10):
            inputs, targets = x[b, :n], y[b, :n]
            posterior = log_joint(inputs, targets, 0.5, spread).softmax(0)
            # Conditioned on the data, each member's Gaussian moves to its own ridge solution.
            gain = spread**2 * inputs.mT @ torch.linalg.inv(covariance(inputs, 0.5, spread))
            moved = members + (targets - members @ inputs.mT) @ gain.mT
            torch.testing.assert_close(found[b, n], posterior @ moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
class TestDistribution:
    def test_log_probabilities_are_ratios_of_evidences(
        self, learner: PoolPosterior | SmoothedPoolPosterior
    ) -> None:
        spread = getattr(learner, "spread", 0.0)
        x, y = data()
        found = learner.log_prob(x, y)
        for b in range(4):
            joint = [torch.logsumexp(log_joint(x[b, :n], y[b, :n], 0.5, spread), 0) for n in range(10)]
            torch.testing.assert_close(found[b], torch.stack(joint).diff(), rtol=0, atol=1e-11)

    def test_is_written_out_alike(self, learner: PoolPosterior | SmoothedPoolPosterior) -> None:
        x, y = data()
        written = learner.distribution(x, y)
        torch.testing.assert_close(written.log_prob(y), learner.log_prob(x, y), rtol=0, atol=1e-11)
        torch.testing.assert_close(written.mean, learner.predict(x, y), rtol=0, atol=1e-11)
        assert written.batch_shape == y.shape
        assert (written.variance >= 0.25).all()

    def test_in_float32(self, learner: PoolPosterior | SmoothedPoolPosterior) -> None:
        narrow = learner.log_prob(*data(dtype=torch.float32))
        assert narrow.dtype == torch.float32
        # Seven digits of sums that reach some 100 for the members that matter.
        torch.testing.assert_close(narrow.double(), learner.log_prob(*data()), rtol=0, atol=2e-4)

    def test_too_large_to_write_out(
        self, learner: PoolPosterior | SmoothedPoolPosterior, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iclkit.learners.pool_posterior._WRITTEN_OUT", 1000)
        with pytest.raises(UserError, match="37 components"):
            learner.distribution(*data())


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
def test_many_small_parts_are_as_one(
    learner: PoolPosterior | SmoothedPoolPosterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data()
    whole, scores = learner.weights(x, y, [0, 3, 9]), learner.log_prob(x, y)
    monkeypatch.setattr("iclkit.learners.pool_posterior._HELD", 100)
    monkeypatch.setattr("iclkit.learners.pool_posterior._ROWS", 20)
    torch.testing.assert_close(learner.weights(x, y, [0, 3, 9]), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(learner.log_prob(x, y), scores, rtol=0, atol=1e-11)


def test_before_any_pair_the_mean_of_the_pool() -> None:
    x, y = data()
    for learner in (PoolPosterior(POOL, 0.5), PoolPosterior(POOL, 0.0), SmoothedPoolPosterior(POOL, 0.5)):
        found = learner.weights(x, y, [0])
        torch.testing.assert_close(found[:, 0], POOL.weights().double().mean(0).expand(4, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_the_member_that_fits(dtype: torch.dtype) -> None:
    members = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    members[1] = members[0]
    x = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = (x * members[[7, 8, 0], None]).sum(-1)
    learner = PoolPosterior(members, 0.0)
    found = learner.weights(x, y, range(1, 21))
    # One pair is enough but for members that agree on it up to rounding: some 8 eps of 1000 are none.
    torch.testing.assert_close(found[:2], members[[7, 8], None].expand(-1, 20, -1), rtol=0, atol=1e-6)
    # Equal members share.
    torch.testing.assert_close(found[2], members[0].expand(20, -1), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="no density"):
        learner.log_prob(x, y)
    with pytest.raises(UserError, match="no density"):
        learner.distribution(x, y)


def test_small_noise_does_not_cancel_in_float32() -> None:
    """Products of quadratic features would: y² = 10⁶ noise², of which float32 keeps 7 digits."""
    pool = LinearPool(size=512, dim=8, noise_std=1e-3)
    centre = pool.weights()[:1]
    # Neighbours that differ by about the noise, so that the posterior is spread over several.
    members = centre + 5e-4 * pool.weights()
    x = torch.randn(4, 30, 8, generator=torch.Generator().manual_seed(0))
    y = (x @ members[3]) + 1e-3 * torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    narrow = PoolPosterior(members, 1e-3).weights(x, y)
    wide = PoolPosterior(members.double(), 1e-3).weights(x.double(), y.double())
    # Rounding of x, y and w x is 1e-7 or 1e-4 noise, on scores of some 10; weights differ by 5e-4 at most.
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=5e-6)


def test_a_pool_of_one_at_zero_widened_is_bayesian_regression() -> None:
    x, y = data()
    alone, ridge = SmoothedPoolPosterior(torch.zeros(1, 3), 0.5, 0.8), BayesLinear(0.5, 0.8)
    torch.testing.assert_close(alone.weights(x, y), ridge.weights(x, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.log_prob(x, y), ridge.log_prob(x, y), rtol=0, atol=1e-11)


def test_a_narrow_spread_is_none() -> None:
    x, y = data()
    narrow = SmoothedPoolPosterior(POOL, 0.5, 1e-6).weights(x, y)
    torch.testing.assert_close(narrow, PoolPosterior(POOL, 0.5).weights(x, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_large_pool_is_ridge_regression(spread: float) -> None:
    """A pool of N(0, I) is a sample of that prior; widened, of N(0, (1 + spread²) I)."""
    x, y = data()
    pool = LinearPool(size=2**16, dim=3)
    learner = SmoothedPoolPosterior(pool, 0.5, spread) if spread else PoolPosterior(pool, 0.5)
    ridge = Ridge(0.25 / (1 + spread**2)).weights(x, y)
    # The posterior's share of the prior's mass is about det(posterior / prior covariance)^½ ≥ (1/40)^1.5, so
    # some 250 members decide; the deviation 1/6 of the posterior over √250 is 0.01. Each of 108 within 5 of
    # those.
    torch.testing.assert_close(learner.weights(x, y), ridge, rtol=0, atol=0.05)


def test_bayes_of_a_pool_is_its_posterior() -> None:
    x, y = data()
    torch.testing.assert_close(bayes(POOL).predict(x, y), PoolPosterior(POOL, 0.5).predict(x, y))


MEMORY = """
import resource, torch
from iclkit.learners import PoolPosterior
from iclkit.tasks import LinearPool
torch.set_num_threads(1)
pool = LinearPool(size={size}, dim=8, noise_std=0.5)
x, y = pool.sample(64, 16, torch.Generator().manual_seed(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert PoolPosterior(pool, 0.5).predict(x, y).isfinite().all()
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(size: int) -> tuple[float, float]:
    """Largest memory of a process, in MB, before and after predicting with a pool of this size."""
    ran = subprocess.run([sys.executable, "-c", MEMORY.format(size=size)], capture_output=True, check=True)
    before, after = ran.stdout.split()
    return int(before) / 1e3, int(after) / 1e3  # Linux counts in KiB


def test_memory_does_not_grow_with_the_pool() -> None:
    # All scores at once would be 64 x 16 x 2¹⁷ numbers, 537 MB; the pool itself is 4 MB.
    before, after = peak(2**17)
    assert after - before < 150


@pytest.mark.slow
def test_a_million_members_take_less_than_two_gigabytes() -> None:
    assert peak(2**20)[1] < 2000


class TestRefuses:
    @pytest.mark.parametrize("pool", [torch.ones(3), torch.ones(0, 2), torch.ones(2, 2, dtype=torch.int64), 3])
    def test_a_pool_that_is_none(self, pool: object) -> None:
        with pytest.raises(UserError, match="pool must be"):
            PoolPosterior(pool, 0.5)  # type: ignore[arg-type]

    def test_numbers_that_are_none(self) -> None:
        with pytest.raises(UserError, match="NaN"):
            PoolPosterior(torch.full((2, 2), math.nan), 0.5)
        with pytest.raises(UserError, match="must not be negative, given -1"):
            PoolPosterior(POOL, -1.0)
        with pytest.raises(UserError, match="must not be negative, given nan"):
            PoolPosterior(POOL, math.nan)
        with pytest.raises(UserError, match=r"positive.*PoolPosterior"):
            SmoothedPoolPosterior(POOL, 0.5, 0.0)
        with pytest.raises(UserError, match="positive"):
            SmoothedPoolPosterior(POOL, 0.0, 0.1)

    def test_inputs_of_another_dimension(self) -> None:
        with pytest.raises(UserError, match="shape"):
            PoolPosterior(POOL, 0.5).predict(torch.ones(2, 3, 4), torch.ones(2, 3))
