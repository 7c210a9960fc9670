"""Products of a layer's many rows with its weights, by the quicker of the two libraries that torch carries.

`torch.mm` calls MKL, which on processors that are not Intel's runs at half of what their vector units can do
(AMD EPYC, one thread, 1024³: 94 against 205 GFLOP/s). oneDNN has no such preference, but torch takes it for
`torch.mm` in half precision alone; here its float32 product is called by name. That records no gradient: these
functions are for passes that are written out. `torch.backends.mkldnn.flags(enabled=False)` turns it off.

Shape letters: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Below this many rows its fixed cost of 10 µs a call is more than it saves.
_FEWEST_ROWS = 128


def linear(
    x: Float[Tensor, "M I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
    residual: Float[Tensor, "M O"] | None = None,
) -> Float[Tensor, "M O"]:
    """x Wᵀ + b + residual, each of the last two if given."""
    if _by_onednn(x):
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    if residual is None:
        return x @ weight.mT if bias is None else torch.addmm(bias, x, weight.mT)
    out = torch.addmm(residual, x, weight.mT)
    return out if bias is None else out.add_(bias)


def weight_gradient(grad: Float[Tensor, "M O"], x: Float[Tensor, "M I"]) -> Float[Tensor, "O I"]:
    """gradᵀ x: the gradient of the weight, from that of the result."""
    if not _by_onednn(x):
        return grad.mT @ x
    # The first factor is copied into rows: let it be the narrower one.
    if grad.shape[1] <= x.shape[1]:
        return torch.ops.mkldnn._linear_pointwise(grad.mT, x.mT, None, "none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x.mT, grad.mT, None, "none", [], "").mT


def _by_onednn(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) >= _FEWEST_ROWS
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # pyright: ignore[reportAttributeAccessIssue]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
