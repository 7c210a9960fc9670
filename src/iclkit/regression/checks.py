"""Arguments of the network: cheap looks at shapes and types, so that a mistake is told in one line.

What is in the tensors (NaN, prefixes out of range) is looked at by learners alone: that costs a pass over them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclkit.errors import UserError


def check_pairs(x: Any, y: Any, dim: int, like: Tensor, least: int = 0) -> None:
    """Refuse what is no batch of episodes for a network.

    Args:
        x: To be [B, N, dim].
        y: To be [B, N].
        dim: Dimension of x.
        like: A weight, of whose type and device both must be.
        least: The smallest N that is taken.

    Raises:
        UserError: Says which argument, what it is, and what is accepted.
    """
    for name, value in (("x", x), ("y", y)):
        _check_tensor(name, value, like)
    if x.ndim != 3 or x.shape[2] != dim or x.shape[1] < least:
        few = f" with at least {least} points" if x.ndim == 3 and x.shape[1] < least else ""
        raise UserError(f"x must have shape [episodes, points, {dim}]{few}, given {list(x.shape)}")
    if y.shape != x.shape[:2]:
        raise UserError(f"y must have shape {list(x.shape[:2])}, as x has points, given {list(y.shape)}")


def check_queries(queries: Any, prefixes: Any, x: Tensor) -> None:
    """Refuse what are no queries after prefixes of episodes that have been checked.

    Args:
        queries: To be [B, P, K, d].
        prefixes: To be whole numbers, P or [B, P].
        x: The inputs, [B, N, d].

    Raises:
        UserError: As `check_pairs`.
    """
    _check_tensor("queries", queries, x)
    episodes, _, dim = x.shape
    if queries.ndim != 4 or queries.shape[0] != episodes or queries.shape[3] != dim:
        raise UserError(
            f"queries must have shape [{episodes}, prefixes, queries, {dim}], as x is {list(x.shape)}, "
            f"given {list(queries.shape)}"
        )
    if not isinstance(prefixes, Tensor) or prefixes.dtype not in (torch.int64, torch.int32):
        given = prefixes.dtype if isinstance(prefixes, Tensor) else type(prefixes).__name__
        raise UserError(f"prefixes must be a tensor of whole numbers, given {given}; make one by torch.tensor")
    if prefixes.shape not in (queries.shape[1:2], queries.shape[:2]):
        count = queries.shape[1]
        raise UserError(
            f"prefixes must have shape [{count}] or [{episodes}, {count}], as queries are "
            f"{list(queries.shape)}, given {list(prefixes.shape)}"
        )


def _check_tensor(name: str, value: Any, like: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a tensor, given {type(value).__name__}")
    if value.dtype != like.dtype or value.device != like.device:
        raise UserError(
            f"{name} must be {like.dtype} on {like.device}, as the network is, given {value.dtype} on "
            f"{value.device}; convert it by {name}.to({like.dtype})"
        )
