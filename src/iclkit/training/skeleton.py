"""The shapes of a network's weights without the weights: no memory, no random number, no heavy import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from iclkit.errors import UserError
from iclkit.training.network_config import NetworkConfig

# On the meta device torch answers these in Python, and imports a thousand modules to do so.
_DRAWS = {torch.rand, torch.randn}
_ELEMENTWISE = {
    Tensor.add,
    Tensor.sub,
    Tensor.mul,
    Tensor.div,
    Tensor.__rpow__,
    Tensor.__rsub__,
    Tensor.__rtruediv__,
}
_FILLS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.zero_,
    Tensor.fill_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.zeros_,
    nn.init.ones_,
    nn.init.constant_,
    nn.init.trunc_normal_,
    nn.init.kaiming_uniform_,
}


class _ShapesAlone(TorchFunctionMode):
    """New tensors have a shape and no memory; what would fill them does nothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return torch.empty(*args, device="meta", dtype=kwargs.get("dtype"))
        if func in _FILLS or func is Tensor.norm:  # a norm divides what it is of, whose shape that leaves
            return args[0] if args else kwargs["tensor"]
        if func is torch.arange:
            return torch.empty(len(range(*args)), device="meta")
        if func in _ELEMENTWISE:
            # NumPy's, for torch's imports them too.
            shape = np.broadcast_shapes(*(tuple(value.shape) for value in args if isinstance(value, Tensor)))
            return torch.empty(shape, device="meta")
        return func(*args, **kwargs)


def skeleton(config: NetworkConfig, where: str) -> nn.Module:
    """A network whose weights are on the meta device, to compare shapes with and to assign weights to.

    Args:
        config: Its arguments.
        where: What the arguments were read from, for errors.

    Raises:
        UserError: Arguments that torch cannot build a network of.
    """
    try:
        with torch.device("meta"), _ShapesAlone():
            return config.make()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (RuntimeError, TypeError, ValueError, OverflowError, ArithmeticError) as error:
        # Sizes whose product is beyond 64 bits, say.
        raise UserError(f"{where} describes no network that could be built ({error})") from None
