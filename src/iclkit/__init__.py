"""In-context learners: train them, use them on your own data, and find out which algorithm they have become."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iclkit.comparing import compare
    from iclkit.identifying import identify
    from iclkit.training.models import load

__version__ = "0.1.0"

# Public functions and where they live; imported on first use (PEP 562), so that a bare import is cheap.
_FUNCTIONS = {
    "compare": "iclkit.comparing",
    "identify": "iclkit.identifying",
    "load": "iclkit.training.models",
}
_PACKAGES = (
    "analysis",
    "compiler",
    "energy",
    "estimators",
    "learners",
    "networks",
    "report",
    "tasks",
    "training",
)

__all__ = ["__version__", "compare", "identify", "load"]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"iclkit.{name}")
    raise AttributeError(f"module 'iclkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS, *_PACKAGES])
