"""Episodes with their queries and the spectra of their contexts, which make many learners cheap to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.questions import Questions
from iclkit.learners.prefixes import moments

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
        x, prefixes = self.asked.x, list(self.asked.context_sizes)
        gram, target = moments(x, self.asked.y, prefixes)
        values, vectors = torch.linalg.eigh(gram)
        # Directions that the context does not span: what is there is rounding, at most.
        empty = values <= 1e-13 * values[..., -1:]
        loads = (torch.stack([self.asked.queries, target], -2) @ vectors).prod(-2)
        counts = torch.tensor(prefixes, dtype=x.dtype, device=x.device)[:, None]
        return Spectrum(values.masked_fill(empty, 0.0), loads.masked_fill(empty, 0.0), counts)
