"""LSTM and GRU that run over tokens, or over queries that follow prefixes of encoded tokens.

The sequence is encoded once, by the fused kernels. A query after n tokens takes the states after them and makes
one step from there, for all queries at once.

Shape letters: B episodes, T tokens, R of which are asked for, Q queries, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.networks.hooks import HookPoint

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class States:
    """What one layer took and what it gave back."""

    inputs: Float[Tensor, "B T W"]
    outputs: Float[Tensor, "B T W"]


class RecurrentLayer(nn.Module):
    """One layer of cells. A function on its hook point changes what the next layer gets, not the recurrence."""

    def __init__(self, cell: str, width: int, bias: bool) -> None:
        super().__init__()
        self.cell = CELLS[cell](width, width, bias=bias, batch_first=True)
        self.state = HookPoint()

    def forward(self, x: Float[Tensor, "B T W"]) -> tuple[Float[Tensor, "B T W"], States]:
        """The states after every token."""
        outputs = self.cell(x)[0] if x.shape[1] else x
        return self.state(outputs), States(x, outputs)

    def query(
        self, x: Float[Tensor, "B Q W"], states: States, lengths: Int[Tensor, "*B Q"]
    ) -> Float[Tensor, "B Q W"]:
        """The state after one more token, behind the first `lengths[i]`."""
        before = F.pad(states.outputs, (0, 0, 1, 0))
        hidden = _at(before, lengths)
        taken, kept = self._gates(x, hidden)
        if isinstance(self.cell, nn.LSTM):
            i, f, g, o = (taken + kept).chunk(4, -1)
            memory = _at(self._memories(states.inputs, before[:, :-1]), lengths)
            return self.state(o.sigmoid() * (f.sigmoid() * memory + i.sigmoid() * g.tanh()).tanh())
        (r, z, n), (old_r, old_z, old_n) = taken.chunk(3, -1), kept.chunk(3, -1)
        new = (n + (r + old_r).sigmoid() * old_n).tanh()
        return self.state(new.lerp(hidden, (z + old_z).sigmoid()))

    def _gates(
        self, x: Float[Tensor, "B T W"], hidden: Float[Tensor, "B T W"]
    ) -> tuple[Float[Tensor, "B T G"], Float[Tensor, "B T G"]]:
        """What token and state contribute to the gates: i, f, g, o of an LSTM, r, z, n of a GRU."""
        from_input, from_state, *biases = self.cell.all_weights[0]
        input_bias, state_bias = biases or (None, None)
        return F.linear(x, from_input, input_bias), F.linear(hidden, from_state, state_bias)

    def _memories(
        self, inputs: Float[Tensor, "B T W"], before: Float[Tensor, "B T W"]
    ) -> Float[Tensor, "B T_plus_one W"]:
        """The LSTM's cell memory before the first token and after each: the kernel hands back only the last.

        Given the states, the gates of all tokens follow at once, and c_t = f_t c_{t-1} + i_t g_t from them.
        """
        taken, kept = self._gates(inputs, before)
        i, f, g, _ = (taken + kept).chunk(4, -1)
        forget, add = f.sigmoid().unbind(1), (i.sigmoid() * g.tanh()).unbind(1)
        memories = [inputs.new_zeros(len(inputs), inputs.shape[-1])]
        for forgotten, added in zip(forget, add, strict=True):
            memories.append(forgotten * memories[-1] + added)
        return torch.stack(memories, 1)


def _at(states: Float[Tensor, "B T W"], lengths: Int[Tensor, "*B Q"]) -> Float[Tensor, "B Q W"]:
    """The states at these places, the same in every episode or its own in each."""
    if lengths.ndim == 1:
        return states[:, lengths]
    return states.take_along_dim(lengths[..., None], 1)


class Recurrent(nn.Module):
    """A stack of LSTM or GRU layers.

    Args:
        cell: "lstm" or "gru".
        width: Width of tokens and states.
        layers: Number of layers.
        bias: Whether the cells have biases.
    """

    def __init__(self, cell: str, width: int, layers: int, bias: bool = True) -> None:
        super().__init__()
        self.embedded = HookPoint()
        self.layers = nn.ModuleList(RecurrentLayer(cell, width, bias) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "B T W"], rows: slice | None = None
    ) -> tuple[Float[Tensor, "B R W"], list[States]]:
        """Encode a sequence; the rows that are asked for (all if None), and what queries need."""
        x, memories = self.embedded(x), []
        for layer in self._stack():
            x, states = layer(x)
            memories.append(states)
        return x if rows is None else x[:, rows], memories

    def query(
        self, x: Float[Tensor, "B Q W"], memories: list[States], lengths: Int[Tensor, "*B Q"]
    ) -> Float[Tensor, "B Q W"]:
        """Run queries after prefixes of an encoded sequence; query i follows its first `lengths[i]` tokens.

        Lengths [B, Q] give each episode its own.
        """
        x = self.embedded(x)
        for layer, states in zip(self._stack(), memories, strict=True):
            x = layer.query(x, states, lengths)
        return x

    def _stack(self) -> Iterator[RecurrentLayer]:
        return iter(cast("list[RecurrentLayer]", self.layers))
