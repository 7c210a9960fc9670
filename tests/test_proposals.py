"""Proposals: their density against an explicit mixture, and their draws against their density."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from iclkit.energy.proposals import Proposal
from iclkit.errors import UserError

PROPOSALS = [
    Proposal(),
    Proposal(broad_std=3.0, kernel_stds=(0.2, 0.9), broad_share=0.3),
    Proposal(broad_share=0.0),
    Proposal(broad_share=1.0),
]


def explicit(proposal: Proposal, prefix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [c], means [c, d] and widths [c] of the Gaussian mixture that the proposal is after a prefix."""
    n, dim = prefix.shape
    weights, means, stds = (
        [1.0 if n == 0 else proposal.broad_share],
        [prefix.new_zeros(dim)],
        [proposal.broad_std],
    )
    for point in prefix:
        for std in proposal.kernel_stds:
            weights.append((1 - proposal.broad_share) / (n * len(proposal.kernel_stds)))
            means.append(point)
            stds.append(std)
    return prefix.new_tensor(weights), torch.stack(means), prefix.new_tensor(stds)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_prob_is_that_of_the_explicit_mixture_of_each_prefix(proposal: Proposal, dim: int) -> None:
    x = 3 * torch.randn(2, 4, dim, dtype=torch.float64)
    chosen = torch.tensor([3, 0, 4, 1])
    candidates = 3 * torch.randn(2, len(chosen), 6, dim, dtype=torch.float64)
    log_prob = proposal.log_prob(x, candidates, chosen)
    for b in range(2):
        for row, n in enumerate(chosen.tolist()):
            weights, means, stds = explicit(proposal, x[b, :n])
            components = Normal(means, stds[:, None]).log_prob(candidates[b, row, :, None]).sum(-1)
            expected = torch.logsumexp(weights.log() + components, -1)
            # |c - x|² is computed as |c|² + |x|² - 2cx: sixteen digits less the two or three that cancel.
            torch.testing.assert_close(log_prob[b, row], expected, rtol=0, atol=1e-10)


def test_all_prefixes_but_the_whole_are_the_default() -> None:
    proposal, generator = Proposal(), torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 2)
    candidates = proposal.sample(x, 3, generator)
    assert candidates.shape == (2, 5, 3, 2)
    assert torch.equal(proposal.log_prob(x, candidates), proposal.log_prob(x, candidates, torch.arange(5)))


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_draws_have_the_density_that_log_prob_says(proposal: Proposal, n: int) -> None:
    """Kolmogorov-Smirnov against the distribution function, in one dimension.

    sqrt(size) times the largest difference exceeds 2.23 with probability 2 exp(-2 * 2.23²) = 1e-4 by chance:
    over the twelve cases one false alarm in 800 choices of the seed.
    """
    size = 20_000
    x = torch.tensor([-4.0, 0.5, 2.0], dtype=torch.float64)[None, :, None]
    draws = proposal.sample(x, size, torch.Generator().manual_seed(3), torch.tensor([n]))
    ordered = draws.flatten().sort().values
    weights, means, stds = explicit(proposal, x[0, :n])
    below = (weights * Normal(means[:, 0], stds).cdf(ordered[:, None])).sum(-1)
    empirical = torch.arange(1, size + 1) / size
    distance = torch.maximum((empirical - below).abs(), (below - empirical + 1 / size).abs()).max()
    assert math.sqrt(size) * float(distance) < 2.23


def test_draws_cover_every_kernel_equally_and_every_coordinate_independently() -> None:
    """The mean of 1 / q over the draws of q in a box is the box's volume: density and draws agree in 2-D."""
    proposal = Proposal(broad_std=2.0, kernel_stds=(0.3, 0.8), broad_share=0.4)
    x = torch.tensor([[[0.0, 1.0], [1.5, -1.0], [9.0, 9.0]]], dtype=torch.float64)
    prefix = torch.tensor([2])
    size = 200_000
    draws = proposal.sample(x, size, torch.Generator().manual_seed(4), prefix)
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 2.0])
    inside = ((draws > low) & (draws < high)).all(-1)
    values = torch.where(inside, (-proposal.log_prob(x, draws, prefix)).exp(), 0.0).flatten()
    error = (values.mean() - 6.0) / (values.std() / math.sqrt(size))
    # 4.4 standard errors: one false alarm in 90,000 choices of the seed.
    assert abs(float(error)) < 4.4


@pytest.mark.usefixtures("untouched_generators")
def test_draws_are_a_function_of_the_generator_alone() -> None:
    x = torch.zeros(2, 4, 3)
    first = Proposal().sample(x, 5, torch.Generator().manual_seed(0))
    assert torch.equal(first, Proposal().sample(x, 5, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, Proposal().sample(x, 5, torch.Generator().manual_seed(1)))


def test_neither_draws_nor_density_depend_on_the_point_itself_or_later_ones() -> None:
    x = torch.randn(2, 5, 2)
    later = x.clone()
    later[:, 2:] = 100 * torch.randn(2, 3, 2)
    proposal = Proposal()
    draws = [proposal.sample(data, 50, torch.Generator().manual_seed(0))[:, :3] for data in (x, later)]
    assert torch.equal(*draws)
    candidates = torch.randn(2, 5, 6, 2)
    densities = [proposal.log_prob(data, candidates)[:, :3] for data in (x, later)]
    # The batched product may sum in another order beside other columns.
    torch.testing.assert_close(*densities, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    x = torch.randn(1, 3, 2, dtype=dtype)
    candidates = Proposal().sample(x, 4, torch.Generator().manual_seed(0))
    assert candidates.dtype == dtype
    assert Proposal().log_prob(x, candidates).dtype == dtype


def test_a_point_on_a_kernel_centre_keeps_its_precision_in_float32() -> None:
    """Cancellation in |c|² + |x|² - 2cx, at the published prior's magnitudes, costs less than 1e-3 nats."""
    proposal = Proposal(kernel_stds=(0.33,), broad_share=0.1)
    x = torch.tensor([[[12.0, -9.0], [3.0, 14.0]]])
    candidates = x[:, None] + 0.01
    prefix = torch.tensor([2])
    exact = proposal.log_prob(x.double(), candidates.double(), prefix)
    torch.testing.assert_close(proposal.log_prob(x, candidates, prefix).double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"broad_std": 0.0}, "widths must be positive"),
        ({"broad_std": math.nan}, "widths must be positive"),
        ({"kernel_stds": (0.5, -1.0)}, "widths must be positive"),
        ({"broad_share": 1.5}, "broad_share must lie in \\[0, 1\\], given 1.5"),
        ({"kernel_stds": ()}, "kernel_stds"),
    ],
)
def test_proposals_that_are_no_density_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Proposal(**arguments)
