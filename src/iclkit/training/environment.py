"""What a run ran on, as far as it matters for repeating it. No names of machines or people."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from iclkit.training.distributed import World


def _processor() -> str:
    """The processor's model name; `platform.processor` knows none on most Linux systems."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(world: World) -> dict[str, Any]:
    """Versions, processor, threads, device and date."""
    packages = {}
    for name in ("iclkit", "torch", "numpy", "safetensors"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            packages[name] = "unknown"
    on_gpu = world.device.type == "cuda"
    return {
        "packages": packages,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "processor_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "device": torch.cuda.get_device_name(world.device) if on_gpu else world.device.type,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
