"""The weights of a planned transformer, but for its hidden units, which are the target's own.

A column knows its place p (0 for the start column, n for pair number n, n + 1 for a query behind n pairs) and
its kind (0 for a pair, -1 for the start, -2 for a query) from rows of its own. Attention scores are

    previous   -(p_k - p_q + 1)²        largest, 0, at the column before
    own        -(p_k - p_q)²            largest at the column itself
    pairs      kind_k                   largest, 0, at all pairs alike
    first      -(p_k - 1)² + much · kind_k
    largest    q_qᵀk_k + plus_k - later · p_k + much · kind_k

The squares are bilinear: -(p_k - a)² = 2 a p_k - p_k² - a², and a² is the same for all keys. The rows hold p
and p² in a unit that keeps them below 1, a power of 2 so that they stay exact.

Shape letters: W rows of the residual stream, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from iclkit.compiler.lowering import Copy, Own, Plan, PlannedBlock
from iclkit.compiler.where import First, Largest, Pairs, Previous, Where
from iclkit.networks import Layout
from iclkit.regression import InContextRegressor

Array = NDArray[np.float64]
# By how much the kind of a column counts more than what `Largest` compares. Pairs have the kind 0, so that
# nothing is lost to rounding; and it is finite in float32 too.
_MUCH = 1e30
# Narrower heads gain nothing.
_LEAST_HEAD = 4
PAIR, START, QUERY = 0.0, -1.0, -2.0


@dataclass(frozen=True)
class Perceptron:
    """The two maps around hidden units."""

    up: Array
    up_bias: Array
    down: Array
    down_bias: Array


@dataclass(frozen=True)
class Target:
    """What a target adds to a plan.

    Args:
        options: Arguments of `InContextRegressor`.
        perceptron: The hidden units of a block.
        sharpness: A factor on scores.
        gain: Of the norms; None where there are none.
        level: What the balance rows hold, and its negative; 0 where there are none.
    """

    options: Mapping[str, Any]
    perceptron: Callable[[Plan, PlannedBlock], Perceptron | None]
    sharpness: float = 1.0
    gain: float | None = None
    level: float = 0.0


def network(plan: Plan, target: Target) -> InContextRegressor:
    """The transformer of a plan."""
    perceptrons = [target.perceptron(plan, block) for block in plan.blocks]
    copies = [copy for block in plan.blocks for copy in block.copies]
    head_width = max([_LEAST_HEAD, *(_head_width(plan, copy) for copy in copies)])
    made = _empty(plan, target, perceptrons, head_width)
    arrays = _embedding(plan, target)
    for index, (block, perceptron) in enumerate(zip(plan.blocks, perceptrons, strict=True)):
        name = f"backbone.blocks.{plan.order.index(index)}"
        if block.copies:
            arrays |= _attention(plan, target, block, head_width, f"{name}.attention")
        if perceptron is not None:
            arrays |= {
                f"{name}.mlp.0.weight": perceptron.up,
                f"{name}.mlp.0.bias": perceptron.up_bias,
                f"{name}.mlp.2.weight": _balanced(plan, perceptron.down),
                f"{name}.mlp.2.bias": _balanced(plan, perceptron.down_bias),
            }
    if target.gain is not None:
        norms = [name for name in made.state_dict() if "norm." in name]
        arrays |= {name: _norm(plan, target.gain, name.endswith("weight")) for name in norms}
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False).eval()


def _empty(
    plan: Plan, target: Target, perceptrons: Sequence[Perceptron | None], head_width: int
) -> InContextRegressor:
    """The transformer without its weights."""
    heads = [len(block.copies) for block in plan.blocks]
    hidden = [0 if perceptron is None else len(perceptron.down.T) for perceptron in perceptrons]
    layout = Layout(
        tuple(heads[index] for index in plan.order), tuple(hidden[index] for index in plan.order), plan.like
    )
    # On the meta device nothing is drawn from the global generator.
    with torch.device("meta"):
        return InContextRegressor(
            dim=plan.program.dim,
            width=plan.width,
            layers=len(plan.order),
            heads=1,
            max_points=plan.program.points,
            tokens="joined",
            positions="learned",
            head_width=head_width,
            start_token=True,
            layout=layout,
            registers=plan.named_rows(),
            **target.options,
        )


def _embedding(plan: Plan, target: Target) -> dict[str, Array]:
    """Data rows from the data, start values and codes from biases; the readout of the output register."""
    program, width = plan.program, plan.width
    linear = np.zeros((width, program.dim + 1))
    for name, columns in (("x", range(program.dim)), ("y", (program.dim,))):
        if name in plan.registers:
            linear[list(plan.registers[name]), list(columns)] = 1.0
    at_first = np.zeros(width)
    # A start that nobody reads has no rows of its own at first: others may hold what is needed there.
    needed = plan.blocks[plan.order[0]].live[0]
    for name, value in program.initial.items():
        if name in needed:
            at_first[list(plan.registers[name])] = value.ravel()
    start, flag = at_first.copy(), np.zeros(width)
    place, square, kind = plan.codes
    start[kind], flag[kind] = START, QUERY - PAIR
    places = np.arange(program.points + 2) * _unit(plan)
    positions = np.zeros((len(places), width))
    positions[:, place], positions[:, square] = places, places**2
    readout = np.zeros((1, width))
    readout[0, plan.registers[program.output].start] = 1.0
    vectors = {"tokens.linear.bias": at_first, "tokens.start": start}
    arrays = {name: _balanced(plan, value) for name, value in vectors.items()}
    for value in arrays.values():
        value[list(plan.balance)] += np.array([target.level, -target.level])[: len(plan.balance)]
    return arrays | {
        "tokens.linear.weight": _balanced(plan, linear),
        "tokens.flag": _balanced(plan, flag),
        "tokens.positions": _balanced(plan, positions.T).T,
        "readout.weight": readout,
        "readout.bias": np.zeros(1),
    }


def _head_width(plan: Plan, copy: Copy) -> int:
    keys = 3 if isinstance(copy.where, First) else 2
    if isinstance(copy.where, Largest):
        keys = len(plan.registers[copy.where.query]) + 3
    return max(keys, len(copy.targets))


def _attention(plan: Plan, target: Target, block: PlannedBlock, head_width: int, name: str) -> dict[str, Array]:
    """A head for each kind of columns that the block reads."""
    heads = len(block.copies)
    qkv, bias = np.zeros((3, heads, head_width, plan.width)), np.zeros((3, heads, head_width))
    out = np.zeros((plan.width, heads, head_width))
    for head, copy in enumerate(block.copies):
        _scores(plan, copy.where, qkv[:2, head], bias[:2, head])
        places = range(len(copy.targets))
        qkv[2, head, places, copy.sources] = 1.0
        out[copy.targets, head, places] = copy.factor
    # Softmax divides scores by √D; hard attention cannot tell.
    factor = target.sharpness * (sqrt(head_width) if target.options["attention"] == "softmax" else 1.0)
    qkv[0] *= factor
    bias[0] *= factor
    return {
        f"{name}.qkv.weight": qkv.reshape(-1, plan.width),
        f"{name}.qkv.bias": bias.ravel(),
        f"{name}.out.weight": _balanced(plan, out.reshape(plan.width, -1)),
        f"{name}.out.bias": np.zeros(plan.width),
    }


def _scores(plan: Plan, where: Where, qk: Float[Array, "2 D W"], bias: Float[Array, "2 D"]) -> None:
    """Set queries and keys so that their products are the scores above."""
    place, square, kind = plan.codes
    unit = _unit(plan)
    (q, k), (q_bias, _) = qk, bias
    if isinstance(where, Previous | Own):
        q[0, place] = 2 / unit**2
        q_bias[0] = -2 / unit if isinstance(where, Previous) else 0.0
        q_bias[1] = -1 / unit**2
        k[0, place] = k[1, square] = 1.0
    elif isinstance(where, Pairs):
        q_bias[0] = k[0, kind] = 1.0
    elif isinstance(where, First):
        q_bias[:3] = 2 / unit, -1 / unit**2, _MUCH
        k[0, place] = k[1, square] = k[2, kind] = 1.0
    else:
        assert isinstance(where, Largest)
        query, key, plus = (plan.registers[name] for name in where.reads)
        places = range(len(query))
        q[places, query] = k[places, key] = 1.0
        q_bias[len(query)] = k[len(query), plus.start] = 1.0
        q_bias[len(query) + 1], k[len(query) + 1, kind] = _MUCH, 1.0
        q_bias[len(query) + 2], k[len(query) + 2, place] = -where.later / unit, 1.0


def _unit(plan: Plan) -> float:
    """What a step from place to place adds to the row of places."""
    return 2.0 ** -(plan.program.points + 2).bit_length()


def _balanced(plan: Plan, written: Float[Array, "W ..."]) -> Float[Array, "W ..."]:
    """With balance rows that take back, half each, what is written to the others: the mean stays 0."""
    written = written.copy()
    if plan.balance:
        written[list(plan.balance)] = -written.sum(0) / len(plan.balance)
    return written


def _norm(plan: Plan, gain: float, weight: bool) -> Array:
    value = np.full(plan.width, gain if weight else 0.0)
    value[list(plan.balance)] = 0.0
    return value
