"""A trained linear layer as attention over its training data.

Shape letters: M training rows, I inputs, O outputs, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from iclkit.errors import UserError


@dataclass(frozen=True)
class TopExamples:
    """The training rows that add most, the largest first.

    Args:
        rows: Their places among the M rows.
        examples: The examples that they belong to.
        tokens: Which tokens of these.
        updates: The updates that saw them.
        scores: What they add.
    """

    rows: Int[Tensor, " k"]
    examples: Int[Tensor, " k"]
    tokens: Int[Tensor, " k"]
    updates: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]


@dataclass(frozen=True, eq=False)
class LinearDual:
    """W_T q = W q + Σ_i v_i (k_iᵀ q): linear attention without a divisor, whose memory is the training.

    The keys k_i are the inputs that the layer saw in training. The values v_i = γ_u ∂L/∂(W k_i) are its error
    signals, weighted by how much of the gradient of update u is in the weights at the end (see
    `descent_response.py`). In the paper's letters v_i = c_i e_i, e_i = −η ∂L/∂(W k_i).

    The bias is left out of the sums: it is learned too, but what it adds is the same for every query.

    Args:
        initial: W = c_0 W_0, what is left of the first weights, and of momentum that there was before.
        keys: k_i.
        values: v_i.
        updates: Which update saw row i, from 0.
        examples: Which example row i belongs to: as labelled, or counted in the order in which they came.
        tokens: Which token of its example row i is, from 0.
        gradients: γ_u, one for each update.
        bias: The layer's bias now, None if it has none.

    Source: Irie, Csordás and Schmidhuber (2022), theorem 2.1 and section 2.3.
    """

    initial: Float[Tensor, "O I"]
    keys: Float[Tensor, "M I"]
    values: Float[Tensor, "M O"]
    updates: Int[Tensor, " M"]
    examples: Int[Tensor, " M"]
    tokens: Int[Tensor, " M"]
    gradients: Float[Tensor, " updates"]
    bias: Float[Tensor, " O"] | None = None

    def __repr__(self) -> str:
        outputs, inputs = self.initial.shape
        return f"LinearDual({inputs} to {outputs}: {len(self.keys)} rows of {len(self.gradients)} updates)"

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """W_T, put together again."""
        return self.initial + self.values.mT @ self.keys

    def __call__(self, queries: Float[Tensor, "*Q I"]) -> Float[Tensor, "*Q O"]:
        """What the trained layer says, its bias included."""
        attended = self.attention(queries) @ self.values
        out = self._checked(queries) @ self.initial.mT + attended
        return out if self.bias is None else out + self.bias

    def attention(self, queries: Float[Tensor, "*Q I"]) -> Float[Tensor, "*Q M"]:
        """Attention scores k_iᵀ q over the training rows: linear, so they may be negative and sum to anything.

        Args:
            queries: Inputs of the layer.

        Raises:
            UserError: Queries of another width.
        """
        return self._checked(queries) @ self.keys.mT

    def contributions(
        self, queries: Float[Tensor, "*Q I"], direction: Float[Tensor, " O"] | None = None
    ) -> Float[Tensor, ...]:
        """What every training row adds to W_T q.

        Args:
            queries: Inputs of the layer.
            direction: u, for the share of one direction of the output alone.

        Returns:
            v_i (k_iᵀ q) [*Q, M, O]; with a direction uᵀv_i (k_iᵀ q) [*Q, M].

        Raises:
            UserError: Queries or a direction of another width.
        """
        scores = self.attention(queries)
        if direction is None:
            return scores[..., None] * self.values
        return scores * self._along(direction)

    def top(
        self, query: Float[Tensor, " I"], count: int = 10, direction: Float[Tensor, " O"] | None = None
    ) -> TopExamples:
        """The training rows that add most to W_T q.

        Args:
            query: One input of the layer.
            count: How many, at most.
            direction: u: those that push most along it. If None, those that push farthest, wherever to.

        Raises:
            UserError: A query or direction of another shape, or no count.
        """
        if query.ndim != 1 or count < 1:
            raise UserError(
                f"top takes one query [{self.keys.shape[1]}] and a count of at least 1, given a query "
                f"{list(query.shape)} and {count}"
            )
        scores = self.attention(query)
        if direction is None:
            scores = scores.abs() * self.values.norm(dim=-1)
        else:
            scores = scores * self._along(direction)
        best = scores.topk(min(count, len(scores)))
        rows = best.indices
        return TopExamples(rows, self.examples[rows], self.tokens[rows], self.updates[rows], best.values)

    def by_example(self, scores: Float[Tensor, "*Q M"]) -> tuple[Int[Tensor, " E"], Float[Tensor, "*Q E"]]:
        """Sum attention or contributions over all rows of each example: its tokens, and every time it came.

        Args:
            scores: A number for each training row.

        Returns:
            The labels of the examples, in ascending order, and their sums.
        """
        names, places = self.examples.unique(return_inverse=True)
        sums = scores.new_zeros(*scores.shape[:-1], len(names))
        return names, sums.index_add_(-1, places, scores)

    def _along(self, direction: Float[Tensor, " O"]) -> Float[Tensor, " M"]:
        if direction.shape != self.values.shape[1:]:
            raise UserError(
                f"the direction must be [{self.values.shape[1]}], one number for each output, given "
                f"{list(direction.shape)}"
            )
        return self.values @ direction

    def _checked(self, queries: Tensor) -> Tensor:
        if queries.ndim < 1 or queries.shape[-1] != self.keys.shape[1] or queries.dtype != self.keys.dtype:
            raise UserError(
                f"queries must be inputs of the layer, [..., {self.keys.shape[1]}] of {self.keys.dtype}, given "
                f"{list(queries.shape)} of {queries.dtype}"
            )
        return queries
