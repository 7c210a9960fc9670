"""What learns: the arguments of a network, as a recipe holds them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from iclkit import ambient
from iclkit.energy.network import EnergyTransformer
from iclkit.errors import UserError
from iclkit.networks import PLAIN, AttentionVariant, Layout
from iclkit.regression.network import InContextRegressor
from iclkit.regression.registers import Register
from iclkit.sequences import TokenTransformer
from iclkit.training.seeds import generator, mix

# Four bytes each, as many for the gradient and twice as many for an optimiser: 16 GB.
MOST_WEIGHTS = 10**9
MOST_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ABC):
    """The arguments of one class of networks. Members are frozen dataclasses with that class's defaults."""

    kind: ClassVar[str]
    """What the network is trained for, which decides the tasks and objectives that go with it."""

    @abstractmethod
    def check(self, task: Any, points: int) -> None:
        """Refuse a task of this network's kind, or a number of points, that the network does not take.

        Raises:
            UserError: What does not fit.
        """

    @property
    @abstractmethod
    def least_weights(self) -> int:
        """A number that the network surely has as many weights as; known without building it."""

    def check_size(self) -> None:
        """Refuse what fits into no memory, before it is built.

        Raises:
            UserError: Too many layers or weights.
        """
        if getattr(self, "layers", 1) > MOST_LAYERS and getattr(self, "layout", None) is None:
            raise UserError(f"network.layers must be at most {MOST_LAYERS}, given {getattr(self, 'layers', 1)}")
        if self.least_weights > MOST_WEIGHTS:
            raise UserError(
                f"the network would have {float(self.least_weights):.1e} weights or more, at most "
                f"{MOST_WEIGHTS:.0e} are accepted; make network.width or another of its sizes smaller"
            )

    @abstractmethod
    def make(self) -> nn.Module:
        """A network with weights from the global generator, for callers that fork or replace them."""

    @property
    def blocks(self) -> int:
        """How many layers or blocks it has, by which the time to make it is bounded."""
        layout = getattr(self, "layout", None)
        return max(getattr(self, "layers", 1), len(layout.heads) if layout else 0)

    def build(self, seed: int = 0) -> Any:
        """A freshly initialised network, a function of `seed` alone; the global generator is left as it was."""
        self.check_size()
        with ambient.neutral(grad=True), ambient.drawing_from(generator(mix(seed, "weights"))):
            return self.make()


@dataclass(frozen=True, kw_only=True)
class PointsConfig(NetworkConfig):
    """The arguments of a network whose contexts are points of `dim` columns."""

    dim: int
    max_points: int

    def check(self, task: Any, points: int) -> None:
        if task.dim != self.dim:
            raise UserError(f"network.dim is {self.dim} but the task's points have dim {task.dim}")
        if points > self.max_points + 1:
            raise UserError(
                f"points = {points} give contexts of up to {points - 1} points, "
                f"but network.max_points is {self.max_points}; raise one or lower the other"
            )


@dataclass(frozen=True, kw_only=True)
class EnergyConfig(PointsConfig):
    """Arguments of `iclkit.energy.EnergyTransformer`, where each is explained."""

    kind: ClassVar[str] = "energy"
    dim: int = 2
    width: int = 128
    layers: int = 6
    heads: int = 8
    mlp_ratio: int = 4
    max_points: int = 64
    positions: Literal["none", "learned"] = "none"
    features: int = 0
    wavelengths: tuple[float, float] = (1.0, 40.0)
    base_std: float | None = None
    variant: AttentionVariant = PLAIN

    @property
    def least_weights(self) -> int:
        places = self.max_points if self.positions == "learned" else 0
        blocks = self.layers * (4 + 2 * self.mlp_ratio) * self.width**2
        return blocks + (self.dim + 2 * self.features + places) * self.width

    def make(self) -> EnergyTransformer:
        return EnergyTransformer(**_fields(self))


@dataclass(frozen=True, kw_only=True)
class RegressorConfig(PointsConfig):
    """Arguments of `iclkit.regression.InContextRegressor`, where each is explained."""

    kind: ClassVar[str] = "regression"
    dim: int = 8
    width: int = 64
    layers: int = 6
    heads: int = 4
    mlp_ratio: int = 4
    max_points: int = 40
    backbone: Literal["transformer", "lstm", "gru"] = "transformer"
    tokens: Literal["interleaved", "joined"] = "interleaved"
    attention: Literal["softmax", "linear", "kernel", "gaussian", "hard"] = "softmax"
    norm: bool = True
    causal: bool = True
    tied: bool = False
    positions: Literal["none", "learned"] = "none"
    embedding: Literal["linear", "identity", "features"] = "linear"
    bias: bool = True
    components: int = 0
    head_width: int | None = None
    merged: bool = False
    query_sees_itself: bool = True
    damping: float = 1.0
    init_std: float | None = None
    activation: Literal["gelu", "arithmetic"] = "gelu"
    start_token: bool = False
    layout: Layout | None = None
    registers: tuple[Register, ...] = ()
    negated: bool = False
    variant: AttentionVariant = PLAIN

    @property
    def least_weights(self) -> int:
        identity = self.embedding == "identity"
        width = self.dim + 1 if identity else self.width
        places = self.max_points if self.positions == "learned" else 0
        ends = (places + (0 if identity else self.dim) + 3 * self.components) * width
        if self.layout is not None:
            return ends
        if self.backbone != "transformer":
            return self.layers * 6 * width**2 + ends
        attention = 2 * width**2 if self.merged else 4 * width * (self.heads * (self.head_width or 0) or width)
        return (1 if self.tied else self.layers) * (attention + 2 * self.mlp_ratio * width**2) + ends

    def make(self) -> InContextRegressor:
        return InContextRegressor(**_fields(self))


@dataclass(frozen=True, kw_only=True)
class TokenConfig(NetworkConfig):
    """Arguments of `iclkit.sequences.TokenTransformer`, where each is explained."""

    kind: ClassVar[str] = "sequences"
    vocabulary: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 2
    mlp_ratio: int = 0
    max_length: int = 48
    norm: bool = True
    bias: bool = False
    attention: Literal["softmax", "linear", "kernel", "gaussian"] = "softmax"

    def check(self, task: Any, points: int) -> None:
        if task.vocabulary > self.vocabulary:
            raise UserError(
                f"network.vocabulary is {self.vocabulary} but the task has {task.vocabulary} different tokens"
            )
        if not 2 <= points <= self.max_length:
            raise UserError(
                f"points must lie in 2..network.max_length = {self.max_length}, given {points}: a sequence has "
                "a token to see and one to predict"
            )

    @property
    def least_weights(self) -> int:
        blocks = self.layers * (4 + 2 * self.mlp_ratio) * self.width**2
        return blocks + (2 * self.vocabulary + self.max_length) * self.width

    def make(self) -> TokenTransformer:
        return TokenTransformer(**dataclasses.asdict(self))


def _fields(config: NetworkConfig) -> dict[str, Any]:
    # Not `asdict`, which would take the dataclasses among the arguments apart.
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


# The first is meant where a file names none: those written before there was a second.
NETWORKS: dict[str, type[NetworkConfig]] = {
    "EnergyTransformer": EnergyConfig,
    "InContextRegressor": RegressorConfig,
    "TokenTransformer": TokenConfig,
}
