"""What a sweep of probes found: errors by model, layer, target, prefix and read-out, and what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.analysis.inside.probe_targets import TITLES
from iclkit.analysis.intervals import Curve, Interval, cell, ratio
from iclkit.analysis.table import Table
from iclkit.errors import UserError, unknown

# A layer reads a target as well as any other if its error is within this factor of the least.
_AS_GOOD = 1.1


@dataclass(frozen=True, eq=False)
class Probing:
    """Errors of probes on episodes that they were not trained on.

    Args:
        models: The probed model, then those beside it.
        layers: Names of hook points, from the first to the last.
        targets: Names of targets.
        prefixes: Context lengths.
        readouts: Of "linear" and "mlp".
        tokens: What the probes read.
        errors: Squared error of each episode over the target's variance: 0 for what is read exactly, 1 (on
            average) for what is not read at all.
    """

    models: tuple[str, ...]
    layers: tuple[str, ...]
    targets: tuple[str, ...]
    prefixes: tuple[int, ...]
    readouts: tuple[str, ...]
    tokens: str
    errors: Float[Tensor, "M L G P R E"]

    def curve(self, target: str, readout: str, layer: str, model: str | None = None) -> Curve:
        """Normalised errors by prefix.

        Args:
            target: Name of a target.
            readout: "linear" or "mlp".
            layer: Name of a layer.
            model: Name of a model; the probed one if None.

        Raises:
            UserError: A name that was not measured.
        """
        places = (
            _place("model", self.models[0] if model is None else model, self.models),
            _place("layer", layer, self.layers),
            _place("target", target, self.targets),
            _place("readout", readout, self.readouts),
        )
        return Curve(self.prefixes, self.errors[places[0], places[1], places[2], :, places[3]].T)

    def means(self, target: str, readout: str, model: str | None = None) -> Float[Tensor, "L P"]:
        """Mean normalised errors; arguments and errors as of `curve`."""
        return torch.stack([self.curve(target, readout, layer, model).mean for layer in self.layers])

    def ratio(self, target: str, readout: str, layer: str, other: str) -> Interval:
        """The probed model's normalised error over another's, by prefix, with its 95 % interval.

        Args:
            target: Name of a target.
            readout: "linear" or "mlp".
            layer: Name of a layer.
            other: Name of a model beside it.

        Raises:
            UserError: A name that was not measured.
        """
        return ratio(self.curve(target, readout, layer), self.curve(target, readout, layer, other))

    def read_at(self, target: str, readout: str, prefix: int) -> int:
        """The place, from 0, of the first layer whose error is within a tenth of that of the best.

        Raises:
            UserError: A name or a prefix that was not measured.
        """
        if prefix not in self.prefixes:
            raise UserError(f"nothing was measured after {prefix} points, but after {list(self.prefixes)}")
        errors = self.means(target, readout)[:, self.prefixes.index(prefix)]
        return int((errors <= _AS_GOOD * errors.min()).nonzero()[0])

    def last_third(self) -> tuple[str, ...]:
        """The last third of the layers."""
        return self.layers[-max(1, len(self.layers) // 3) :]

    def tables(self) -> dict[str, Table]:
        """One for each target and read-out: layers after each prefix by model; the best layer in bold."""
        tables = {}
        for target in self.targets:
            for readout in self.readouts:
                rows, best = [], set()
                for place, prefix in enumerate(self.prefixes):
                    best.add((len(rows) + int(self.means(target, readout)[:, place].argmin()), 1))
                    for layer in self.layers:
                        found = [self.curve(target, readout, layer, model).interval() for model in self.models]
                        rows.append(
                            [f"{prefix}, {short(layer)}", *(cell(interval[place]) for interval in found)]
                        )
                title = f"{TITLES[target]}, {readout} read-out: squared error / variance"
                tables[title] = Table(["points, layer", *self.models], rows, frozenset(best))
        return tables

    @property
    def verdict(self) -> str:
        """What holds of the published claims, in words; shares by the upper ends of their intervals."""
        said = []
        for readout in self.readouts:
            for target in self.targets:
                late = torch.stack([self.curve(target, readout, layer).mean for layer in self.last_third()])
                against = []
                for other in self.models[1:]:
                    shares = [self.ratio(target, readout, layer, other) for layer in self.last_third()]
                    worst = max(float(share.high.max()) for share in shares)
                    against.append(f"at most {worst:.2g} of that of {other}")
                beside = f", {' and '.join(against)}" if against else ""
                places = [short(self.layers[self.read_at(target, readout, n)]) for n in self.prefixes]
                said.append(
                    f"{TITLES[target]}, {readout} read-out: error in the last third of the layers up to "
                    f"{float(late.max()):.2g}{beside}; read best from {', '.join(places)} on (after "
                    f"{', '.join(map(str, self.prefixes))} points)."
                )
        return "\n".join(said)

    def to_json(self) -> str:
        """Everything as text that other programs read."""
        rows = []
        for model in self.models:
            for layer in self.layers:
                for target in self.targets:
                    for readout in self.readouts:
                        found = self.curve(target, readout, layer, model).interval()
                        for place, prefix in enumerate(self.prefixes):
                            rows.append(
                                {
                                    "model": model,
                                    "layer": layer,
                                    "target": target,
                                    "readout": readout,
                                    "prefix": prefix,
                                    **{key: float(value[place]) for key, value in vars(found).items()},
                                }
                            )
        return json.dumps({"tokens": self.tokens, "verdict": self.verdict, "errors": rows}, indent=2)


def short(layer: str) -> str:
    """The name of a layer in tables: what is not said is the residual stream."""
    return layer.removesuffix(".residual")


def _place(kind: str, name: str, accepted: tuple[str, ...]) -> int:
    if name not in accepted:
        raise unknown(kind, name, accepted)
    return accepted.index(name)
