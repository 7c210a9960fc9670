"""How attention turns the scores of keys into weights.

In all of them the weight of a key depends on the query q and the keys k through φ(q)ᵀφ(k), the score. A new
kind is one class and one line in `WEIGHTINGS`.

Shape letters: Q queries, T keys, D width of a head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from iclkit.networks.query_attention import hiding

# So many units in the last place.
_ROUNDING = 32


class Weighting(ABC):
    """One kind of attention."""

    def features(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """φ of queries and keys, the factor of the scores included."""
        return q, k

    @abstractmethod
    def weights(
        self,
        scores: Float[Tensor, "*batch Q T"],
        hidden: Bool[Tensor, "*#batch Q T"],
        counts: Shaped[Tensor, "*#batch Q"],
    ) -> Float[Tensor, "*batch Q T"]:
        """Weights of the keys; those of hidden keys are 0, also where a query sees no key at all.

        Args:
            scores: φ(q)ᵀφ(k).
            hidden: True where a query must not see a key.
            counts: How many tokens each query counts; the divisor of linear attention.
        """


class Softmax(Weighting):
    """w_t = exp(s_t) / Σ exp(s), s = qᵀk / √D.

    Source: Vaswani et al. (2017), section 3.2.1.
    """

    def features(self, q, k):
        return q / math.sqrt(q.shape[-1]), k

    def weights(self, scores, hidden, counts):
        return torch.softmax(scores.masked_fill(hidden, hiding(scores.dtype)), -1).masked_fill(hidden, 0.0)


class Gaussian(Softmax):
    """w_t ∝ exp(-|q - k_t|² / 2√D): a Nadaraya-Watson smoother with a Gaussian kernel.

    |q|² cancels in the normalisation, so this is the softmax of (qᵀk - |k|²/2) / √D.

    Source: Tsai et al. (2019), "Transformer dissection", section 3.2 (their RBF kernel, at softmax's
    temperature).
    """

    def features(self, q, k):
        scale = math.sqrt(q.shape[-1])
        squares = -0.5 * k.square().sum(-1, keepdim=True)
        return torch.cat([q, torch.ones_like(q[..., :1])], -1) / scale, torch.cat([k, squares], -1)


class Kernel(Weighting):
    """w_t = φ(q)ᵀφ(k_t) / Σ φ(q)ᵀφ(k), φ(z) = elu(z) + 1 > 0.

    Source: Katharopoulos et al. (2020), "Transformers are RNNs", equations 3 and 7.
    """

    def features(self, q, k):
        return F.elu(q) + 1, F.elu(k) + 1

    def weights(self, scores, hidden, counts):
        seen = scores.masked_fill(hidden, 0.0)
        return seen / seen.sum(-1, keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)


class Linear(Weighting):
    """w_t = qᵀk_t / n, n the tokens counted; a query that counts none gets nothing.

    Source: Zhang, Frei and Bartlett (2023), equation 3.2. von Oswald et al. (2022) leave the factor 1/n to the
    weights (their P), which is the same at one context length.
    """

    def weights(self, scores, hidden, counts):
        # The quotient of integers would be float32.
        share = (counts > 0) / counts.clamp_min(1).to(scores.dtype)
        return scores.masked_fill(hidden, 0.0) * share.unsqueeze(-1)


class Hard(Weighting):
    """The mean of the keys with the largest score qᵀk, of all that share it up to rounding.

    Source: Merrill, Sabharwal and Smith (2022), "Saturated transformers", section 2: softmax at temperature 0.
    """

    def weights(self, scores, hidden, counts):
        if not scores.shape[-1]:
            return scores
        # Not as small as HIDDEN alone, which scores that nobody divides by anything may be below.
        scores = scores.masked_fill(hidden, -math.inf)
        largest = scores.amax(-1, keepdim=True)
        chosen = scores >= largest - rounding(largest)
        chosen &= ~hidden
        return chosen / chosen.sum(-1, keepdim=True).clamp_min_(1).to(scores.dtype)


def rounding(scores: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """How far two scores of this size may be apart and still count as equal.

    Equal keys need not have equal scores to the last digit: products of matrices add up in blocks.
    """
    return _ROUNDING * torch.finfo(scores.dtype).eps * scores.abs()


WEIGHTINGS: dict[str, Weighting] = {
    "softmax": Softmax(),
    "linear": Linear(),
    "kernel": Kernel(),
    "gaussian": Gaussian(),
    "hard": Hard(),
}
