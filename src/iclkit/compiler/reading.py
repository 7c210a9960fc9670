"""The registers of a compiled network while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from iclkit.regression import InContextRegressor
from iclkit.regression.registers import read_registers


def registers(
    network: InContextRegressor, cache: Mapping[str, Tensor], names: str | Iterable[str] | None = None
) -> dict[str, dict[int, Tensor]]:
    """What the registers held, by name and block.

        _, cache = network.run_with_cache(x, y, names="blocks.*.residual")
        registers(network, cache, "w")["w"][3]      # [B, columns, d], after block 3

    Columns are the start, the pairs but the last, and the queries, in this order, as in `interpret`.

    Args:
        network: A compiled network.
        cache: What `network.run_with_cache` kept.
        names: Which registers; all if None.

    Returns:
        For each register its values [B, columns, *shape] at the blocks after which its rows hold it.

    Raises:
        UserError: A register that is not there, or a cache without residual streams.
    """
    return read_registers(network.registers, cache, names)
