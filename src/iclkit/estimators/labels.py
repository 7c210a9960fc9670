"""Text where numbers belong, refused with the cell that holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from iclkit.errors import UserError, short

TEXT = "encode columns of text as numbers, or leave them out"


def refuse_labels(name: str, values: Any, advice: str) -> None:
    """Refuse text that is no number; anything else is left to scikit-learn's own checks.

    Args:
        name: What is checked, "X" or "y".
        values: What was given for it.
        advice: What to do about text.

    Raises:
        UserError: Names the first such text.
    """
    try:
        cells = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged, on a GPU, ...
        return
    if cells.dtype.kind not in "OUST":
        return
    for cell in cells.flat:
        if isinstance(cell, str | bytes):
            try:
                float(cell)
            except ValueError:
                plain = str(cell) if isinstance(cell, str) else bytes(cell)
                raise UserError(f"{name} must hold numbers, given {short(repr(plain))}; {advice}") from None
