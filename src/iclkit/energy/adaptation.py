"""Adaptation of step sizes during a sampler's warm-up."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


class DualAveraging:
    """Finds, per context, the step size whose mean acceptance is `target`.

    Source: Hoffman and Gelman (2014), "The No-U-Turn sampler", equation 6, with their constants.
    """

    def __init__(self, log_first: Float[Tensor, "*B"], target: float) -> None:
        self._target = target
        self._anchor = log_first + math.log(10)
        self._log_step = log_first
        self._log_average = torch.zeros_like(log_first)
        self._shortfall = torch.zeros_like(log_first)
        self._count = 0

    @property
    def step_size(self) -> Float[Tensor, "*B"]:
        """The step size to try next."""
        return self._log_step.exp()

    @property
    def final(self) -> Float[Tensor, "*B"]:
        """The step size to freeze: a weighted average of those tried, late ones heavier."""
        return self._log_average.exp()

    def update(self, acceptance: Float[Tensor, "*B"]) -> None:
        """Learn from the mean acceptance of one step."""
        self._count += 1
        share = 1 / (self._count + 10)
        self._shortfall = (1 - share) * self._shortfall + share * (self._target - acceptance)
        self._log_step = self._anchor - math.sqrt(self._count) / 0.05 * self._shortfall
        weight = self._count**-0.75
        self._log_average = weight * self._log_step + (1 - weight) * self._log_average
