"""What learners make of a context's spectrum: f(s) in their predictions, see `Spectrum`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.prompts import Spectrum
from iclkit.learners.descent import best_rate


def averaging(spectrum: Spectrum) -> Float[Tensor, "B N d"]:
    """1/n."""
    return (1 / spectrum.counts.clamp(min=1)).expand_as(spectrum.loads)


def least_squares(spectrum: Spectrum) -> Float[Tensor, "B N d"]:
    """1/s, and 0 where the context says nothing."""
    none = spectrum.values == 0
    return torch.where(none, 0.0, 1 / spectrum.values.masked_fill(none, 1.0))


def ridge(spectrum: Spectrum, penalty: float | Tensor) -> Float[Tensor, "B N d"]:
    """1/(s + λ)."""
    return 1 / (spectrum.values + penalty)


def descent(spectrum: Spectrum, steps: float | Tensor, rate: float | Tensor) -> Float[Tensor, "B N d"]:
    """Gradient descent on half the mean squared error."""
    return geometric(spectrum.values, rate / spectrum.counts.clamp(min=1), steps)


def best_rate_descent(
    spectrum: Spectrum, steps: float | Tensor, dim: int, moments: tuple[float, float]
) -> Float[Tensor, "B N d"]:
    """The same with the best rate of a single step for each n."""
    counts = spectrum.counts.clamp(min=1)
    return geometric(spectrum.values, best_rate(counts, dim, *moments) / counts, steps)


def corrected_descent(
    spectrum: Spectrum, steps: float | Tensor, rate: float | Tensor, gamma: float | Tensor
) -> Float[Tensor, "B N d"]:
    """GD++; γ may be one for each prefix."""
    # Along an eigenvector, with c what has become of the inputs and r of the residual, both 1 at first: a step
    # adds (η/n) c² r to f, takes the residual to (1 − (η/n) c² s) r and the inputs to (1 − γ c² s) c.
    step = rate / spectrum.counts.clamp(min=1)
    total = torch.zeros_like(spectrum.values)
    residual, square = torch.ones_like(total), torch.ones_like(total)
    most = torch.as_tensor(steps)
    for done in range(int(most.max())):
        # Contexts whose steps are done stay as they are.
        total = total + torch.where(done < most, step * square * residual, 0.0)
        now = square * spectrum.values
        residual = residual * (1 - step * now)
        square = square * (1 - gamma * now) ** 2
    return total


def newton(spectrum: Spectrum, steps: float | Tensor) -> Float[Tensor, "B N d"]:
    """Newton's iteration for the inverse."""
    # (1 − (1 − s²/‖S‖²)^(2^k))/s with the Frobenius norm of S.
    square = spectrum.values.square()
    share = square / square.sum(-1, keepdim=True).clamp(min=1e-300)
    none = spectrum.values == 0
    return torch.where(none, 0.0, 1 - (1 - share) ** 2.0**steps) / spectrum.values.masked_fill(none, 1.0)


def geometric(values: Tensor, rate: float | Tensor, steps: float | Tensor) -> Float[Tensor, "B N d"]:
    """Σ_{i < k} η (1 − ηs)ⁱ = (1 − (1 − ηs)ᵏ)/s, which is kη at s = 0."""
    none = values == 0
    return torch.where(none, steps * rate, (1 - (1 - rate * values) ** steps) / values.masked_fill(none, 1.0))
