"""How much of a gradient is in the weights when training ends: the impulse response of gradient descent.

Gradient descent with momentum and weight decay is linear: its state, the weights w and the momentum b, is a
linear map of the state before and of the gradient G. One update at the rate η is

    g = ±G + λ w,    b ← μ b + (1 − τ) g  (b ← g at the first),    w ← w − η (b, or g + μ b if Nesterov).

So the last weights are w_T = c_0 w_0 + c_b b_0 + Σ_t γ_t G_t with numbers that no data enter. The transposed
updates, run backwards from (1, 0), yield all of them in one sweep. Without decay and dampening, at one rate,
γ_t = −η (1 − μ^(T−t+1)) / (1 − μ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iclkit.errors import UserError

_SQUARES = "it divides by the root of running squares of the gradient, which is not linear in the gradient"
_REASONS = {
    **dict.fromkeys(
        ("Adam", "AdamW", "SparseAdam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"), _SQUARES
    ),
    "Adamax": "it divides by the largest gradient so far, which is not linear in the gradient",
    "Adafactor": _SQUARES,
    "Rprop": "it takes the signs of gradients alone, which is not linear in the gradient",
    "Muon": "it levels the singular values of the update, which is not linear in the gradient",
    "LBFGS": "it multiplies gradients by the curvature that it has seen, which is not linear in the gradient",
    "ASGD": "its averaged weights are not those that the layer computes with",
}


@dataclass(frozen=True)
class Update:
    """What one step of `torch.optim.SGD` did to a parameter, but for the gradient.

    Args:
        rate: Learning rate η.
        momentum: μ.
        dampening: τ.
        weight_decay: λ.
        nesterov: Whether the step looks ahead.
        maximize: Whether it climbs.
        first: Whether there was no momentum before.
    """

    rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    first: bool = False

    @classmethod
    def of(cls, group: dict[str, Any], first: bool) -> Update:
        """The one that a parameter group of the optimiser is about to make."""
        return cls(
            float(group["lr"]),
            float(group["momentum"]),
            float(group["dampening"]),
            float(group["weight_decay"]),
            bool(group["nesterov"]),
            bool(group["maximize"]),
            first,
        )


@dataclass(frozen=True)
class Response:
    """The weights after some updates, w_T = c_0 w_0 + c_b b_0 + Σ_t γ_t G_t, as its numbers.

    Args:
        weights: c_0, what is left of the first weights.
        momentum: c_b, the share of the momentum that there was before.
        gradients: γ_t, one for each update.
    """

    weights: float
    momentum: float
    gradients: tuple[float, ...]


def response(updates: Sequence[Update]) -> Response:
    """The impulse response of gradient descent to its gradients.

    Args:
        updates: From the first to the last.

    Source: Irie, Csordás and Schmidhuber (2022), "The dual form of neural networks revisited", section 2, for
    plain gradient descent; momentum and decay follow from the same linearity.
    """
    on_weights, on_momentum = 1.0, 0.0
    gradients = []
    for update in reversed(updates):
        step = -update.rate * on_weights
        if update.momentum:
            on_momentum += update.momentum * step if update.nesterov else step
            on_gradient = on_momentum if update.first else (1 - update.dampening) * on_momentum
            on_gradient += step if update.nesterov else 0.0
            on_momentum = 0.0 if update.first else update.momentum * on_momentum
        else:
            on_gradient = step
        on_weights += update.weight_decay * on_gradient
        gradients.append(-on_gradient if update.maximize else on_gradient)
    return Response(on_weights, on_momentum, tuple(reversed(gradients)))


def check_linear(optimizer: object) -> torch.optim.SGD:
    """The optimiser, if its weights are linear in the gradients.

    Raises:
        UserError: Another optimiser, with the reason.
    """
    if type(optimizer) is torch.optim.SGD:
        return optimizer
    name = type(optimizer).__name__
    known = isinstance(optimizer, torch.optim.Optimizer) and name in _REASONS
    reason = _REASONS[name] if known else "its updates are not known to be linear in the gradient"
    raise UserError(
        f"{name} has no dual form: {reason}; train with torch.optim.SGD, with momentum, dampening, nesterov, "
        "weight decay and any schedule of rates"
    )
