"""Putting one folder in another's place such that there is always a whole one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
_HERE = -100  # AT_FDCWD


def exchange(new: Path, old: Path) -> None:
    """Let two folders change names.

    Where the system can, in one step. Elsewhere in three, and the old folder comes back if one of them fails.

    Raises:
        OSError: They cannot; both are where they were.
    """
    if _at_once(new, old):
        return
    aside = old.with_name(f"{new.name}-old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _at_once(new: Path, old: Path) -> bool:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an old library
        return False
    return rename(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _EXCHANGE) == 0
