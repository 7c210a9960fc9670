"""Seeds of everything random in a training run, each a pure function of what it is for.

A batch is a function of (recipe seed, step, slot). The slots of a step are its micro-batches over all
processes: of W processes that accumulate A micro-batches each, process r draws slots r·A .. r·A + A − 1. No
generator outlives its batch, so a resumed run needs no generator state, and W processes see exactly the batches
that one process with W·A micro-batches of the same size would see.
"""

from __future__ import annotations

import hashlib

import torch


def mix(seed: int, *parts: int | str) -> int:
    """Hash a seed and any labels into a new seed in [0, 2^63).

    BLAKE2b makes the seeds of neighbouring steps unrelated; sums or products of small integers would collide.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def batch_seed(seed: int, step: int, slot: int) -> int:
    """The seed of one micro-batch: its data and all draws of the objective."""
    return mix(seed, "batch", step, slot)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator in a state fixed by the seed."""
    return torch.Generator(device).manual_seed(seed)
