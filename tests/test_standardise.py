"""Whitening by shrunken moments: the formula, its prefixes, its invariances, and columns that do not vary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclkit.errors import UserError
from iclkit.learners.standardise import Whitening


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    mixing = torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64)
    return 3 + x @ mixing


@pytest.mark.parametrize(("points", "dim"), [(2, 1), (2, 3), (5, 2), (18, 3), (40, 4)])
def test_formula(points: int, dim: int) -> None:
    x = data(3, points, dim)
    whitening = Whitening.fit(x)
    for b in range(3):
        sample = np.cov(x[b].numpy(), rowvar=False, ddof=1).reshape(dim, dim)
        std = np.sqrt(np.diag(sample))
        smallest = np.linalg.eigvalsh(sample / std / std[:, None])[0]
        belief = min(1, (16 / points) ** 3)
        if points > 16:
            belief *= np.clip(smallest / 0.04, 1e-3, 1) ** min(1, (points - 16) / 8)
        expected = ((points - 1) * sample + belief * np.diag(std**2)) / (points - 1 + belief)
        expected *= 1 + (dim + 2) / points * min(1, 8 / points)
        # Float64 rounding of sums of 40 numbers.
        np.testing.assert_allclose((whitening.matrix[b] @ whitening.matrix[b].mT).numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(whitening.mean[b].numpy(), x[b].numpy().mean(0), rtol=1e-12)
        assert torch.equal(whitening.matrix[b], whitening.matrix[b].tril())
        assert whitening.log_det[b].item() == pytest.approx(0.5 * np.linalg.slogdet(expected)[1], abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 1000))
def test_forward_and_inverse_undo_each_other(points: int, dim: int, seed: int) -> None:
    x = data(2, points, dim, seed=seed)
    whitening = Whitening.fit(x)
    other = data(2, 7, dim, seed=seed + 1)
    z = whitening.forward(other)
    # The shrunken covariance of two points has a condition number that a random mixing can bring to 1e6.
    assert torch.allclose(whitening.inverse(z), other, rtol=1e-8, atol=1e-8)
    expected = torch.linalg.solve(whitening.matrix, (other - whitening.mean[:, None]).mT).mT
    assert torch.allclose(z, expected, rtol=1e-8, atol=1e-8)


def test_many_points_become_white() -> None:
    x = data(1, 20_000, 3)
    z = Whitening.fit(x).forward(x)[0]
    # The widening is 40 / n² = 1e-7, the belief in uncorrelated columns less.
    assert torch.allclose(z.mT.cov(), torch.eye(3, dtype=z.dtype), atol=1e-3)
    assert z.mean(0).abs().max() < 1e-10


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 1000))
def test_units_do_not_matter(points: int, dim: int, seed: int) -> None:
    """Another unit and origin for each column change no whitened point, and shift log_det by the log units."""
    x = data(1, points, dim, seed=seed)
    unit = 10 ** torch.linspace(-4, 5, dim, dtype=x.dtype)
    origin = 100 * unit * torch.arange(dim)
    a, b = Whitening.fit(x), Whitening.fit(x * unit + origin)
    # An origin 100 units off costs two of sixteen digits; conditioning up to six more.
    assert torch.allclose(a.forward(x), b.forward(x * unit + origin), atol=1e-6)
    assert torch.allclose(b.log_det - a.log_det, unit.log().sum(), atol=1e-6)


def test_prefixes_equal_whole_contexts() -> None:
    x = data(3, 9, 2)
    prefixes = [4, 0, 9, 1, 2]
    together = Whitening.fit_prefixes(x, prefixes)
    assert together.mean.shape == (3, 5, 2)
    for p, n in enumerate(prefixes):
        alone = Whitening.fit(x[:, :n])
        assert torch.allclose(together.mean[:, p], alone.mean, atol=1e-14)
        assert torch.allclose(together.matrix[:, p], alone.matrix, atol=1e-14)


def test_later_points_do_not_leak_into_prefixes() -> None:
    x = data(1, 6, 2)
    changed = x.clone()
    changed[:, 3:] = 1e8
    a, b = (Whitening.fit_prefixes(points, [2, 3]) for points in (x, changed))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.matrix, b.matrix)


@pytest.mark.parametrize("points", [0, 1])
def test_fewer_than_two_points_are_taken_as_they_are(points: int) -> None:
    whitening = Whitening.fit(data(2, points, 3))
    x = data(2, 4, 3, seed=1)
    assert torch.equal(whitening.forward(x), x)
    assert torch.equal(whitening.log_det, torch.zeros(2, dtype=x.dtype))


def test_unbatched() -> None:
    x = data(5, 2)
    whitening = Whitening.fit(x)
    assert whitening.mean.shape == (2,)
    assert torch.allclose(whitening.forward(x), Whitening.fit(x[None]).forward(x[None])[0])


def test_constant_columns() -> None:
    x = data(2, 6, 3)
    # A mean of sixths is rounded, so that a naive variance is not exactly zero.
    x[1, :, 1] = 0.1
    with pytest.raises(UserError, match="column 2 is constant"):
        Whitening.fit(x)
    kept = Whitening.fit(x, constant="keep")
    assert kept.matrix[1, 1].tolist() == [0, 1, 0]
    assert kept.matrix[1, 2, 1] == 0
    others = Whitening.fit(x[1:, :, [0, 2]])
    assert torch.allclose(kept.matrix[1][[0, 2]][:, [0, 2]], others.matrix[0])
    assert math.isfinite(kept.log_det.sum())
    # One column constant in one context does not touch the other contexts.
    assert torch.allclose(kept.matrix[0], Whitening.fit(x[:1]).matrix[0])


def test_large_means_keep_their_digits() -> None:
    """A mean 1e9 standard deviations away: sums of squares lose every digit, two passes lose nine."""
    x = data(1, 20, 2)
    far = Whitening.fit(x + 1e9)
    assert torch.allclose(far.matrix, Whitening.fit(x).matrix, rtol=1e-5)
