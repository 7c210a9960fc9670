"""A softmax layer as one step of gradient descent on a model of random features.

With φ(x) = m^(-1/2) exp(Ωx - |x|²/2), Ω of m rows ~ N(0, I), the mean of φ(k)ᵀφ(q) is exp(kᵀq). So softmax
attention is nearly linear attention on φ, which is the prediction W φ(q) of a model after one step on

    L(W) = -(1/(ηZ)) Σ_i v_iᵀ W φ(k_i),    from W_0 = (1/Z) v_q φ(k_q)ᵀ,    at the rate η:

the context's tokens i are its training data, and the query's own token makes the weights that it starts from.
Z = Σ_i φ(k_i)ᵀφ(q) + φ(k_q)ᵀφ(q) belongs to the query, so every query has a model of its own.

Shape letters: T tokens, the last of which is the query's own, Q queries, D width of a key, O of a value, m
features; *B whatever comes before (sequences, heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclkit.errors import UserError


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """φ(x) = m^(-1/2) exp(Ωx - |x|²/2) > 0, whose products estimate exp(kᵀq) without bias.

    Args:
        projections: Ω.

    Source: Choromanski et al. (2021), "Rethinking attention with performers", lemma 1.
    """

    projections: Float[Tensor, "m D"]

    @classmethod
    def draw(
        cls, count: int, dim: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> RandomFeatures:
        """Features with rows of Ω from N(0, I).

        Args:
            count: m.
            dim: D.
            generator: Of the rows, on whose device they are.
            dtype: Of the rows.

        Raises:
            UserError: No features, or none of their arguments.
        """
        if count < 1 or dim < 1:
            raise UserError(f"random features need a count and a dim of at least 1, given {count} and {dim}")
        return cls(torch.randn(count, dim, generator=generator, dtype=dtype, device=generator.device))

    def __call__(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B m"]:
        exponents = x @ self.projections.mT - 0.5 * x.square().sum(-1, keepdim=True)
        return exponents.exp() * len(self.projections) ** -0.5


@dataclass(frozen=True, eq=False)
class SoftmaxDual:
    """The model whose training is the attention of one query.

    Args:
        initial: W_0.
        keys: φ(k_i), what it is trained on.
        values: v_i, what it is trained towards.
        query: φ(q), what it predicts at.
        normaliser: Z.

    Source: Ren and Liu (2023), "In-context learning with Transformer is really equivalent to a contrastive
    learning pattern", section 3.
    """

    initial: Float[Tensor, "*B O m"]
    keys: Float[Tensor, "*B N m"]
    values: Float[Tensor, "*B N O"]
    query: Float[Tensor, "*B m"]
    normaliser: Float[Tensor, "*B"]

    def loss(self, weight: Float[Tensor, "*B O m"], rate: float = 1.0) -> Float[Tensor, "*B"]:
        """L(W), which is linear in W: it pulls W φ(k_i) towards v_i, and nothing pushes away."""
        along = (self.values * (self.keys @ weight.mT)).sum((-2, -1))
        return -along / (rate * self.normaliser)

    def step(self, weight: Float[Tensor, "*B O m"], decay: float = 0.0) -> Float[Tensor, "*B O m"]:
        """W (1 - α) - η ∂L/∂W: one step of gradient descent with weight decay, in which η cancels.

        Args:
            weight: W.
            decay: α. It makes attention the `regularised` one of `networks/variants.py`.
        """
        update = self.values.mT @ self.keys / self.normaliser[..., None, None]
        return (1 - decay) * weight + update

    def predict(self, weight: Float[Tensor, "*B O m"]) -> Float[Tensor, "*B O"]:
        """W φ(q); after one step from the start, the output of attention."""
        return (weight @ self.query[..., None])[..., 0]


def softmax_dual(
    q: Float[Tensor, "*B D"], k: Float[Tensor, "*B T D"], v: Float[Tensor, "*B T O"], features: RandomFeatures
) -> SoftmaxDual:
    """The dual of softmax attention for one query.

    Args:
        q: The query (of a network's layer: its hook point `attention.q`). Scores are qᵀk / √D.
        k: Keys of the tokens that it sees; its own is the last.
        v: Their values.
        features: φ.

    Raises:
        UserError: Tensors whose shapes do not fit.
    """
    _check(q[..., None, :], k, v, features)
    scale = q.shape[-1] ** -0.25
    query, keys = features(scale * q), features(scale * k)
    normaliser = (keys @ query[..., None]).sum((-2, -1))
    initial = v[..., -1, :, None] * keys[..., -1, None, :] / normaliser[..., None, None]
    return SoftmaxDual(initial, keys[..., :-1, :], v[..., :-1, :], query, normaliser)


def random_feature_attention(
    q: Float[Tensor, "*B Q D"],
    k: Float[Tensor, "*B T D"],
    v: Float[Tensor, "*B T O"],
    features: RandomFeatures,
    hidden: Bool[Tensor, "*#B Q T"] | None = None,
) -> Float[Tensor, "*B Q O"]:
    """Σ_t φ(k_t)ᵀφ(q) v_t / Σ_t φ(k_t)ᵀφ(q): softmax attention with its kernel estimated.

    Args:
        q: Queries. Scores are qᵀk / √D.
        k: Keys.
        v: Values.
        features: φ.
        hidden: True where a query must not see a token.

    Raises:
        UserError: Tensors whose shapes do not fit.

    Source: Choromanski et al. (2021), equation 5.
    """
    _check(q, k, v, features)
    scale = q.shape[-1] ** -0.25
    weights = features(scale * q) @ features(scale * k).mT
    if hidden is not None:
        weights = weights.masked_fill(hidden, 0.0)
    return weights @ v / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class FeatureErrors:
    """How far attention by random features is from softmax.

    Args:
        counts: Numbers of features m.
        errors: Root mean squared error of each draw of Ω over that of the outputs themselves.
    """

    counts: tuple[int, ...]
    errors: Float[Tensor, "draws counts"]

    @property
    def mean(self) -> Float[Tensor, " counts"]:
        """The root mean square over draws."""
        return self.errors.square().mean(0).sqrt()

    @property
    def slope(self) -> float:
        """Of the log error in log m, by least squares; -1/2 where errors are those of a mean."""
        return _slope(self.counts, self.mean)

    def slope_interval(self, level: float = 0.95, resamples: int = 1000) -> tuple[float, float]:
        """The slope's bootstrap interval over draws."""
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(len(self.errors), (resamples, len(self.errors)), generator=generator)
        means = self.errors[chosen].square().mean(1).sqrt()
        slopes = torch.tensor([_slope(self.counts, mean) for mean in means])
        low, high = slopes.quantile(torch.tensor([0.5 - level / 2, 0.5 + level / 2])).tolist()
        return low, high


def feature_errors(
    q: Float[Tensor, "*B Q D"],
    k: Float[Tensor, "*B T D"],
    v: Float[Tensor, "*B T O"],
    counts: Sequence[int],
    draws: int,
    generator: torch.Generator,
    hidden: Bool[Tensor, "*#B Q T"] | None = None,
) -> FeatureErrors:
    """Measure attention by random features against softmax attention.

    Args:
        q: Queries. Scores are qᵀk / √D.
        k: Keys.
        v: Values.
        counts: Numbers of features, two different ones at least.
        draws: How many Ω for each number.
        generator: Of Ω.
        hidden: True where a query must not see a token.

    Raises:
        UserError: Fewer numbers than a slope needs, or tensors whose shapes do not fit.
    """
    if len(set(counts)) < 2 or draws < 1:
        raise UserError(f"a slope needs two different counts and a draw, given {list(counts)} and {draws}")
    scores = q @ k.mT / q.shape[-1] ** 0.5
    exact = torch.softmax(scores if hidden is None else scores.masked_fill(hidden, -torch.inf), -1) @ v
    rows = []
    for _ in range(draws):
        found = []
        for count in counts:
            features = RandomFeatures.draw(count, q.shape[-1], generator, q.dtype)
            estimate = random_feature_attention(q, k, v, features, hidden)
            found.append((estimate - exact).square().mean().div(exact.square().mean()).sqrt())
        rows.append(torch.stack(found))
    return FeatureErrors(tuple(counts), torch.stack(rows))


def _slope(counts: Sequence[int], errors: Float[Tensor, " counts"]) -> float:
    x, y = torch.tensor(counts, dtype=torch.float64).log(), errors.double().log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def _check(
    q: Float[Tensor, "*B Q D"], k: Float[Tensor, "*B T D"], v: Float[Tensor, "*B T O"], features: RandomFeatures
) -> None:
    dim = features.projections.shape[1]
    fits = (
        q.shape[-1:] == k.shape[-1:] == (dim,) and k.shape[:-1] == v.shape[:-1] and q.shape[:-2] == k.shape[:-2]
    )
    if not fits or not k.shape[-2]:
        raise UserError(
            f"queries and keys must have {dim} numbers, as the features do, and keys and values the same "
            f"tokens, at least one; given {list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
