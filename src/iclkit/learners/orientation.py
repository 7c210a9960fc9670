"""Orientation of whitened points: what a network sees of data does not depend on how their axes were turned.

Whitening leaves a rotation open: a Cholesky factor decides it by the order of the columns. A network trained on
a prior that is the same from all sides is only approximately indifferent to it. Here the points themselves
decide: the first axis is the third moment m = mean |z|² z, the next ones are M m, M² m, ... with
M = mean |z|² z zᵀ, made orthonormal one by one. Turning or reflecting the points does the same to these
axes, so points in their own axes stay as they are. An energy that is also averaged over both signs of the last
axis needs no sign for it; in two dimensions m = 0 is then the only place where the orientation jumps.

Source: canonicalisation and averages over frames, Puny et al. (2022), "Frame averaging for invariant and
equivariant network design"; these axes are our own.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError

# A third moment below this share of mean |z|³ is rounding: the points are symmetric about their mean.
_SYMMETRIC = 1e-9
# More add nothing but cost.
_MOST = 96


def check_transforms(count: int, dim: int) -> None:
    """Whether an energy of this dimension can be averaged over so many transforms.

    Raises:
        UserError: A number that is neither 1 nor even, too large, or more than the two directions of a line.
    """
    if count != 1 and (count % 2 or not 2 <= count <= _MOST):
        raise UserError(f"transforms must be 1 (none) or an even number up to {_MOST}, given {count}")
    if dim == 1 and count > 2:
        raise UserError(f"points on a line have two directions, so at most 2 transforms, given {count}")


def orientations(z: Float[Tensor, "*batch n d"], count: int) -> Float[Tensor, "T *batch d d"]:
    """Orthogonal matrices Q: a context is seen as z Qᵀ, once for each of T of them.

    Args:
        z: Contexts in standard units.
        count: How many (T): 1 for z as it is, or an even number: the context's own axes with both signs of the
            last one; if more, also these turned, in two dimensions by equal angles, above by fixed random
            rotations. Contexts of fewer than two points have no axes: they are seen once, as they are.
    """
    dim = z.shape[-1]
    if count == 1 or z.shape[-2] < 2:
        return torch.eye(dim, dtype=z.dtype, device=z.device).expand(1, *z.shape[:-2], dim, dim)
    own = _axes(z)
    return torch.stack([turn.to(own) @ own for turn in _turns(count, dim)])


def _axes(z: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch d d"]:
    """The context's own axes, as rows."""
    tiny = torch.finfo(z.dtype).tiny
    weight = z.square().sum(-1, keepdim=True)
    first = (weight * z).mean(-2)
    size = (weight * weight.sqrt()).mean((-2, -1))
    symmetric = first.norm(dim=-1) <= _SYMMETRIC * size
    # Any direction that turns with the points will do; which of them is the first point depends on their order.
    first = torch.where(symmetric[..., None], z[..., 0, :], first)
    spread = (weight * z).mT @ z / z.shape[-2]
    spread = spread / spread.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(tiny)
    columns = [first / first.norm(dim=-1, keepdim=True).clamp_min(tiny)]
    for _ in range(z.shape[-1] - 1):
        columns.append((spread @ columns[-1][..., None]).squeeze(-1))
    axes, triangle = torch.linalg.qr(torch.stack(columns, -1))
    sign = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (axes * sign[..., None, :]).mT


def _turns(count: int, dim: int) -> list[Float[Tensor, "d d"]]:
    """Rotations, each without and with a reflection of the last axis before it."""
    reflection = torch.eye(dim, dtype=torch.float64)
    reflection[-1, -1] = -1
    rotations = [torch.eye(dim, dtype=torch.float64)]
    generator = torch.Generator().manual_seed(dim)
    for j in range(1, count // 2):
        if dim == 2:
            angle = 4 * math.pi * j / count
            c, s = math.cos(angle), math.sin(angle)
            rotations.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
        else:
            normal = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
            rotations.append(torch.linalg.qr(normal).Q)
    return [turn for rotation in rotations for turn in (rotation, rotation @ reflection)]
