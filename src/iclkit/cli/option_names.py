"""Which option was meant by one that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# What other programs call the options whose names end so.
_OTHERS = {
    "rate": ("lr", "learning-rate", "eta", "step-size", "alpha"),
    "steps": ("epochs", "iterations", "iters", "max-steps", "num-steps", "n-steps", "updates", "max-iter"),
    "episodes": ("batch-size", "batch", "bs"),
    "width": ("hidden", "hidden-size", "hidden-dim", "d-model", "embed-dim", "n-embd"),
    "layers": ("depth", "num-layers", "n-layers", "n-layer", "blocks"),
    "heads": ("num-heads", "n-heads", "n-head"),
    "weight-decay": ("wd", "l2", "decay"),
    "clip": ("grad-clip", "clip-grad", "max-grad-norm"),
    "device": ("gpu", "cuda", "cpu"),
    "out": ("output", "outfile", "output-file", "output-dir", "save", "to"),
    "size": ("n", "num", "number", "count", "n-samples", "num-samples"),
    "samples": ("n", "num", "number", "count", "n-samples", "num-samples"),
    "seed": ("random-state", "random-seed", "rng"),
    "force": ("overwrite", "yes", "replace", "clobber"),
    "model": ("checkpoint", "weights", "network"),
    "delimiter": ("sep", "separator"),
    "noise-std": ("noise", "sigma", "noise-level"),
    "interval": ("level", "confidence", "coverage"),
    "target": ("label", "y", "response"),
    "columns": ("cols", "features", "usecols"),
    "d": ("dim", "dims", "dimension"),
    "dim": ("d", "dims", "dimension", "n-dims"),
    "quiet": ("silent", "no-progress"),
}


def nearest(option: str, known: Sequence[str]) -> str | None:
    """The option that was meant, if one can be guessed.

    Args:
        option: What was given, with its hyphens.
        known: All options there are; those of a part of a recipe have a point (--optimizer.rate).
    """
    wanted = option.lstrip("-").lower().replace("_", "-")
    # The shortest first: what a command has itself, before what is deep in a recipe.
    ends: dict[str, str] = {}
    for name in sorted(known, key=lambda name: (name.count("."), len(name))):
        ends.setdefault(name.lstrip("-"), name)
    for name in [*ends.values()]:
        ends.setdefault(name.rpartition(".")[2].lstrip("-"), name)
    meant = [wanted, *(end for end, others in _OTHERS.items() if wanted in others)]
    for end in meant:
        if end in ends:
            return ends[end]
    close = difflib.get_close_matches(option, known, n=1) or difflib.get_close_matches(
        wanted, ends, n=1, cutoff=0.75
    )
    return ends.get(close[0], close[0]) if close else None
