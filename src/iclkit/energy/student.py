"""Student densities to start from: as wide in the middle as a Gaussian, with tails as heavy as they need be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Student:
    """The density of x = centre + F z, z of unit scale with `degrees` degrees of freedom; one for each of *B.

    Args:
        centre: Its centre.
        factor: F.
        degrees: nu > 0; its tails fall as |z|^-(nu + d), and a Gaussian is its limit for large nu.
        product: Whether it is a product of one for each coordinate of z, with tails along the axes; else it is
            alike in all directions of z.
    """

    centre: Float[Tensor, "*B d"]
    factor: Float[Tensor, "*B d d"]
    degrees: Float[Tensor, "*B"]
    product: Bool[Tensor, "*B"]

    def log_prob(self, x: Float[Tensor, "*B C d"]) -> Float[Tensor, "*B C"]:
        """Log densities of C points each."""
        dim = x.shape[-1]
        inverse, log_det = self._inverse
        squares = ((x - self.centre[..., None, :]) @ inverse.mT).square()
        nu = self.degrees[..., None]
        alike = _constant(nu, dim) - 0.5 * (nu + dim) * (squares.sum(-1) / nu).log1p()
        if not self._products:
            return alike - log_det[..., None]
        one = (squares / nu[..., None]).log1p().sum(-1)
        each = dim * _constant(nu, 1) - 0.5 * (nu + 1) * one
        return torch.where(self.product[..., None], each, alike) - log_det[..., None]

    @cached_property
    def _products(self) -> bool:
        return bool(self.product.any())

    @cached_property
    def _inverse(self) -> tuple[Float[Tensor, "*B d d"], Float[Tensor, "*B"]]:
        return torch.linalg.inv(self.factor), torch.linalg.slogdet(self.factor).logabsdet

    def draw(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "*B C d"]:
        """C independent draws each."""
        shape = (*self.centre.shape[:-1], count, self.centre.shape[-1])
        options = {"dtype": self.centre.dtype, "device": self.centre.device}
        normal = torch.randn(shape, generator=generator, **options)
        half = (self.degrees / 2)[..., None, None].expand(shape)
        # What torch's own Gamma distribution calls; that one takes no generator.
        chi = torch._standard_gamma(half, generator=generator) / half  # pyright: ignore[reportPrivateImportUsage]
        chi = torch.where(self.product[..., None, None], chi, chi[..., :1])
        z = normal / chi.clamp_min(torch.finfo(chi.dtype).tiny).sqrt()
        return self.centre[..., None, :] + z @ self.factor.mT


def _constant(nu: Tensor, dim: int) -> Tensor:
    return torch.lgamma((nu + dim) / 2) - torch.lgamma(nu / 2) - 0.5 * dim * (nu * math.pi).log()
