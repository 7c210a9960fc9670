"""A small network trained on each context anew: one for every prefix of every episode, all side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners.regression import RegressionLearner

# Activations in one part of the batch of networks: 4 MB, which the caches hold.
_ACTIVATIONS = 2**20
# Adam's usual constants.
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class TrainedNetwork(RegressionLearner):
    """A network of two layers, ŷ = vᵀ relu(Wᵀx + b) + c, trained by Adam on the mean square over the context.

    Every step takes all pairs of the context. All networks start from the same weights, torch's default for
    linear layers drawn from `seed`, so that an answer depends on nothing but its context. Before any pair it is
    0.

    Args:
        hidden: Hidden units.
        steps: Steps of Adam.
        rate: Their learning rate.
        seed: Seed of the initial weights.

    Raises:
        UserError: A count below one (steps: below zero), or a rate that is not positive.

    Source: Garg et al. (2022), section 5 and its code: 100 units, 100 steps, rate 5e-3, batches of 100, which
    hold every context there. That code draws new initial weights for each network; its loss is a mean over the
    episodes of a batch too, which Adam takes out again but for its epsilon.
    """

    hidden: int = 100
    steps: int = 100
    rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.steps < 0 or not (self.rate > 0 and math.isfinite(self.rate)):
            raise UserError(
                f"hidden must be at least 1, steps at least 0 and rate positive, "
                f"given {self.hidden}, {self.steps} and {self.rate}"
            )

    def initial(self, dim: int) -> tuple[Float[Tensor, "d_plus_1 h"], Float[Tensor, "h_plus_1 1"]]:
        """The weights that every network starts from; the last row of each holds the biases.

        Args:
            dim: Dimension of the inputs.
        """
        generator = torch.Generator().manual_seed(self.seed)
        inner = 2 * torch.rand(dim + 1, self.hidden, generator=generator, dtype=torch.float64) - 1
        outer = 2 * torch.rand(self.hidden + 1, 1, generator=generator, dtype=torch.float64) - 1
        return inner / math.sqrt(dim), outer / math.sqrt(self.hidden)

    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return self._predict_queries(x, y, x[:, :, None], list(range(x.shape[1])))[..., 0]

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        batch, count, each, _ = queries.shape
        # Networks of one prefix are neighbours, so that a part's longest context is little more than its
        # shortest.
        lengths = torch.tensor(prefixes, device=x.device).repeat_interleave(batch)
        asked = queries.transpose(0, 1).flatten(0, 1)
        answers, start = [], 0
        while start < len(lengths):
            step = max(1, _ACTIVATIONS // (self.hidden * max(1, int(lengths[start]))))
            part = slice(start, start + step)
            episodes = torch.arange(start, min(start + step, len(lengths)), device=x.device) % batch
            longest = int(lengths[part].max())
            with torch.no_grad():
                inner, outer = self._train(x[episodes, :longest], y[episodes, :longest], lengths[part])
            found = _with_ones(_forward(asked[part], inner)[1]) @ outer
            answers.append(torch.where(lengths[part, None] > 0, found[..., 0], 0.0))
            start += step
        return torch.cat(answers).view(count, batch, each).transpose(0, 1)

    def _train(
        self, x: Float[Tensor, "F n d"], y: Float[Tensor, "F n"], lengths: Tensor
    ) -> tuple[Float[Tensor, "F d_plus_1 h"], Float[Tensor, "F h_plus_1 1"]]:
        """The weights of F networks after training, each on as many of its pairs as its length says."""
        weights = [start.to(x).expand(len(x), -1, -1).clone() for start in self.initial(x.shape[-1])]
        first, second = [[torch.zeros_like(w) for w in weights] for _ in range(2)]
        inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        # d/dŷ of the mean square is 2 (ŷ - y) / n.
        share = (2 * inside / lengths[:, None].clamp_min(1)).to(x)[..., None]
        for step in range(1, self.steps + 1):
            positive, active = _forward(x, weights[0])
            active = _with_ones(active)
            error = (active @ weights[1] - y[..., None]) * share
            back = torch.where(positive, error * weights[1][:, :-1, 0][:, None], 0.0)
            gradients = _with_ones(x).mT @ back, active.mT @ error
            size = self.rate / (1 - _FIRST**step)
            for weight, slope, mean, square in zip(weights, gradients, first, second, strict=True):
                mean.lerp_(slope, 1 - _FIRST)
                square.mul_(_SECOND).addcmul_(slope, slope, value=1 - _SECOND)
                spread = square.sqrt().div_(math.sqrt(1 - _SECOND**step)).add_(_EPSILON)
                weight.addcdiv_(mean, spread, value=-size)
        return weights[0], weights[1]


def _with_ones(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d_plus_1"]:
    """A last coordinate of one, whose weight is the bias."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def _forward(x: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Which hidden units are on, and their values."""
    before = _with_ones(x) @ inner
    return before > 0, before.relu()
