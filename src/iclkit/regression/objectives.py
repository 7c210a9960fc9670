"""What an in-context regressor is trained to minimise.

Every objective sees a batch of episodes and compares, at every index n, what the network says of y_n, given x_n
and the pairs before n, with y_n or with the episode's own f(x_n).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError, unknown
from iclkit.regression.mixture import gaussian_mixture
from iclkit.regression.units import Units
from iclkit.tasks import Pairs

State = dict[str, Tensor]
# Standard deviations from which on a target says more of its units than of its function.
_FAR = 20.0

Result = tuple[Tensor, dict[str, Tensor], State]


@runtime_checkable
class RegressionNetwork(Protocol):
    """What objectives need of a network; `InContextRegressor` is one."""

    components: int

    def __call__(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N outputs"]: ...

    def queries(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        prefixes: Tensor,
    ) -> Float[Tensor, "B P K outputs"]: ...


@dataclass(frozen=True)
class RegressionObjective(ABC):
    """A loss over a batch of episodes. Members are frozen dataclasses: a recipe can name them completely."""

    @property
    def density(self) -> bool:
        """Whether the network must give a density of y (`components` > 0) and not a number."""
        return False

    @abstractmethod
    def __call__(
        self, network: RegressionNetwork, episodes: Pairs, generator: torch.Generator, state: State
    ) -> Result:
        """Evaluate the loss.

        Args:
            network: The network to train.
            episodes: A batch of regression episodes.
            generator: Source of every draw.
            state: What the last call returned; empty at first.

        Returns:
            The scalar loss, metrics to log, and the state for the next call (checkpointed with the run).
        """


@dataclass(frozen=True)
class SquaredError(RegressionObjective):
    """Mean squared error of the predictions of y_n.

    With `labels="law"` the label is not the noisy y_n but the episode's own f(x_n), which every simulator
    knows: the conditional expectation of y_n given the input and the function (Rao-Blackwell). The mean
    gradient and so the minimum, the Bayes prediction, are the same, and the gradient has less variance; the
    loss is lower by the variance of the noise. The law enters through the label alone, never the network.

    With `labels="bayes"` it is what Bayes' rule predicts from the same pairs, the expectation given all that
    the network sees. Once more the mean gradient is the same; of its variance that of the episodes alone is
    left, and where the Bayes prediction has a closed form no training is faster. It shows sooner where the mean
    of many plain batches leads, not what a single plain run does.

    With `balance` the loss is the mean over n of log(mean squared error at n + balance): each prefix has its
    minimum at the same prediction as before, but counts by its relative error. Otherwise the early prefixes,
    whose error no learner can reduce, drown what the late ones have to say.

    Args:
        labels: "targets", "law" or "bayes".
        positions: "all" for the mean over every prefix; "last" for the last point alone, after all others.
        balance: Squared error below which a prefix counts no more than now; None for the plain mean.

    Raises:
        UserError: Labels that the task does not know; a balance that is not positive.

    Source: Garg et al. (2022), equation 2, for all prefixes; von Oswald et al. (2022) for the last. The latter
        take half the squared error: their published losses are half of these.
    """

    labels: Literal["targets", "law", "bayes"] = "targets"
    positions: Literal["all", "last"] = "all"
    balance: float | None = None

    def __post_init__(self) -> None:
        if self.labels not in ("targets", "law", "bayes"):
            raise unknown("labels", self.labels, ("targets", "law", "bayes"))
        if self.positions not in ("all", "last"):
            raise unknown("positions", self.positions, ("all", "last"))
        if self.balance is not None and not self.balance > 0:
            raise UserError(f"balance must be positive or None, given {self.balance}")

    def __call__(
        self, network: RegressionNetwork, episodes: Pairs, generator: torch.Generator, state: State
    ) -> Result:
        x, y = episodes.x, episodes.y
        label = y
        if self.labels == "law":
            if episodes.law is None:
                raise UserError("this task does not know its law; use labels='targets'")
            label = episodes.law(x)
        if self.labels == "bayes":
            if episodes.best is None:
                raise UserError(
                    "the episodes come without Bayes' predictions (Pairs.best); use labels='targets'"
                )
            label = episodes.best
        if self.positions == "last":
            prefixes = torch.tensor([x.shape[1] - 1], device=x.device)
            # As a query: no prediction is computed that nothing reads.
            predicted = network.queries(x[:, :-1], y[:, :-1], x[:, -1:, None], prefixes)[:, 0, :, 0]
            label = label[:, -1:]
        else:
            predicted = network(x, y)[..., 0]
        error = (predicted - label).square().mean(0)
        loss = error.mean() if self.balance is None else (error + self.balance).log().mean()
        return loss, {"error": error.mean(), "error_last": error[-1]}, state


@dataclass(frozen=True)
class MixtureLikelihood(RegressionObjective):
    """-log p(y_n | x_n, pairs before n) under the Gaussian mixture that the network says, mean over n.

    No standard deviation falls below `regression.mixture.MIN_STD`, so the loss is bounded from below.

    With `units="context"` each episode reaches the network as a learner with `standardise` would show it after
    a random prefix: in the units of the first m pairs, m uniform in 0..N - 1, and only predictions from m on
    count. So the network meets both the exact units of a prefix and those of a shorter one. Two or three pairs
    may lie so close together that others are very far in their units; targets beyond 20 do not count.

    Args:
        units: "task", the episodes' own; or "context".

    Raises:
        UserError: Other units.
    """

    units: Literal["task", "context"] = "task"

    def __post_init__(self) -> None:
        if self.units not in ("task", "context"):
            raise unknown("units", self.units, ("task", "context"))

    @property
    def density(self) -> bool:
        return True

    def __call__(
        self, network: RegressionNetwork, episodes: Pairs, generator: torch.Generator, state: State
    ) -> Result:
        x, y = episodes.x, episodes.y
        batch, points = y.shape
        counted = torch.ones_like(y)
        if self.units == "context":
            lengths = torch.randint(points, (batch,), generator=generator, device=x.device)
            units = Units.fit(x, y, lengths)
            x, y = units.inputs(x), units.targets(y)
            later = torch.arange(points, device=x.device) >= lengths[:, None]
            counted = (later & (y.abs() <= _FAR)).to(y.dtype)
        mixture = gaussian_mixture(network(x, y))
        weight = counted / counted.sum().clamp_min(1)
        loss = -(weight * mixture.log_prob(y)).sum()
        return loss, {"error": (weight * (mixture.mean - y).square()).sum()}, state


REGRESSION_OBJECTIVES: dict[str, type[RegressionObjective]] = {
    objective.__name__: objective for objective in (SquaredError, MixtureLikelihood)
}
