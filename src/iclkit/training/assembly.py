"""Weights from a file and the network that they belong to, put together once their shapes agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.training import files
from iclkit.training.files import TensorShape
from iclkit.training.json_files import brief
from iclkit.training.network_config import NetworkConfig
from iclkit.training.skeleton import skeleton

# Blocks beyond the number of tensors, which share the weights of others. Each takes a millisecond and 50 KB.
_MOST_SHARED = 1000


def read_network(config: NetworkConfig, path: Path, expected_digest: str, where: str) -> Any:
    """A network with weights from a file, which is refused before more is read of it than its header.

    Args:
        config: The network.
        path: The file.
        expected_digest: SHA-256 of the file.
        where: What the file belongs to, for errors.

    Returns:
        The network, frozen.

    Raises:
        UserError: A file that is altered or of other shapes; weights that are no finite floating-point numbers.
    """
    made: list[nn.Module] = []
    weights = files.read_tensors(
        path, expected_digest, lambda given: made.append(compare_shapes(config, given, where))
    )
    files.check_finite(weights, path)
    return _filled(made[0], weights)


def compare_shapes(config: NetworkConfig, given: Mapping[str, TensorShape], where: str) -> nn.Module:
    """Refuse weights that are not those of a network; what that takes is bounded by what is given.

    Returns:
        The network without memory for its weights.

    Raises:
        UserError: Names the first weight that differs.
    """
    if config.blocks > len(given) + _MOST_SHARED:
        raise UserError(
            f"{where}: the network has {config.blocks:,} blocks, but there are {len(given)} weights; "
            "weights and description do not belong together"
        )
    network = skeleton(config, where)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(expected.keys() | given.keys()):
        shape = given[name].shape if name in given else None
        if expected.get(name) != shape:
            raise UserError(
                f"{where}: weight {brief(name)} has shape {brief(shape or 'none')}, its network needs "
                f"{expected.get(name, 'none')}; weights and description do not belong together"
            )
    kinds = {entry.dtype for entry in given.values()}
    if None in kinds or len(kinds) > 1:
        raise UserError(f"{where}: weights must all be of one floating-point type: altered; get a fresh copy")
    return network


def assemble(config: NetworkConfig, weights: dict[str, Tensor], where: str) -> Any:
    """The network of a configuration with the given weights, frozen.

    Raises:
        UserError: As `compare_shapes`.
    """
    given = {
        name: TensorShape(tuple(value.shape), value.dtype if value.is_floating_point() else None)
        for name, value in weights.items()
    }
    return _filled(compare_shapes(config, given, where), weights)


def _filled(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    with torch.no_grad():
        network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()
