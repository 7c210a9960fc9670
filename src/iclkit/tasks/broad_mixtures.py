"""A broad prior over standardised data sets: what a user's forty points may look like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.base import DensityTask, Episodes
from iclkit.tasks.mixtures import Mixtures
from iclkit.tasks.small_matrices import cholesky, exp_symmetric, invert_lower, orthogonal, triangularise


@dataclass(frozen=True)
class BroadMixtures(DensityTask):
    """Rotated anisotropic mixtures, whitened by their own moments and then jittered.

    A user's context is whitened by its own sample moments before the network sees it. Its true moments are
    therefore near, but not at, zero and one; the jitter is that error, so that the network neither trusts the
    standardisation blindly nor has to learn arbitrary units.

    Every episode is a deterministic function of one latent vector (`mixtures`), whose prior density is known
    (`log_prior`). That is all that a Monte Carlo reference needs.

    Args:
        max_components: The number of components is uniform on 1..max_components.
        dim: Dimension of the points.
        concentration: Dirichlet concentration of the weights.
        log_scale: Mean of a component's log standard deviation, relative to means drawn from N(0, I).
        axis_spread: Standard deviation of the log scale between the axes of one component.
        component_spread: The same between the components of one episode.
        episode_spread: The same between episodes; it decides how far the components overlap.
        jitter: Standard deviation of the entries of the log of the jittering matrix, and of its shift.
    """

    rotation_invariant: ClassVar[bool] = True
    max_components: int = 6
    dim: int = 2
    concentration: float = 1.5
    log_scale: float = -1.0
    axis_spread: float = 0.5
    component_spread: float = 0.5
    episode_spread: float = 0.6
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.max_components < 1 or self.dim < 1:
            raise UserError(
                f"max_components and dim must be at least 1, given {self.max_components} and {self.dim}"
            )
        if not self.concentration > 0:
            raise UserError(f"concentration must be positive, given {self.concentration}")

    def _blocks(self) -> dict[str, tuple[int, ...]]:
        """The latent vector's blocks, in order; all standard normal but the first two."""
        k, d = self.max_components, self.dim
        return {
            "count": (1,),  # uniform on [0, 1): which number of components
            "log_gamma": (k,),  # logs of Gamma(concentration, 1): unnormalised weights
            "means": (k, d),
            "axes": (k, d),  # log scale of each axis of each component
            "component": (k,),  # log scale shared by a component's axes
            "rotation": (k, d, d),  # its QR factor is a uniform rotation
            "episode": (1,),  # log scale shared by all components
            "jitter": (d, d),
            "shift": (d,),
        }

    @property
    def latent_size(self) -> int:
        """Length of a latent vector (L)."""
        return sum(math.prod(shape) for shape in self._blocks().values())

    def _split(self, latent: Shaped[Tensor, "*batch L"]) -> dict[str, Tensor]:
        blocks = self._blocks()
        parts = latent.split([math.prod(shape) for shape in blocks.values()], -1)
        return {
            name: part.reshape(*latent.shape[:-1], *shape)
            for (name, shape), part in zip(blocks.items(), parts, strict=True)
        }

    def component_coordinates(self) -> Int[Tensor, "k c"]:
        """Which coordinates of the latent vector belong to each component; the first is its `log_gamma`."""
        part = self._split(torch.arange(self.latent_size))
        own = [part[name] for name in ("log_gamma", "means", "axes", "component", "rotation")]
        return torch.cat([block.reshape(self.max_components, -1) for block in own], 1)

    def sample_latent(self, episodes: int, generator: torch.Generator | None = None) -> Float[Tensor, "B L"]:
        """Draw latent vectors from their prior."""
        k = self.max_components
        latent = torch.randn(episodes, self.latent_size, generator=generator)
        latent[:, 0] = torch.rand(episodes, generator=generator)
        shape = torch.full((episodes, k), self.concentration)
        gamma = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        latent[:, 1 : 1 + k] = gamma.clamp_min(1e-30).log()
        return latent

    def log_prior(self, latent: Float[Tensor, "*batch L"]) -> Float[Tensor, "*batch"]:
        """Log prior density of latent vectors up to a constant; `-inf` outside its support."""
        k = self.max_components
        count, log_gamma, normal = latent[..., 0], latent[..., 1 : 1 + k], latent[..., 1 + k :]
        inside = (count >= 0) & (count < 1)
        log_density = (self.concentration * log_gamma - log_gamma.exp()).sum(-1) - 0.5 * normal.square().sum(-1)
        return torch.where(inside, log_density, -math.inf)

    def mixtures(self, latent: Float[Tensor, "B L"]) -> Mixtures:
        """The mixture that each latent vector stands for."""
        part = self._split(latent)
        k = self.max_components
        count = (part["count"] * k).floor().long() + 1
        absent = torch.arange(k, device=latent.device) >= count
        log_weights = torch.log_softmax(part["log_gamma"].masked_fill(absent, -math.inf), -1)
        scale = torch.exp(
            self.log_scale
            + self.axis_spread * part["axes"]
            + (self.component_spread * part["component"] + self.episode_spread * part["episode"])[..., None]
        )
        # The covariance R S² Rᵀ has the square root R S.
        factor = triangularise(orthogonal(part["rotation"]) * scale[..., None, :])
        raw = Mixtures(log_weights, part["means"], factor)

        mean, covariance = raw.moments()
        # The Cholesky factor of the covariance whitens. The raw mixture is the same from all sides; of this one
        # that is nearly true, for the factor's last axis is turned towards the narrow direction of the raw one.
        whiten = invert_lower(cholesky(covariance))
        symmetric = 0.5 * (part["jitter"] + part["jitter"].mT)
        matrix = exp_symmetric(self.jitter * symmetric) @ whiten
        shift = self.jitter * part["shift"] - torch.einsum("bij,bj->bi", matrix, mean)
        return raw.affine(matrix, shift)

    def draw(self, episodes: int, points: int, generator: torch.Generator | None = None) -> Episodes:
        law = self.mixtures(self.sample_latent(episodes, generator))
        return Episodes(law.sample(points, generator), law)
