"""What the hidden units of a perceptron compute; a new kind is one class and one line in `ACTIVATIONS`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Arithmetic(nn.Module):
    """Units that multiply and divide: a b / c for three linear maps a, b and c of the token.

    A product is a unit whose c is its bias, 1; a quotient one whose b is. So what a standard perceptron can
    approximate alone is exact here.
    """

    def forward(self, x: Float[Tensor, "*batch three_units"]) -> Float[Tensor, "*batch units"]:
        a, b, c = x.chunk(3, -1)
        return a * b / c


# For each name the module, and how many linear maps of the token one unit of it reads.
ACTIVATIONS: dict[str, tuple[type[nn.Module], int]] = {"gelu": (nn.GELU, 1), "arithmetic": (Arithmetic, 3)}
