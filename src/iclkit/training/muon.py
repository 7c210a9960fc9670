"""Muon: momentum, orthogonalised, for the weight matrices inside a network.

`torch.optim.Muon` runs its matrix iteration in bfloat16, one matrix at a time. On a processor without bfloat16
arithmetic that dominates training: a step on the 24 matrices of a 6-layer, width-128 network takes 0.68 s on
one thread, against 0.04 s here (with such arithmetic 0.017 s). On an accelerator it is hundreds of launches.
This one works in float32, so that results do not depend on such formats, and stacks matrices of equal shape.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# An odd quintic whose slope at zero is as large as possible while [0, 1] still maps near 1 (Jordan et al.).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Float[Tensor, "M a b"], iterations: int = 5) -> Float[Tensor, "M a b"]:
    """Replace each matrix U S V' by about U V': its singular values are brought into about 0.7 to 1.2.

    X <- aX + b(XX')X + c(XX')²X applies the odd polynomial as + bs³ + cs⁵ to every singular value s and leaves
    U and V alone; the Frobenius norm, an upper bound of the largest, brings them into [0, 1] first.

    Args:
        matrices: M matrices of one shape.
        iterations: Times that the polynomial is applied; five lift singular values above ~1e-3 of the largest.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose direction is orthogonalised, with decoupled weight decay.

    Equal to `torch.optim.Muon` (its "original" scaling of the rate by sqrt(max(1, rows / columns))) but for the
    precision of the orthogonalisation.

    Args:
        params: Matrices.
        lr: Learning rate.
        momentum: Averaging rate of the gradients.
        weight_decay: Each step shrinks the weights by the factor 1 - lr * weight_decay.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(buffer, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, direction))
            for shape, members in by_shape.items():
                updates = orthogonalise(torch.stack([direction for _, direction in members]))
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
