"""Named places in a network where activations can be read or replaced.

A hook point is a module that returns what it is given; its dotted path in the network is its name
(`blocks.0.attention.pattern`). Nothing is recorded unless somebody listens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import Tensor, nn

from iclkit.errors import UserError, unknown

Network = TypeVar("Network", bound=nn.Module)
HookFunction = Callable[[Tensor], Tensor | None]
Removal = Callable[[], None]


@dataclass(frozen=True, eq=False)
class _Listener:
    """One turn of a function at a hook point; the same function may have several."""

    function: HookFunction


class HookPoint(nn.Module):
    """The identity, unless functions listen: each is given the value and may return another in its place.

    Functions belong to one network at one time: deep copies and pickles come without them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[_Listener] = []

    @property
    def functions(self) -> list[HookFunction]:
        """The functions that listen, in the order of their turns."""
        return [listener.function for listener in self._listeners]

    @property
    def listening(self) -> bool:
        """Whether any function listens."""
        return bool(self._listeners)

    def add(self, function: HookFunction) -> Removal:
        """Let a function listen.

        Returns:
            What ends this listening, and no other of the same function.
        """
        listener = _Listener(function)
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def forward(self, value: Tensor) -> Tensor:
        for listener in self._listeners:
            replaced = listener.function(value)
            if replaced is not None:
                _require_alike(replaced, value)
                value = replaced
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_listeners": []}


def _require_alike(replaced: Any, value: Tensor) -> None:
    """Refuse what cannot take an activation's place: another shape would broadcast, and nobody would see it."""
    if isinstance(replaced, Tensor) and replaced.shape == value.shape and replaced.is_floating_point():
        return
    given = (
        f"{list(replaced.shape)} of {replaced.dtype}"
        if isinstance(replaced, Tensor)
        else type(replaced).__name__
    )
    raise UserError(
        f"a hook function must return None or a floating-point tensor of its activation's shape, "
        f"{list(value.shape)}, given {given}"
    )


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
        wanted = [
            (points[name], function)
            for pattern, function in functions.items()
            for name in matching("hook point", pattern, points)
        ]
        removals = [point.add(function) for point, function in wanted]
        try:
            yield
        finally:
            for remove in removals:
                remove()

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


def copy_with_hooks(network: Network, memo: dict[int, Any] | None = None) -> Network:
    """A deep copy for the same user: it has the hook points of the original, so interventions act on both.

    Args:
        network: What is copied.
        memo: Parts that are not to be copied, as for `copy.deepcopy`.
    """
    points = {id(module): module for module in network.modules() if isinstance(module, HookPoint)}
    return copy.deepcopy(network, {**points, **(memo or {})})


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
