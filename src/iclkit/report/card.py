"""Model cards: what a model is, how it was trained, and how far it can be trusted, measured afresh.

python -m iclkit.report.card energy-mixtures --out card.md
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from iclkit import disk
from iclkit.errors import UserError
from iclkit.learners.trained import EnergyDensity
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.report.energy_card import energy_sections
from iclkit.report.markdown import plain
from iclkit.report.regression_card import regression_sections
from iclkit.training.description import read_description
from iclkit.training.models import SHIPPED, load, shipped


def write_card(
    model: str | Path, out: str | Path | None = None, datasets: int = 500, real_splits: int = 30
) -> Path:
    """Measure a model on fresh datasets and write its card.

    Args:
        model: Name of a shipped model, or a model folder.
        out: File to write; by default the folder's card.md, but for models that come with the package.
        datasets: Held-out datasets (episodes) behind most measurements; costly ones take a part of them.
        real_splits: Random splits of each real data set, for an energy of two standardised columns; 0 for none.

    Returns:
        The card.

    Raises:
        UserError: No such model folder, it does not say what it was trained on, or no reference is known for
            that; or a shipped model without a file to write.
    """
    folder = shipped().get(str(model), Path(model))
    if not (folder / "model.json").exists():
        raise UserError(
            f"{model} is neither a shipped model ({', '.join(shipped()) or 'none here'}) nor a model folder; "
            "make one of a run with: iclkit export RUN DIR"
        )
    own = folder.resolve().is_relative_to(SHIPPED.resolve())
    if own and out is None:
        raise UserError(
            f"{model} comes with the package, whose files stay as they are; name a file to write: --out FILE"
        )
    target = folder / "card.md" if out is None else Path(os.path.realpath(out))
    disk.check_target(target)  # a mistake is told before minutes of work
    learner, description = load(folder), read_description(folder)
    if learner.task is None:
        raise UserError(f"{model} does not say what it was trained on, so there is nothing to measure it by")
    if isinstance(learner, TokenPredictor):
        raise UserError(f"{model} predicts tokens, for which there is no card; iclkit induction measures such")
    size = (folder / "model.safetensors").stat().st_size
    facts = plain(description.to_dict())
    learner = dataclasses.replace(learner, name=plain(learner.name))
    if isinstance(learner, EnergyDensity):
        sections = energy_sections(learner, facts, size, datasets, real_splits)
    else:
        sections = regression_sections(learner, facts, size, datasets)
    command = f"iclkit card {learner.name}" + (f" --datasets {datasets}" if datasets != 500 else "")
    command += " --out FILE" if own else ""
    sections.append(f"## This card\n\nWritten by `{command}`; every number is measured by it.\n")
    disk.write_file(target, "\n".join(sections).encode())
    return target if out is None else Path(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a model and write its card."""
    parser = argparse.ArgumentParser(prog="python -m iclkit.report.card", description=main.__doc__)
    parser.add_argument("model", help="name of a shipped model, or a model folder")
    parser.add_argument("--out", type=Path, help="file to write; the model's card.md by default")
    parser.add_argument("--datasets", type=int, default=500, help="held-out data sets")
    options = parser.parse_args(argv)
    print(f"wrote {write_card(options.model, options.out, options.datasets)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
