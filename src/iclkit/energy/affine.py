"""Energies in other coordinates: y = A x + b."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.border import Energy, OwnEnergy
from iclkit.errors import UserError


class Affine(OwnEnergy):
    """The energy of y = A x + b, given that of x: E(y) = E(x) + log |det A|, so that log Z stays as it is.

    Args:
        inner: The energy of x.
        matrix: A, one for each context, [B, d, d].
        shift: b, likewise, [B, d].
    """

    def __init__(self, inner: Energy, matrix: Float[Tensor, "B d d"], shift: Float[Tensor, "B d"]) -> None:
        self.inner, self.matrix, self.shift = inner, matrix, shift
        self._inverse = torch.linalg.inv(matrix)
        self._log_det = torch.linalg.slogdet(matrix).logabsdet

    def __call__(self, points: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        return self.inner((points - self.shift[:, None]) @ self._inverse.mT) + self._log_det[:, None]

    def made_of(self) -> Energy:
        return self.inner

    def forward(self, points: Float[Tensor, "B M d"]) -> Float[Tensor, "B M d"]:
        """Points x as points y."""
        return points @ self.matrix.mT + self.shift[:, None]


def check_affine(
    matrix: Tensor, name: str, shift: Tensor | None = None, dim: int | None = None, count: int = 1
) -> None:
    """Refuse a matrix without inverse, or a shift and a matrix that do not fit.

    Args:
        matrix: A: [d, d] or [B, d, d].
        name: What it is called in messages.
        shift: b: [d] or [B, d]. None where the shapes have been checked.
        dim: d.
        count: B.

    Raises:
        UserError: Says what was given and what is accepted.
    """
    if shift is not None:
        fits = matrix.shape[-2:] == (dim, dim) and matrix.shape[:-2] in ((), (1,), (count,))
        if not fits or shift.shape[-1:] != (dim,) or shift.shape[:-1] not in ((), (1,), (count,)):
            raise UserError(
                f"{name} and shift are [{dim}, {dim}] and [{dim}], or one each for {count} contexts, "
                f"given {list(matrix.shape)} and {list(shift.shape)}"
            )
    if not torch.linalg.slogdet(matrix.double()).logabsdet.isfinite().all():
        raise UserError(f"{name} must have an inverse, given a singular matrix")
