"""What a practitioner would fit today: a kernel density estimate, and a Gaussian mixture by EM.

Both are fitted anew to every prefix. Data are standardised inside, column by column, so that one bandwidth and
one regularisation suit all columns; densities come back in the data's own units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.ambient import neutral, quiet
from iclkit.errors import UserError
from iclkit.learners.base import DensityLearner
from iclkit.learners.mixture_predictive import MixturePredictive, stack_components


class FittedLearner(DensityLearner):
    """A learner that fits a mixture to each prefix, of at least two points, after standardising it."""

    @neutral()
    def predictives(
        self, x: Float[Tensor, "B N d"], prefixes: Sequence[int] | None = None
    ) -> MixturePredictive:
        x, lengths = self._given(x, prefixes, first=2)
        if min(lengths) < 2:
            raise UserError(
                f"{type(self).__name__} needs contexts of at least 2 points, given prefix {min(lengths)}; "
                "ask for prefixes from 2 on"
            )
        fits = [self._fit_prefix(x[:, :n]) for n in lengths]
        log_weights, means, whiten = zip(*fits, strict=True)
        weights = stack_components(log_weights, -math.inf)
        dof = [self._dof(n) for n in lengths]
        return MixturePredictive(
            weights,
            stack_components(means, 0.0),
            stack_components(whiten, 1.0),
            None if None in dof else weights.new_tensor(dof)[:, None].expand_as(weights),
        )

    def _fit_prefix(self, x: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        mean, std = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True)
        if (std == 0).any():
            episode, _, column = (std == 0).nonzero()[0].tolist()
            raise UserError(
                f"{type(self).__name__} cannot standardise a constant column, given one at column {column} of "
                f"the first {x.shape[1]} points of episode {episode}; drop the column or give more points"
            )
        log_weights, means, whiten = self._fit((x - mean) / std)
        return log_weights, means * std + mean, whiten / std[:, :, None]

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and whiteners [B, J, d, d] fitted to standardised points."""
        raise NotImplementedError

    def _dof(self, points: int) -> float | None:
        """Degrees of freedom of Student-t components after so many points; None for Gaussian ones."""
        return None


@dataclass(frozen=True)
class KernelDensityLearner(FittedLearner):
    """Gaussian kernel density estimate, its bandwidth chosen by cross-validated log-likelihood.

    Args:
        dim: Dimension of the points.
        folds: Contiguous folds of the cross-validation; a context of fewer points leaves one out.
        smallest: Smallest bandwidth of the grid, in standard deviations of a column.
        largest: Largest.
        grid: Number of bandwidths, evenly spaced in the logarithm.

    Raises:
        UserError: Fewer than two folds, or an empty or unordered grid.
    """

    dim: int
    folds: int = 5
    smallest: float = 0.03
    largest: float = 2.0
    grid: int = 30

    def __post_init__(self) -> None:
        if self.folds < 2 or self.grid < 1 or not 0 < self.smallest <= self.largest:
            raise UserError(
                f"needs folds >= 2, grid >= 1 and 0 < smallest <= largest, given {self.folds}, {self.grid}, "
                f"{self.smallest} and {self.largest}"
            )

    def bandwidths(self, z: Float[Tensor, "B n d"]) -> Float[Tensor, " B"]:
        """The chosen bandwidth of each set of standardised points."""
        points, dim = z.shape[1:]
        grid = torch.logspace(math.log10(self.smallest), math.log10(self.largest), self.grid, dtype=z.dtype)
        unseen = ~self._same_fold(points).to(z.device)
        squares = (z[:, :, None] - z[:, None]).square().sum(-1).masked_fill(~unseen, math.inf)
        normaliser = unseen.sum(-1).to(z).log() + 0.5 * dim * math.log(2 * math.pi)
        scores = [
            (torch.logsumexp(-0.5 * squares / h**2, -1) - normaliser).mean(-1) - dim * math.log(h)
            for h in grid.tolist()
        ]
        return grid.to(z.device)[torch.stack(scores, -1).argmax(-1)]

    def _same_fold(self, points: int) -> Bool[Tensor, "n n"]:
        folds = min(self.folds, points)
        sizes = torch.tensor([points // folds + (i < points % folds) for i in range(folds)])
        fold = torch.repeat_interleave(torch.arange(folds), sizes)
        return fold[:, None] == fold

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        batch, points, dim = z.shape
        inverse = 1 / self.bandwidths(z)
        identity = torch.eye(dim, dtype=z.dtype, device=z.device)
        whiten = (inverse[:, None, None] * identity)[:, None].expand(-1, points, -1, -1)
        return z.new_full((batch, points), -math.log(points)), z, whiten


@dataclass(frozen=True)
class RuleOfThumbLearner(FittedLearner):
    """Gaussian kernel density estimate with the sample's covariance, its width by a rule of thumb.

    The kernels' covariance is h² times the sample's, with h = n^(-1/(d+4)) ("scott") or
    (n (d + 2) / 4)^(-1/(d+4)) ("silverman"), as in `scipy.stats.gaussian_kde`.

    Args:
        dim: Dimension of the points.
        rule: "scott" or "silverman".

    Raises:
        UserError: Another rule.

    Source: Scott (1992) and Silverman (1986), as SciPy documents them.
    """

    dim: int
    rule: str = "scott"

    def __post_init__(self) -> None:
        if self.rule not in ("scott", "silverman"):
            raise UserError(f"rule must be 'scott' or 'silverman', given {self.rule!r}")

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        batch, points, dim = z.shape
        count = points if self.rule == "scott" else points * (dim + 2) / 4
        width = count ** (-1 / (dim + 4))
        centred = z - z.mean(1, keepdim=True)
        identity = torch.eye(dim, dtype=z.dtype, device=z.device)
        # Points on a line have no density of their own; the smallest addition gives them one.
        covariance = centred.mT @ centred / (points - 1) + 1e-9 * identity
        factor = width * torch.linalg.cholesky(covariance)
        whiten = torch.linalg.solve_triangular(factor, identity, upper=False)[:, None].expand(
            -1, points, -1, -1
        )
        return z.new_full((batch, points), -math.log(points)), z, whiten


@dataclass(frozen=True)
class GaussianMixtureLearner(FittedLearner):
    """Gaussian mixture fitted by EM (scikit-learn's), its size and the form of its covariances chosen by BIC.

    Args:
        dim: Dimension of the points.
        max_components: Largest number of components tried; never more than one for every d + 1 points.
        starts: Random starts of EM for each.
        regularisation: Added to the covariances' diagonal, in standardised units.
        covariances: Forms of the covariances tried: "full", "diag", "spherical", "tied".
        seed: Seed of the starts.

    Raises:
        UserError: A count below one, an unknown form, or scikit-learn not installed.
    """

    dim: int
    max_components: int = 6
    starts: int = 2
    regularisation: float = 1e-3
    covariances: tuple[str, ...] = ("full",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_components < 1 or self.starts < 1:
            raise UserError(
                f"max_components and starts must be at least 1, given {self.max_components} and {self.starts}"
            )
        accepted = ("full", "diag", "spherical", "tied")
        if not self.covariances or not set(self.covariances) <= set(accepted):
            raise UserError(f"covariances must be some of {accepted}, given {self.covariances}")

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise UserError(
                "GaussianMixtureLearner needs scikit-learn; install it with: pip install 'iclkit[sklearn]'"
            ) from error

        most = max(1, min(self.max_components, z.shape[1] // (z.shape[2] + 1)))
        found = []
        for points in z.detach().cpu().double().numpy():
            # A fit that stopped early, or repeated points, only makes for a worse BIC.
            with quiet(ConvergenceWarning):
                fits = [
                    GaussianMixture(
                        k,
                        covariance_type=form,
                        n_init=self.starts,
                        reg_covar=self.regularisation,
                        random_state=self.seed,
                    ).fit(points)
                    for form in self.covariances
                    for k in range(1, most + 1)
                ]
            found.append(min(fits, key=lambda fit: fit.bic(points)))
        return _components(found, most, z)


@dataclass(frozen=True)
class DirichletMixtureLearner(FittedLearner):
    """Gaussian mixture with a Dirichlet process prior on its weights, by variational Bayes (scikit-learn's).

    The density is that of the posterior means of weights, means and precisions.

    Args:
        dim: Dimension of the points.
        max_components: Largest number of components; never more than there are points.
        regularisation: Added to the covariances' diagonal, in standardised units.
        seed: Seed of the start.

    Raises:
        UserError: A count below one, or scikit-learn not installed.
    """

    dim: int
    max_components: int = 6
    regularisation: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_components < 1:
            raise UserError(f"max_components must be at least 1, given {self.max_components}")

    def _fit(self, z: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
        try:
            from sklearn.base import clone
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import BayesianGaussianMixture
        except ImportError as error:
            raise UserError(
                "DirichletMixtureLearner needs scikit-learn; install it with: pip install 'iclkit[sklearn]'"
            ) from error

        most = min(self.max_components, z.shape[1])
        mixture = BayesianGaussianMixture(
            n_components=most, reg_covar=self.regularisation, max_iter=500, random_state=self.seed
        )
        found = []
        for points in z.detach().cpu().double().numpy():
            with quiet(ConvergenceWarning):
                fresh: Any = clone(mixture)
                found.append(fresh.fit(points))
        return _components(found, most, z)


def _components(found: Sequence[Any], most: int, like: Float[Tensor, "B n d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights, means and whiteners of scikit-learn's fitted mixtures, one for each episode."""
    dim = like.shape[2]
    log_weights = like.new_full((len(like), most), -math.inf)
    means = like.new_zeros(len(like), most, dim)
    whiten = torch.eye(dim).to(like).expand(len(like), most, -1, -1).clone()
    for episode, fit in enumerate(found):
        k = fit.n_components
        log_weights[episode, :k] = torch.as_tensor(fit.weights_).log().to(like)
        means[episode, :k] = torch.as_tensor(fit.means_).to(like)
        # scikit-learn's precision factor U has Σ⁻¹ = U Uᵀ, so Uᵀ whitens; other forms keep part of it.
        factor = torch.as_tensor(fit.precisions_cholesky_)
        if fit.covariance_type == "diag":
            factor = torch.diag_embed(factor)
        elif fit.covariance_type == "spherical":
            factor = factor[:, None, None] * torch.eye(dim, dtype=factor.dtype)
        whiten[episode, :k] = factor.mT.to(like)
    return log_weights, means, whiten
