"""A trained regressor as a learner, in the data's own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from iclkit.errors import UserError
from iclkit.learners.regression import ProbabilisticLearner, RegressionLearner, as_pairs, check_queries
from iclkit.networks import within_reach
from iclkit.regression import InContextRegressor
from iclkit.regression.mixture import GaussianMixture, gaussian_mixture
from iclkit.regression.units import Units
from iclkit.tasks import RegressionTask
from iclkit.threads import one_thread, small

# Tokens that a standardised learner builds at a time: each prefix has its own units, so its own copy.
_TOKENS = 65_536
# Numbers of a residual stream that a processor works on at a time. Larger ones leave its caches, and for each
# layer pages of memory are asked for anew: twice to three times the time.
_NUMBERS = 2**18


@dataclass(frozen=True)
class _Said:
    """What a network says of targets y = mean + std z, and these units; None for (0, 1)."""

    outputs: Float[Tensor, "*batch outputs"]
    units: tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]] | None = None


@dataclass(frozen=True, eq=False)
class TrainedRegressor(RegressionLearner):
    """A frozen in-context regressor: pairs teach it, and nothing is fitted.

    Args:
        network: The network, as trained.
        task: What it was trained on; None if unknown.
        standardise: Whether it was trained on standard units. Every prefix then reaches the network in the
            units of its own pairs (see `Units`), as many copies of the context as there are prefixes, and what
            is said comes back in the data's. A prefix of fewer than two pairs has no units: it is taken as it
            is.
        pads: Whether inputs may have fewer columns than the network's; the others are then 0.
        name: The model's name.
        card: Its model card, in Markdown.
        allow_longer: Take contexts longer than those of the training, of whose quality nothing is known.

    Raises:
        UserError: Longer contexts asked of a network that has learned positions for so many.
    """

    network: InContextRegressor = field(repr=False)
    task: RegressionTask | None = None
    standardise: bool = False
    pads: bool = False
    name: str = ""
    card: str = field(default="", repr=False)
    allow_longer: bool = False

    def __post_init__(self) -> None:
        if self.allow_longer and self.network.tokens.positions is not None:
            raise UserError(
                f"{self.name or 'this network'} has learned positions for contexts of up to "
                f"{self.network.max_points} pairs; it cannot take longer ones"
            )

    @property
    def dim(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The dimension of the inputs that it takes; None for any up to the network's."""
        return None if self.pads else self.network.dim

    @property
    def limit(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The longest context that it takes: that of the training, unless longer ones are allowed."""
        return None if self.allow_longer else self.network.max_points

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the network is, and its arguments must be."""
        return next(self.network.parameters()).device

    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return self._mean(self._say(x, y)).to(y)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        return self._mean(self._answer(x, y, queries, prefixes)).to(y)

    def _mean(self, said: _Said) -> Tensor:
        if self.network.components:
            return _mixture(said).mean
        value = said.outputs[..., 0]
        return value if said.units is None else said.units[0] + said.units[1] * value

    def _say(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> _Said:
        """What the network says of every y_n."""
        self._check_device(x)
        tokens = x.shape[0] * x.shape[1] * (x.shape[1] if self.standardise else 1)
        with one_thread(where=small(tokens, x.device)):
            return self._outputs(x, y)

    def _outputs(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> _Said:
        if not self.standardise:
            return _Said(self._in_parts(self._seen(self._padded(x)), self._seen(y[..., None])[..., 0]))
        said = self._in_units(x[:, :-1], y[:, :-1], x[:, :, None], torch.arange(x.shape[1], device=x.device))
        assert said.units is not None
        mean, std = said.units
        return _Said(said.outputs[:, :, 0], (mean[..., 0], std[..., 0]))

    def _in_parts(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N outputs"]:
        """The outputs, from some episodes at a time unless somebody listens, for hooks see whole batches."""
        if x.device.type != "cpu" or self.network.listening:
            return self.network(x, y)
        size = max(1, _NUMBERS // (max(1, x.shape[1]) * self.network.tokens.width))
        parts = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([self.network(*part) for part in parts])

    def _answer(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> _Said:
        """What the network says at queries [B, P, K, d] after their prefixes."""
        self._check_device(x)
        tokens = queries[..., 0].numel() + x.shape[0] * x.shape[1] * (len(prefixes) if self.standardise else 1)
        with one_thread(where=small(tokens, x.device)):
            return self._answers(x, y, queries, prefixes)

    def _answers(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> _Said:
        longest = max(prefixes)
        x, y, lengths = x[:, :longest], y[:, :longest], torch.tensor(prefixes, device=x.device)
        if self.standardise:
            return self._in_units(x, y, queries, lengths)
        inputs = (
            self._seen(self._padded(x)),
            self._seen(y[..., None])[..., 0],
            self._seen(self._padded(queries)),
        )
        return _Said(self.network.queries(*inputs, lengths))

    def _in_units(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        lengths: Int[Tensor, " P"],
    ) -> _Said:
        """What the network says at queries after prefixes, each in the units of its own pairs."""
        batch, count = queries.shape[:2]
        # In float64 until the data are in standard units: float32 has few digits left beside a large mean.
        x, queries, y = self._padded(x.double()), self._padded(queries.double()), y.double()
        flat, outputs, means, stds = queries.flatten(0, 1), [], [], []
        # One row of a batch for each prefix of each episode, as many at a time as fit into memory.
        size = max(1, _TOKENS // (x.shape[1] + queries.shape[2]))
        for rows in torch.arange(batch * count, device=x.device).split(size):
            context, targets, own = x[rows // count], y[rows // count], lengths[rows % count]
            units = Units.fit(context, targets, own)
            # Pairs after the prefix are encoded too, and hidden: they may be of any size in its units.
            context, targets = self._seen(units.inputs(context)), self._seen(units.targets(targets)[..., None])
            asked = self._seen(units.inputs(flat[rows]))[:, None]
            outputs.append(self.network.queries(context, targets[..., 0], asked, own[:, None])[:, 0])
            means.append(units.y_mean)
            stds.append(units.y_std)
        mean, std = (torch.cat(parts).view(batch, count, 1) for parts in (means, stds))
        return _Said(torch.cat(outputs).double().unflatten(0, (batch, count)), (mean, std))

    def _check_device(self, x: Tensor) -> None:
        if x.device != self.device:
            raise UserError(
                f"x of shape {list(x.shape)} is on {x.device}, {self.name or 'the network'} on {self.device}; "
                f"move one of them: x.to({str(self.device)!r})"
            )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def _seen(self, values: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch columns"]:
        """Values as the network reads them: in its type, and no larger than its LayerNorms can square."""
        values = values.to(self._dtype)
        return within_reach(values) if self.network.bounded else values

    def _padded(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch d"]:
        missing = self.network.dim - x.shape[-1]
        if missing < 0:
            raise UserError(
                f"inputs of shape {list(x.shape)} have {x.shape[-1]} columns, "
                f"{self.name or 'this network'} takes at most {self.network.dim}; choose columns"
            )
        return F.pad(x, (0, missing)) if missing else x


@dataclass(frozen=True, eq=False)
class TrainedProbabilisticRegressor(TrainedRegressor, ProbabilisticLearner):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A frozen in-context regressor whose network says a density of y; arguments as of `TrainedRegressor`.

    Raises:
        UserError: A network that says a number alone.
    """

    def __post_init__(self) -> None:
        TrainedRegressor.__post_init__(self)
        if not self.network.components:
            raise UserError("the network says no density (components = 0); use TrainedRegressor")

    def _distribution(self, x: Tensor, y: Tensor) -> GaussianMixture:
        return _mixture(self._say(x, y))

    def distribution_queries(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        prefixes: Sequence[int] | None = None,
    ) -> GaussianMixture:
        """The distributions of y at K queries after each of P prefixes, batch shape [B, P, K].

        Args:
            x: Inputs of the episodes; N may be 0.
            y: Their targets.
            queries: Inputs to predict at; those of [b, p] follow prefix p of episode b.
            prefixes: Context lengths P, each in 0..N; if None 0, 1, ..., up to as many as queries has.

        Raises:
            UserError: As `predict_queries`.
        """
        with self._around():
            x, y, queries = as_pairs(x, y, queries, device=self.device)
            chosen = check_queries(x, y, queries, prefixes, self.dim, self.limit)
            return _mixture(self._answer(x, y, queries, chosen))


def trained_regressor(network: InContextRegressor, **fields: Any) -> TrainedRegressor:
    """The learner of a network, with distributions where it says a density; fields as of `TrainedRegressor`."""
    kind = TrainedProbabilisticRegressor if network.components else TrainedRegressor
    return kind(network, **fields)


def _mixture(said: _Said) -> GaussianMixture:
    return gaussian_mixture(said.outputs, *(said.units or ()))
