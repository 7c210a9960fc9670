"""What a user's watcher of a run returns, checked before it stands in the run's metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from iclkit.errors import UserError

Watch = Callable[[int, Any], Mapping[str, Any]]


def check_watch(watch: Any) -> None:
    """Refuse what cannot watch.

    Raises:
        UserError: It cannot be called.
    """
    if watch is not None and not callable(watch):
        raise UserError(f"watch must be a function of (step, network), given {type(watch).__name__}")


def watched(found: Any, taken: Collection[str]) -> dict[str, Any]:
    """What a watcher returned, as it goes into a line of metrics.

    Args:
        found: A mapping from names to numbers or lists of them; tensors and arrays become these.
        taken: The names that the line has already.

    Raises:
        UserError: Anything else.
    """
    if not isinstance(found, Mapping):
        raise UserError(f"watch must return a mapping from names to numbers, given {type(found).__name__}")
    line = {}
    for name, value in found.items():
        if not isinstance(name, str) or name in taken:
            why = "is a metric of the run" if isinstance(name, str) else "is no text"
            raise UserError(f"watch must return names of its own, given {name!r}, which {why}")
        plain = value.tolist() if callable(getattr(value, "tolist", None)) else value
        if not _numbers(plain):
            raise UserError(
                f"watch must return numbers or lists of them, given {type(value).__name__} for {name!r}"
            )
        line[name] = plain
    return line


def _numbers(value: Any) -> bool:
    """Whether a value is a number, or a list of numbers or such lists."""
    if isinstance(value, list | tuple):
        return all(_numbers(member) for member in value)
    return isinstance(value, int | float)
