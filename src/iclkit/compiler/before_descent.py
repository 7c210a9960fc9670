"""What may stand before a layer that descends: a perceptron, or a layer that joins separate tokens.

Networks as in `constructions.py`.
"""

from __future__ import annotations

import torch
from torch import nn

from iclkit.compiler.linear_attention import (
    Rates,
    blocks,
    build,
    check_each,
    check_tied,
    diagonal,
    set_layer,
    set_weights,
)
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor


def feature_descent(
    features: nn.Sequential,
    points: int,
    steps: int = 1,
    rate: Rates = 1.0,
    *,
    tied: bool = False,
    merged: bool = True,
    width: int | None = None,
) -> InContextRegressor:
    """Gradient descent on features φ(x) of a perceptron, which the network holds in front of its layers.

    It predicts what `OnFeatures(GradientDescent(steps, rate), φ)` does, after every prefix.

    Args:
        features: φ: Linear, GELU, Linear. Its weights are copied.
        points: Longest context.
        steps: How many (k).
        rate: η: one number, or one for each step.
        tied: Whether all layers are one.
        merged: As in `gradient_descent`.
        width: Of the network, whose perceptron has width - 1 hidden units and outputs; those that φ lacks are
            0. None for the least.

    Raises:
        UserError: As `gradient_descent`; features of another kind, or wider than `width` allows.

    Source: von Oswald et al. (2022), section 4.
    """
    rates = check_each("rate", rate, steps)
    first, last = _perceptron(features)
    least = max(first.out_features, last.out_features) + 1
    if width is not None and width < least:
        raise UserError(
            f"{last.out_features} features from {first.out_features} hidden units need a width of at least "
            f"{least}, given {width}"
        )
    width = least if width is None else width
    network = build(
        first.in_features,
        points,
        width=width,
        layers=steps,
        tied=check_tied(tied, rates),
        merged=merged,
        embedding="features",
        bias=True,
        # As in the recipe `sine-published`, one layer predicts by the last entry itself.
        negated=steps > 1,
    )
    assert network.tokens.features is not None
    for own, given in zip(_perceptron(network.tokens.features), (first, last), strict=True):
        set_weights(own.weight, given.weight)
        set_weights(own.bias, torch.zeros(0) if given.bias is None else given.bias)
    key_query = torch.diag((torch.arange(width) < last.out_features).double())
    for block, rate in zip(blocks(network), rates, strict=True):
        set_layer(block, key_query, diagonal(width - 1, 0.0, -rate if steps > 1 else rate))
    return network


def copying(dim: int, points: int, rate: float = 1.0) -> InContextRegressor:
    """One step of gradient descent on separate tokens of x and y: a layer that joins them, one that descends.

    It predicts what `GradientDescent(1, rate)` does, after every prefix. Tokens are x_1, y_1, x_2, ... with
    one-hot codes of their places, by which they find each other in the first layer: the token of y_i gets x_i,
    and is then the pair (x_i, y_i). (Under a causal mask the later of the two has to receive; in the paper,
    without a mask, it is the other.) Linear attention at place t divides by the t + 1 tokens that it counts;
    the scores undo that, for they know the place. The query at place 2n would divide by 2n + 1 in the second
    layer, not by n: it finds itself in the first, and makes its x (2n + 1)/n times as long.

    Args:
        dim: Dimension of x.
        points: Longest context.
        rate: η.

    Raises:
        UserError: Sizes below one, or a rate that is not positive.

    Source: von Oswald et al. (2022), appendix A (from separate tokens to joined ones).
    """
    (rate,) = check_each("rate", rate, 1)
    places, pair = 2 * points + 1, dim + 1
    width = pair + places
    network = build(
        dim,
        points,
        width=width,
        layers=2,
        tokens="interleaved",
        embedding="linear",
        positions="learned",
        causal=True,
        query_sees_itself=True,
    )
    tokens, readout = network.tokens, network.readout
    assert tokens.linear is not None
    assert tokens.positions is not None
    assert readout is not None
    set_weights(tokens.linear.weight, torch.eye(pair))
    set_weights(tokens.positions[:, pair:], torch.eye(places))
    set_weights(readout.weight, torch.eye(pair)[dim:])
    # Rows are the place that is found, columns the place that looks for it.
    found = torch.zeros(width, width, dtype=torch.float64)
    pairs = torch.arange(1, points + 1)
    x_places, y_places, asked = 2 * pairs - 2, 2 * pairs - 1, 2 * pairs
    found[pair + x_places, pair + y_places] = (y_places + 1).double()
    length = (asked + 1) / pairs.double()
    found[pair + asked, pair + asked] = (asked + 1) * (length - 1)
    copied = torch.zeros(width, width, dtype=torch.float64)
    copied[:dim, :dim] = torch.eye(dim)
    stepped = torch.zeros_like(copied)
    stepped[dim, dim] = rate
    first, second = blocks(network)
    set_layer(first, found, copied)
    set_layer(second, copied, stepped)
    return network


def _perceptron(features: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    """The linear maps of a perceptron of the kind that the network holds."""
    parts = list(features) if isinstance(features, nn.Sequential) else []
    if len(parts) == 3:
        first, between, last = parts
        plain = isinstance(between, nn.GELU) and between.approximate == "none"
        if isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and plain:
            if first.out_features == last.in_features:
                return first, last
            raise UserError(
                f"the features' hidden layer has {first.out_features} units, but their last map takes "
                f"{last.in_features}; make them one number"
            )
    raise UserError("features must be nn.Sequential(nn.Linear, nn.GELU, nn.Linear), as the network holds them")
