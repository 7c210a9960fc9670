"""What torch lets a caller set around a call, kept out of it: number type, device, autocast, gradients.

A result must not depend on what stands around the call: a notebook with float64 as its default, a training loop
under autocast, a service in inference mode. Nothing process-wide is changed to that end, so other threads see
nothing of it: the default number type, which torch keeps for the whole process, is overridden call by call.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Reentrant: a quiet block may call what has one too.
_filters = threading.RLock()
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
# Functions whose result is of the default type whatever they are given, unless they are told a type.
_FLOATS = {
    torch.empty,
    torch.eye,
    torch.linspace,
    torch.logspace,
    torch.normal,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.zeros,
}
# Functions that draw, as far as modules use them for their initial weights.
_DRAWS = {
    torch.normal,
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
}
# Functions whose result is of the default type if Python numbers with a fraction are all they are given.
_OF_NUMBERS = {torch.arange, torch.as_tensor, torch.asarray, torch.full, torch.scalar_tensor, torch.tensor}
# Functions whose name, or an argument that is no dtype, states the type of their result.
_CASTS = {Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.view}


@contextlib.contextmanager
def neutral(*, grad: bool | None = None) -> Iterator[None]:
    """A block that computes as in a fresh process, whatever was set around it; it leaves all as it was.

    New tensors are float32 and on the CPU unless they are told otherwise, autocast is off, and every tensor may
    be used for gradients later. Costs some ten microseconds; calls within cost what they did, unless another
    default type or device was set.

    Args:
        grad: Whether gradients are recorded; None leaves that to the caller, as for results that he may
            differentiate. In inference mode there is no caller's choice: they are then not recorded.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            # Leaving the mode would record gradients, which the caller had turned off.
            grad = bool(grad)
        if grad is not None and grad != torch.is_grad_enabled():
            stack.enter_context(torch.set_grad_enabled(grad))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_Float32())
        yield


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """A block whose draws come from a generator where they would come from the process's own.

    For code of torch that takes none, as the initial weights of its modules do. The process's own generator is
    neither used nor set, so other threads may draw meanwhile. The numbers are those that it would give in the
    same state.

    Args:
        generator: On the CPU.
    """
    with _Drawing(generator):
        yield


class _Drawing(TorchFunctionMode):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn_like:  # older versions of torch give it no generator
            like = args[0]
            return torch.randn(like.shape, generator=self._generator, dtype=like.dtype, device=like.device)
        if func in _DRAWS and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


class _Float32(TorchFunctionMode):
    """Calls give float32 where they would give the default type, in this thread alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is not None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        if func in _FLOATS and not _tensors(args, kwargs):
            return func(*args, **{**kwargs, "dtype": torch.float32})
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.dtype != torch.get_default_dtype() or func in _CASTS:
            return result
        if func in _OF_NUMBERS:
            # By number, not by rounding the result: both are the same, for Python's numbers are doubles.
            return func(*args, **kwargs, dtype=torch.float32) if _plain(args, kwargs) else result
        given = _tensors(args, kwargs)
        if not given or any(tensor.is_floating_point() or tensor.is_complex() for tensor in given):
            return result
        # Integers became fractions (n / 2, log n): torch first casts them to the default type; so does this.
        # Where only integers or booleans may stand, as the condition of `where`, the numbers beside decide.
        try:
            return func(*_cast(args, Tensor), **_cast(kwargs, Tensor))
        except (RuntimeError, TypeError):
            return func(*_cast(args, float), **_cast(kwargs, float))


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors among arguments, also in lists and dictionaries."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


def _cast(value: Any, kind: type) -> Any:
    """Arguments with all tensors, or all numbers with a fraction, as tensors of float32."""
    if isinstance(value, kind):
        return torch.as_tensor(value, dtype=torch.float32)
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(member, kind) for member in value)
    if isinstance(value, dict):
        return {name: _cast(member, kind) for name, member in value.items()}
    return value


def _plain(*values: Any) -> bool:
    """Whether no member carries a type of its own, as tensors and NumPy's arrays and numbers do."""
    for value in values:
        if isinstance(value, (tuple, list)):
            if not _plain(*value):
                return False
        elif isinstance(value, dict):
            if not _plain(*value.values()):
                return False
        elif hasattr(value, "dtype"):
            return False
    return True


@contextlib.contextmanager
def quiet(category: type[Warning] = Warning) -> Iterator[None]:
    """A block without warnings of a kind, in one thread at a time.

    The filters are those of the whole process. Threads that enter and leave `warnings.catch_warnings` in turn
    would put back one another's.

    Args:
        category: The kind.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
