"""Named places in a network where activations can be read or replaced.

A hook point is a module that returns what it is given; its dotted path in the network is its name
(`blocks.0.attention.pattern`). Nothing is recorded unless somebody listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from iclkit.errors import unknown

HookFunction = Callable[[Tensor], Tensor | None]


class HookPoint(nn.Module):
    """The identity, unless functions listen: each is given the value and may return another in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[HookFunction] = []

    @property
    def listening(self) -> bool:
        """Whether anybody does."""
        return bool(self.functions)

    def add(self, function: HookFunction) -> None:
        """Let a function listen."""
        self.functions.append(function)

    def remove(self, function: HookFunction) -> None:
        """Let a function that listens no longer do so."""
        self.functions.remove(function)

    def forward(self, value: Tensor) -> Tensor:
        for function in self.functions:
            replaced = function(value)
            value = value if replaced is None else replaced
        return value


class Hooked(nn.Module):
    """A network whose activations can be read and replaced by name."""

    hook_root = ""
    """A prefix that the names of hook points leave out: the attribute that holds the network's backbone."""

    def hook_points(self) -> dict[str, HookPoint]:
        """Every hook point by its name."""
        return {
            path.removeprefix(self.hook_root): module
            for path, module in self.named_modules()
            if isinstance(module, HookPoint)
        }

    def matching(self, wanted: str | Iterable[str]) -> list[str]:
        """The names of the hook points that names or glob patterns mean, each once.

        Raises:
            UserError: A name that no hook point has, or a pattern that none matches.
        """
        return matching("hook point", wanted, self.hook_points())

    @property
    def listening(self) -> bool:
        """Whether anybody listens to any of them."""
        return any(point.listening for point in self.hook_points().values())

    @contextmanager
    def hooks(self, functions: Mapping[str, HookFunction]) -> Iterator[None]:
        """Let functions read or replace activations, until the end of the `with` block.

        Args:
            functions: A function for each name or glob pattern (`blocks.*.residual`). It is given the
                activation and returns what shall take its place, or None to leave it. Several on one point run
                in turn.

        Raises:
            UserError: A name that no hook point has, or a pattern that none matches.
        """
        points = self.hook_points()
        added = [
            (points[name], function)
            for wanted, function in functions.items()
            for name in matching("hook point", wanted, points)
        ]
        for point, function in added:
            point.add(function)
        try:
            yield
        finally:
            for point, function in added:
                point.remove(function)

    def run_with_cache(
        self, *inputs: Any, names: str | Iterable[str] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Call the network, and keep what passes its hook points.

        Args:
            inputs: What the network is called with.
            names: Names or glob patterns of what to keep; None for everything.

        Returns:
            The network's output, and the activations by name. They stay attached to the graph; where a point is
            passed more than once, the last counts.

        Raises:
            UserError: As `hooks`.
        """
        cache: dict[str, Tensor] = {}
        kept = self.matching("*" if names is None else names)
        with self.hooks({name: _keep_in(cache, name) for name in kept}):
            output = self(*inputs)
        return output, {name: cache[name] for name in kept if name in cache}


def _keep_in(cache: dict[str, Tensor], name: str) -> HookFunction:
    def keep(value: Tensor) -> None:
        cache[name] = value

    return keep


def matching(kind: str, wanted: str | Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that names or glob patterns mean, each once.

    Args:
        kind: What is named, for the error.
        wanted: Names or patterns.
        names: All that there are.

    Raises:
        UserError: A name that is not there, or a pattern that none matches.
    """
    names, found = list(names), {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        meant = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not meant:
            raise unknown(kind, pattern, names)
        found |= dict.fromkeys(meant)
    return list(found)
