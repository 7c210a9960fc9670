"""Gradient descent as the weights of linear attention: networks that nobody trained.

A layer of linear attention adds W_PV (1/n) Σ e_i (e_iᵀ W_KQ e) to a token e, the sum over the n pairs of the
context. With e_i = (x_i, r_i), W_KQ = diag(I, 0) and W_PV = diag(0, -η) that is, for each token (x, r),

    r ← r - (η/n) Σ r_i x_iᵀ x = r - Δwᵀx,

where Δw = (η/n) Σ r_i x_i is a step of gradient descent on (1/2n) Σ (wᵀx_i - y_i)² if r_i = y_i - wᵀx_i. So all
residuals go along with w, from r_i = y_i - w₀ᵀx_i and r = -w₀ᵀx of the query, which has no y: its r ends at
-wᵀx, and the prediction is its negative. The division by n is the layer's own, so that a network is gradient
descent after every prefix, and not at one length of context alone.

All networks are float64: what they compute is exact up to its rounding. One output y, as `InContextRegressor`
has; gradient descent does not mix outputs, so several are as many networks.

Source: von Oswald et al. (2022), proposition 1 and appendix A; Zhang, Frei and Bartlett (2023), theorem 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.compiler.linear_attention import (
    Rates,
    attention_layer,
    blocks,
    build,
    check_each,
    check_sizes,
    check_tied,
    diagonal,
    set_layer,
    set_weights,
    turned,
)
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor


def gradient_descent(
    dim: int,
    points: int,
    steps: int = 1,
    rate: Rates = 1.0,
    start: Sequence[float] | Tensor | None = None,
    *,
    tied: bool = False,
    plain: bool = False,
    merged: bool = True,
) -> InContextRegressor:
    """Steps of gradient descent on half the mean squared error of the context, a layer each.

    It predicts what the learner `GradientDescent(steps, rate)` does, after every prefix.

    Args:
        dim: Dimension of x.
        points: Longest context.
        steps: How many (k).
        rate: η: one number, or one for each step.
        start: w₀ [d]; None for 0. It sits in the embedding, which maps x to (x, -w₀ᵀx) and a pair to (x, y -
            w₀ᵀx). In the paper pairs are (x, y) and W_V subtracts w₀ᵀx in every layer, which is the same.
        tied: Whether all layers are one, as for k equal rates they can be.
        plain: Whether tokens are (x, y) and (x, 0) as they are: one step has then the shape of the recipe
            `lsa`, with W_PV turned to predict by the last entry itself, and several that of `lsa-recurrent`.
        merged: Whether attention has the matrices W_KQ and W_PV, or W_K, W_Q, W_V and W_O.

    Raises:
        UserError: Sizes below one, rates that are not positive or not as many as steps, a w₀ of another shape,
            tied layers of different rates, or `plain` with a w₀.

    Source: von Oswald et al. (2022), proposition 1.
    """
    rates = check_each("rate", rate, steps)
    values = [diagonal(dim, 0.0, -rate) for rate in rates]
    return _descent(dim, points, values, start, tied=check_tied(tied, rates), plain=plain, merged=merged)


def gradient_descent_plus_plus(
    dim: int,
    points: int,
    steps: int = 2,
    rate: Rates = 1.0,
    gamma: Rates = 0.1,
    start: Sequence[float] | Tensor | None = None,
    *,
    tied: bool = False,
    plain: bool = False,
    merged: bool = True,
) -> InContextRegressor:
    """Gradient descent whose layers also move the inputs, x ← (I - γ (1/n) Σ x_i x_iᵀ) x (GD++).

    It predicts what `GradientDescentPlusPlus(steps, rate, gamma, curvature="mean")` does, after every prefix.

    Args:
        dim: Dimension of x.
        points: Longest context.
        steps: How many (k).
        rate: η: one number, or one for each step.
        gamma: γ, on the mean curvature: the layer divides all that it adds by n. Published values are for the
            sum, so n times less: the γ here is 10 times theirs for contexts of 10 pairs.
        start: w₀ [d], as in `gradient_descent`; None for 0.
        tied: Whether all layers are one.
        plain: Whether tokens are (x, y) and (x, 0) as they are, as in `gradient_descent`.
        merged: As in `gradient_descent`.

    Raises:
        UserError: As `gradient_descent`, and the same for γ.

    Source: von Oswald et al. (2022), section 3 and appendix A (curvature correction).
    """
    rates, gammas = check_each("rate", rate, steps), check_each("gamma", gamma, steps)
    values = [diagonal(dim, -gamma, -rate) for rate, gamma in zip(rates, gammas, strict=True)]
    tied = check_tied(tied, rates, gammas)
    return _descent(dim, points, values, start, tied=tied, plain=plain, merged=merged)


def kernel_smoother(dim: int, points: int, length_scale: float = 1.0) -> InContextRegressor:
    """Attention that averages the y of the context with a Gaussian kernel (Nadaraya and Watson).

    With a kernel in place of the inner product, what was a step of gradient descent on linear functions is one
    on the functions of the kernel: from f = 0 it adds η Σ k(x_i, x) y_i. Softmax divides that by Σ k(x_i, x): a
    rate of its own for each x. Here k(x, x') = exp(-|x - x'|² / 2ℓ²).

    Args:
        dim: Dimension of x.
        points: Longest context.
        length_scale: ℓ.

    Raises:
        UserError: Sizes below one, or a length that is not positive.

    Source: von Oswald et al. (2022), section 5; Tsai et al. (2019), section 3.
    """
    (length,) = check_each("length_scale", length_scale, 1)
    network = build(
        dim,
        points,
        width=dim + 1,
        layers=1,
        tied=False,
        merged=False,
        embedding="identity",
        attention="gaussian",
    )
    # Attention halves |q - k|² and divides it by √W.
    scaled = diagonal(dim, (dim + 1) ** 0.25 / length, 0.0)
    attention = blocks(network)[0].attention
    assert attention is not None
    set_weights(attention.qkv.weight, torch.cat([scaled, scaled, diagonal(dim, 0.0, 1.0)]))
    set_weights(attention.out.weight, torch.eye(dim + 1))
    return network


def _descent(
    dim: int,
    points: int,
    values: Sequence[Float[Tensor, "W W"]],
    start: Sequence[float] | Tensor | None,
    *,
    tied: bool,
    plain: bool,
    merged: bool,
) -> InContextRegressor:
    """Layers with W_KQ = diag(I, 0) and these W_PV, on residuals of w₀, and the negative of the last entry."""
    check_sizes(dim, points)
    if plain and start is not None:
        raise UserError("plain=True has no place for a start, which sits in the embedding; leave one out")
    if plain and len(values) == 1:
        (only,) = values
        return attention_layer(diagonal(dim, 1.0, 0.0), turned(only), points, merged=merged)
    sizes = {"width": dim + 1, "layers": len(values), "tied": tied, "merged": merged}
    if plain:
        network = build(dim, points, embedding="identity", negated=True, **sizes)
    else:
        network = build(dim, points, embedding="linear", **sizes)
        _set_start(network, start)
    for block, value_out in zip(blocks(network), values, strict=True):
        set_layer(block, diagonal(dim, 1.0, 0.0), value_out)
    return network


def _set_start(network: InContextRegressor, start: Sequence[float] | Tensor | None) -> None:
    """An embedding that begins with w₀, and a readout of the last entry's negative."""
    dim, tokens, readout = network.dim, network.tokens, network.readout
    embedding = torch.eye(dim + 1, dtype=torch.float64)
    if start is not None:
        first = torch.as_tensor(start, dtype=torch.float64)
        if first.shape != (dim,):
            raise UserError(
                f"start must have shape [{dim}], one weight for each input, given {list(first.shape)}"
            )
        if not first.isfinite().all():
            raise UserError("start must be finite, given NaN or infinite weights")
        embedding[dim, :dim] = -first
    assert tokens.linear is not None
    assert tokens.flag is not None
    assert readout is not None
    set_weights(tokens.linear.weight, embedding)
    set_weights(tokens.flag, torch.zeros(0))  # a query is known by nothing but its place
    set_weights(readout.weight, -torch.eye(dim + 1)[dim:])
