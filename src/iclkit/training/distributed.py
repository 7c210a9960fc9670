"""One process or many: who this process is, and the few things that processes do together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from iclkit.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one training run.

    Args:
        rank: Which process this is.
        size: How many there are.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over all processes, in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's tensors, by rank; names and shapes must be the same in all."""
        if self.size == 1:
            return [tensors]
        everyone: list[dict[str, Tensor]] = [{} for _ in range(self.size)]
        for name in sorted(tensors):
            copies = [torch.empty_like(tensors[name]).contiguous() for _ in range(self.size)]
            dist.all_gather(copies, tensors[name].contiguous())
            for member, copy in zip(everyone, copies, strict=True):
                member[name] = copy
        return everyone

    def lead(self, action: Callable[[], T]) -> T | None:
        """Run something in the leading process alone, before any other goes on.

        Raises:
            UserError: In the leading process, what the action raised.
            SystemExit: In every other process when the action failed; the leading one reports why.
        """
        if self.size == 1:
            return action()
        result, failure = None, None
        if self.leads:
            try:
                result = action()
            except Exception as error:
                failure = error
        failed = torch.tensor(float(failure is not None), device=self.device)
        dist.broadcast(failed, 0)
        if failure is not None:
            raise failure
        if failed.item():
            raise SystemExit(2)
        return result


@contextmanager
def join_world(device: torch.device | str | None = None) -> Iterator[World]:
    """The world that torchrun's environment variables describe; a single process without them.

    Args:
        device: Where to compute; by default the process's own GPU where there is one, else the CPU.

    Raises:
        UserError: A device that this machine does not have.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device is None:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {place} was asked for, but torch sees no GPU; use device cpu")
    if size == 1:
        yield World(0, 1, place)
        return
    started = not dist.is_initialized()
    if started:
        # An explicit device lets the collective library bind to it; without one NCCL has to guess.
        bound = place if place.type == "cuda" else None
        dist.init_process_group("nccl" if bound else "gloo", device_id=bound)
    try:
        yield World(rank, size, place)
        if started:
            # Gloo's threads let go of the last tensors after the call that sent them. If the interpreter ends
            # before, the process aborts; while this waits, they can.
            dist.barrier()
    finally:
        if started:
            dist.destroy_process_group()
