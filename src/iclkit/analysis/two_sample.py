"""How far apart two sets of draws are, and whether a set of draws finds the modes of a mixture.

Every statistic but the classifier's is batched over B pairs of sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks import Mixtures


def energy_distance(x: Float[Tensor, "B M d"], y: Float[Tensor, "B K d"]) -> Float[Tensor, " B"]:
    """Squared energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, without bias: zero on average for equal laws.

    Args:
        x: Draws of the first law of each pair; at least two.
        y: Draws of the second.

    Returns:
        The estimate, in the points' units; slightly negative values are estimates of zero.

    Source: Székely and Rizzo (2013), Energy statistics.
    """
    _check(x, y)
    between = _distances(x, y).mean((1, 2))
    return 2 * between - _mean_off_diagonal(_distances(x, x)) - _mean_off_diagonal(_distances(y, y))


def mmd(
    x: Float[Tensor, "B M d"], y: Float[Tensor, "B K d"], width: Float[Tensor, " B"] | float | None = None
) -> Float[Tensor, " B"]:
    """Squared maximum mean discrepancy with a Gaussian kernel exp(-|x - y|² / 2 width²), without bias.

    Args:
        x: Draws of the first law of each pair; at least two.
        y: Draws of the second.
        width: Width of the kernel; the median distance between the pooled points if None.

    Returns:
        The estimate, between -1 and 2; slightly negative values are estimates of zero.

    Source: Gretton et al. (2012), A kernel two-sample test, equation 3.
    """
    _check(x, y)
    if width is None:
        pooled = torch.cat([x, y], 1)
        row, column = torch.triu_indices(pooled.shape[1], pooled.shape[1], 1, device=x.device)
        width = _distances(pooled, pooled)[:, row, column].median(1).values
    width = torch.as_tensor(width, dtype=x.dtype, device=x.device).expand(len(x))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (_distances(a, b) / width[:, None, None]).square())

    return _mean_off_diagonal(kernel(x, x)) + _mean_off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean((1, 2))


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells two sets of draws apart.

    Args:
        accuracy: Accuracy on draws it was not fitted to; 0.5 for equal laws.
        p_value: Probability of at least this accuracy for equal laws (normal approximation to the binomial).
    """

    accuracy: float
    p_value: float


def classifier_test(x: Float[Tensor, "M d"], y: Float[Tensor, "M d"], seed: int = 0) -> ClassifierTest:
    """Classifier two-sample test: a nearest-neighbour vote, fitted to half of the draws, judges the other half.

    Neighbours need no fitting and are consistent: with enough draws they see any difference of the laws.

    Args:
        x: Draws of the first law.
        y: As many of the second.
        seed: Seed of the split.

    Raises:
        UserError: Fewer than twenty draws of each, or unequal numbers.

    Source: Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(x) != len(y) or len(x) < 20:
        raise UserError(f"the test needs equally many draws, at least 20 of each, given {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    half = len(x) // 2
    sets = [draws[torch.randperm(len(draws), generator=generator)].double() for draws in (x, y)]
    fit = torch.cat([draws[:half] for draws in sets])
    test = torch.cat([draws[half : 2 * half] for draws in sets])
    # Distances in a common unit per column.
    unit = fit.std(0).clamp_min(torch.finfo(fit.dtype).tiny)
    fit, test = fit / unit, test / unit
    label = torch.arange(2 * half) >= half
    # Lopez-Paz and Oquab's choice of the number of neighbours; odd, so that no vote is tied.
    neighbours = int((2 * half) ** 0.5) // 2 * 2 + 1
    classifier = KNeighborsClassifier(neighbours).fit(fit.numpy(), label.numpy())
    accuracy = float((torch.from_numpy(classifier.predict(test.numpy())) == label).double().mean())
    z = (accuracy - 0.5) * 2 * (2 * half) ** 0.5
    p_value = 1 - torch.special.ndtr(torch.tensor(z, dtype=torch.float64))
    return ClassifierTest(accuracy, float(p_value))


@dataclass(frozen=True)
class ModeShares:
    """How draws divide over the components of the mixture that they should come from.

    Args:
        shares: Share of the draws that each component explains (mean responsibility); the rest of one is lost.
        lost: Share of the draws farther than 5 standard deviations from every component.
        recall: Share of the components that get at least half of their weight in draws.
        weight_error: Total variation distance between the shares, with `lost` as one more component, and the
            mixture's weights.
    """

    shares: Float[Tensor, "B k"]
    lost: Float[Tensor, " B"]
    recall: Float[Tensor, " B"]
    weight_error: Float[Tensor, " B"]


def mode_shares(draws: Float[Tensor, "B M d"], law: Mixtures) -> ModeShares:
    """Divide draws over the components of their episode's mixture.

    Args:
        draws: Draws that are meant to come from `law`.
        law: The mixtures, one per episode.
    """
    difference = (draws[:, :, None] - law.means[:, None]).transpose(1, 2)  # [B, k, M, d]
    whitened = torch.linalg.solve_triangular(law.scale_tril, difference.mT, upper=False)
    distance = whitened.square().sum(-2)  # [B, k, M]
    log_det = law.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_joint = (law.log_weights - log_det)[..., None] - 0.5 * distance
    weights = law.log_weights.exp()
    present = weights > 0
    near = (distance.masked_fill(~present[..., None], torch.inf).amin(1) < 25).to(draws.dtype)
    shares = (torch.softmax(log_joint, 1) * near[:, None]).mean(-1)
    lost = 1 - near.mean(-1)
    recalled = (shares >= 0.5 * weights) & present
    recall = recalled.sum(-1) / present.sum(-1)
    return ModeShares(shares, lost, recall, 0.5 * ((shares - weights).abs().sum(-1) + lost))


def _distances(x: Float[Tensor, "B M d"], y: Float[Tensor, "B K d"]) -> Float[Tensor, "B M K"]:
    # Not by way of a matrix product, which cancels the digits of distances that are small beside the points.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_off_diagonal(matrix: Float[Tensor, "B M M"]) -> Float[Tensor, " B"]:
    count = matrix.shape[-1]
    return (matrix.sum((1, 2)) - matrix.diagonal(dim1=1, dim2=2).sum(-1)) / (count * (count - 1))


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 3 or y.ndim != 3 or len(x) != len(y) or x.shape[-1] != y.shape[-1]:
        raise UserError(
            "draws must have shapes [pairs, draws, d] with the same pairs and d, "
            f"given {list(x.shape)} and {list(y.shape)}"
        )
    if min(x.shape[1], y.shape[1]) < 2:
        raise UserError("a distance between laws needs at least two draws of each")
