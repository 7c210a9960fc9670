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

    def any(self, here: bool) -> bool:
        """Whether something holds in any of the processes. A collective call."""
        if self.size == 1:
            return here
        count = torch.tensor(float(here), device=self.device)
        dist.all_reduce(count)
        return bool(count)

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


class JoinError(UserError):
    """Processes of one run that cannot find each other, which every one of them says."""


def launched() -> tuple[int, int]:
    """Which process this is, and how many there are, by the environment variables that torchrun sets.

    Raises:
        JoinError: Variables that contradict each other, or a part of them alone.
    """
    size = _whole("WORLD_SIZE", 1)
    if size == 1:
        return 0, 1
    rank, port = _whole("RANK", 0), _whole("MASTER_PORT", 1)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and not dist.is_initialized():
        raise JoinError(
            f"WORLD_SIZE={size} says that {size} processes share this run, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set; {_ADVICE}"
        )
    if rank >= size or port > 65535:
        name, accepted, given = ("RANK", size - 1, rank) if rank >= size else ("MASTER_PORT", 65535, port)
        raise JoinError(f"{name} must be at most {accepted}, given {given}; {_ADVICE}")
    return rank, size


_ADVICE = "start all processes by torchrun, or unset WORLD_SIZE to train in one"


def _whole(name: str, least: int) -> int:
    """A whole number in the environment; the least where there is none."""
    text = os.environ.get(name) or str(least)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise JoinError(
            f"the environment variable {name} must be a whole number from {least} on, given {text!r}; {_ADVICE}"
        )
    return int(text)


def place(device: torch.device | str | None) -> torch.device:
    """Where to compute, if this machine can.

    Args:
        device: The processor (cpu) or a GPU (cuda, cuda:1); by default the process's own GPU, if there is one.

    Raises:
        UserError: A device that is none, or that is not here.
    """
    if device is None:
        device = f"cuda:{_whole('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    known = "cpu and cuda are known, cuda:1 is the second GPU"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError(f"unknown device {str(device)!r}; {known}") from None
    if found.type not in ("cpu", "cuda"):
        raise UserError(f"training on device {str(found)!r} is not supported; {known}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {found} was asked for, but torch sees no GPU; use device cpu")
    count = torch.cuda.device_count() if found.type == "cuda" else 1
    if found.index is not None and found.index >= count:
        raise UserError(f"there is no device {found}: the last of {count} is {found.type}:{count - 1}")
    return found


@contextmanager
def join_world(device: torch.device | str | None = None) -> Iterator[World]:
    """The world that torchrun's environment variables describe; a single process without them.

    Args:
        device: Where to compute; by default the process's own GPU where there is one, else the CPU.

    Raises:
        UserError: A device that this machine does not have.
        JoinError: Processes that do not find each other.
    """
    rank, size = launched()
    where = place(device)
    if size == 1:
        yield World(0, 1, where)
        return
    started = not dist.is_initialized()
    if started:
        # An explicit device lets the collective library bind to it; without one NCCL has to guess.
        bound = where if where.type == "cuda" else None
        try:
            dist.init_process_group("nccl" if bound else "gloo", device_id=bound)
        except (RuntimeError, ValueError) as error:
            said = str(error).strip().partition("\n")[0]
            raise JoinError(f"process {rank} of {size} did not find the others: {said}; {_ADVICE}") from None
    try:
        yield World(rank, size, where)
        if started:
            # Gloo's threads let go of the last tensors after the call that sent them. If the interpreter ends
            # before, the process aborts; while this waits, they can.
            dist.barrier()
    finally:
        if started:
            dist.destroy_process_group()
