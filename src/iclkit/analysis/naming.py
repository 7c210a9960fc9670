"""Learners and tasks in few words: what tables and figures call them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners import RegressionLearner, as_learner


def written(value: Any) -> str:
    """A task or learner as one would write it: its class, its first field, and others that are not at defaults.

    A first field goes without its name, but for dimensions: "Ridge(0.25)", "LinearRegression(dim=20)".
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return "a tensor" if isinstance(value, Tensor) else repr(value)
    parts = []
    for i, field in enumerate(field for field in dataclasses.fields(value) if field.init and field.repr):
        content = getattr(value, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if i == 0 or isinstance(content, Tensor) or content != default:
            text = written(content)
            parts.append(text if i == 0 and field.name != "dim" else f"{field.name}={text}")
    return f"{type(value).__name__}({', '.join(parts)})" if parts else type(value).__name__


def name_of(learner: RegressionLearner) -> str:
    """A learner's own name, or how it is written."""
    name = getattr(learner, "name", None)
    if isinstance(name, str) and name:
        return name
    if dataclasses.is_dataclass(learner):
        return written(learner)
    return type(learner).__name__


def named(learners: Sequence[Any] | Mapping[str, Any]) -> dict[str, RegressionLearner]:
    """Learners by name.

    Args:
        learners: Learners or functions (x, y) -> predictions; in a list they go by the names that they have.

    Raises:
        UserError: None at all, two of one name, or something that is no learner.
    """
    if isinstance(learners, Mapping):
        found = [(str(name), as_learner(value)) for name, value in learners.items()]
    elif isinstance(learners, Sequence) and not isinstance(learners, str):
        found = [(name_of(learner), learner) for learner in map(as_learner, learners)]
    else:
        given = type(learners).__name__
        raise UserError(f"learners must be a list or a dictionary name -> learner, given {given}")
    if not found:
        raise UserError("learners must hold at least one learner, given none")
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two learners are called {twice[0]!r}; give a dictionary name -> learner")
    return dict(found)
