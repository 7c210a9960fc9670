"""Episodes with their queries and the spectra of their contexts, which make many learners cheap to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.questions import Questions
from iclkit.learners.intercept import with_one
from iclkit.learners.prefixes import moments, sums_before

# Episodes on which a first look at a learner's parameters is taken.
_FEW = 32


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the Gram matrices of all contexts, and what each direction weighs in a prediction.

    With Σ_{j<n} x_j x_jᵀ = V diag(s) Vᵀ, many learners predict Σ_i f(s_i) (v_iᵀ q_n) (v_iᵀ Σ_{j<n} y_j x_j) at
    the query q_n: ridge has f = 1/(s + λ), least squares 1/s, averaging 1/n, k steps of gradient descent on the
    mean loss (1 − (1 − η s/n)ᵏ)/s. They differ in f alone, so one decomposition serves all of them and every
    parameter.

    Args:
        values: The eigenvalues (s), of the sum over the n pairs.
        loads: (v_iᵀ q_n) (v_iᵀ Σ y_j x_j); 0 in directions that the context does not span.
        counts: Pairs in each context (n).
    """

    values: Float[Tensor, "B N d"]
    loads: Float[Tensor, "B N d"]
    counts: Float[Tensor, "N 1"]

    @classmethod
    def of(
        cls,
        gram: Float[Tensor, "B N d d"],
        target: Float[Tensor, "B N d"],
        queries: Float[Tensor, "B N d"],
        counts: Float[Tensor, "N 1"],
    ) -> Spectrum:
        """That of Gram matrices, the sums of y x, and queries."""
        values, vectors = torch.linalg.eigh(gram)
        # Directions that the context does not span: what is there is rounding, at most.
        empty = values <= 1e-13 * values[..., -1:]
        loads = (torch.stack([queries, target], -2) @ vectors).prod(-2)
        return cls(values.masked_fill(empty, 0.0), loads.masked_fill(empty, 0.0), counts)

    def at(self, sizes: list[int]) -> Spectrum:
        """That of some of the contexts."""
        return Spectrum(self.values[:, sizes], self.loads[:, sizes], self.counts[sizes])


@dataclass(frozen=True)
class Prompts:
    """Questions in float64, on which families are fitted.

    Args:
        asked: The questions.
    """

    asked: Questions

    @classmethod
    def of(cls, asked: Questions, rows: slice) -> Prompts:
        """Some of the episodes, in float64."""
        x, y = asked.x[rows].double(), asked.y[rows].double()
        queries = x if asked.queries is asked.x else asked.queries[rows].double()
        return cls(Questions(x, y, queries, None, y, None))

    @cached_property
    def first(self) -> Prompts:
        """The first few of the episodes."""
        return self if len(self.asked.x) <= _FEW else Prompts.of(self.asked, slice(0, _FEW))

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectra of all contexts."""
        gram, target = moments(self.asked.x, self.asked.y, list(self.asked.context_sizes))
        return Spectrum.of(gram, target, self.asked.queries, self._counts)

    @cached_property
    def joined(self) -> Spectrum:
        """The spectra of all contexts on inputs (1, x)."""
        x, queries = with_one(self.asked.x), with_one(self.asked.queries)
        gram, target = moments(x, self.asked.y, list(self.asked.context_sizes))
        return Spectrum.of(gram, target, queries, self._counts)

    @cached_property
    def centred(self) -> tuple[Spectrum, Float[Tensor, "B N"]]:
        """The spectra of contexts about their own means, and the mean targets (0 before any pair)."""
        # Counted from the first pair, so that an offset of all takes no digits.
        x, y = self.asked.x - self.asked.x[:, :1], self.asked.y - self.asked.y[:, :1]
        prefixes, counts = list(self.asked.context_sizes), self._counts
        gram, target = moments(x, y, prefixes)
        divisor = counts.clamp(min=1)
        mean_x, mean_y = sums_before(x, prefixes) / divisor, sums_before(y, prefixes) / divisor[:, 0]
        gram = gram - counts[..., None] * mean_x[..., :, None] * mean_x[..., None, :]
        target = target - counts * mean_x * mean_y[..., None]
        queries = self.asked.queries - self.asked.x[:, :1] - mean_x
        seen = counts[:, 0] > 0
        offset = torch.where(seen, mean_y + self.asked.y[:, :1], 0.0)
        return Spectrum.of(gram, target, queries, counts), offset

    @property
    def _counts(self) -> Float[Tensor, "N 1"]:
        x = self.asked.x
        return torch.tensor(self.asked.context_sizes, dtype=x.dtype, device=x.device)[:, None]
