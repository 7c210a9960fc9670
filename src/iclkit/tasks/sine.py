"""Sine curves of random amplitude and phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.errors import UserError
from iclkit.tasks.regression import RegressionTask, check_task, uniform_inputs


@dataclass(frozen=True)
class SineFunctions:
    """f(x) = amplitude sin(x + phase), in one dimension."""

    amplitude: Float[Tensor, " B"]
    phase: Float[Tensor, " B"]

    def __call__(self, x: Float[Tensor, "B *points 1"]) -> Float[Tensor, " B *points"]:
        shape = (-1, *[1] * (x.ndim - 2))
        return self.amplitude.to(x).view(shape) * torch.sin(x[..., 0] + self.phase.to(x).view(shape))


@dataclass(frozen=True)
class SineCurves(RegressionTask):
    """y = a sin(x + φ) + noise, d = 1: a uniform amplitude, φ ~ U(0, π) and x ~ U(-half_width, half_width).

    Paper and code differ: the text draws amplitudes from U(0.1, 5), the code from U(0.1, 0.5). The default is
    the text's, which is also that of the sine curves of MAML; `SineCurves(most=0.5)` is the code's.

    Args:
        least: Lower end of the amplitudes.
        most: Upper end of the amplitudes.
        half_width: Inputs are drawn from U(-half_width, half_width).
        noise_std: Standard deviation of the noise.

    Raises:
        UserError: Amplitudes or a width that are not positive, or a negative standard deviation.

    Source: von Oswald et al. (2022), section 4, and `create_reg_data_sin` of their code (phases and inputs).
    """

    least: float = 0.1
    most: float = 5.0
    half_width: float = 5.0
    noise_std: float = 0.0

    dim = 1

    def __post_init__(self) -> None:
        check_task(1, self.noise_std, least=self.least, most=self.most, half_width=self.half_width)
        if self.least > self.most:
            raise UserError(f"least must not exceed most, given {self.least} and {self.most}")

    def inputs(
        self, episodes: int, points: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B N 1"]:
        return uniform_inputs(episodes, points, 1, self.half_width, generator)

    def functions(self, episodes: int, generator: torch.Generator | None = None) -> SineFunctions:
        uniform = torch.rand(2, episodes, generator=generator)
        return SineFunctions(self.least + (self.most - self.least) * uniform[0], math.pi * uniform[1])
