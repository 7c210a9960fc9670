"""A network of tokens whose learning in context is one step of gradient descent, by construction.

Its stream is (z, l): z a vector of the input, l a number for each label. A token is an input, embedded as (z,
0), or an input with its label, embedded as (z, e_c - 1/C). With W_Q = W_K = diag(I, 0) and W_V = diag(0, I),
linear attention adds to an input token z behind such pairs

    Δl(z) = (1/(n + 1)) Σ_i (e_{c_i} - 1/C) (z_iᵀ z),

and to one alone 0. Let now keys and values be trained on the pairs: input z_i alone, cross-entropy over labels,
SGD with rate η, one pair at a time. The token sees itself with the score |z_i|² = 1. If the z_i are
orthonormal, what earlier pairs did to W_V adds W_V (z_i, 0) = 0, so each answer is uniform: the gradient of W_V
is -(0, e_{c_i} - 1/C) (z_i, 0)ᵀ, that of W_K is 0, for it has the factor W_V (z_i, 0). After the epoch W_V (z,
0) = η (n + 1) Δl(z). So both ways of learning move the attention output of any query in one direction, and
answer alike.

Source: the identity is that of Dai et al. (2022), section 3; the network is made here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from iclkit.compiler.linear_attention import set_weights
from iclkit.errors import UserError
from iclkit.sequences import TokenTransformer


def token_descent(inputs: Float[Tensor, "K d"], labels: int) -> TokenTransformer:
    """The network for given inputs; float64, one layer, one head.

    Args:
        inputs: What the input tokens are embedded as, of length 1: tokens 0 to K - 1. Input k with label c is
            token K + k C + c. An answer is the label c with the largest logit, that of token c.
        labels: How many (C).

    Returns:
        The network; its sequences may be as long as there are inputs, and one more.

    Raises:
        UserError: Inputs that are not of length 1, fewer than labels, or fewer than two labels.
    """
    if inputs.ndim != 2 or not torch.allclose(inputs.norm(dim=-1), torch.ones(len(inputs)).to(inputs)):
        raise UserError(f"inputs must have shape [inputs, d] and rows of length 1, given {list(inputs.shape)}")
    count, dim = inputs.shape
    if not 2 <= labels <= count:
        raise UserError(f"labels must lie in 2..{count}, the number of inputs, given {labels}")
    # On the meta device nothing is drawn from the global generator.
    with torch.device("meta"):
        network = TokenTransformer(
            vocabulary=count * (1 + labels),
            width=dim + labels,
            layers=1,
            heads=1,
            max_length=count + 1,
            norm=False,
            attention="linear",
        )
    network = network.double().to_empty(device="cpu").requires_grad_(False).eval()
    signs = torch.eye(labels, dtype=torch.float64) - 1 / labels
    z = inputs.double()
    alone = F.pad(z, (0, labels))
    pairs = torch.cat([z.repeat_interleave(labels, 0), signs.repeat(count, 1)], 1)
    on_inputs, on_labels = torch.zeros(2, dim + labels, dtype=torch.float64)
    on_inputs[:dim], on_labels[dim:] = 1.0, 1.0
    (attention,) = network.attentions()
    set_weights(network.tokens.weight, torch.cat([alone, pairs]))
    set_weights(network.places.weight, torch.zeros(0, 0))
    set_weights(attention.qkv.weight, torch.cat([on_inputs.diag(), on_inputs.diag(), on_labels.diag()]))
    set_weights(attention.out.weight, torch.eye(dim + labels))
    set_weights(network.unembedding.weight, on_labels.diag()[dim:])
    return network
