"""A family's parameters fitted to every context size by itself: does one value serve them all?

Shape letters: B episodes, S context sizes, p continuous parameters, q whole ones, R resamples.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.analysis.family import Family
from iclkit.analysis.fitting import Estimate, Fit, Scan
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.questions import Questions
from iclkit.analysis.targets import Target
from iclkit.learners import RegressionLearner

_STEP, _STRIDE, _FLAT = 1e-3, 1.0, 1e-100
_ITERATIONS = 30
# A curvature below this share of the largest is none: predictions there do not depend on the parameter.
_SILENT = 1e-10
# Choices of the whole parameters that are refined at each context size.
_STARTS = 3


@dataclass(frozen=True)
class Member(RegressionLearner):
    """A member of a family whose parameters differ from context size to context size.

    Args:
        family: The family.
        sizes: The context sizes.
        values: For each parameter its value at each of them; at others, that of the nearest.
    """

    family: Family
    sizes: tuple[int, ...]
    values: dict[str, tuple[float, ...]]

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        prompts = Prompts.of(Questions(x, y, x, None, y, None), slice(None))
        known = torch.tensor(self.sizes)
        asked = list(range(x.shape[1]))
        nearest = (torch.tensor(asked)[:, None] - known).abs().argmin(1)
        values = {
            name: torch.tensor(found, dtype=torch.float64)[nearest] for name, found in self.values.items()
        }
        return self.family.predict_each(prompts, values, asked).to(y)


@dataclass(frozen=True)
class BySize:
    """The members of a family that are nearest at each context size.

    Args:
        family: The family.
        sizes: The context sizes.
        whole: Their integers.
        logs: The logarithms of their continuous parameters.
        gradients: Half the derivatives of the losses by them, episode by episode.
        curvatures: Half the second derivatives, as by Gauss and Newton.
    """

    family: Family
    sizes: tuple[int, ...]
    whole: Int[Tensor, "S q"]
    logs: Float[Tensor, "S p"]
    gradients: Float[Tensor, "B S p"]
    curvatures: Float[Tensor, "B S p p"]

    @cached_property
    def values(self) -> dict[str, Float[Tensor, " S"]]:
        """The parameters by name and context size."""
        return _values(self.family, self.whole, self.logs)

    @property
    def member(self) -> Member:
        """The learner that has them."""
        return Member(self.family, self.sizes, {name: tuple(v.tolist()) for name, v in self.values.items()})

    def differences(self, prompts: Prompts, target: Target) -> Float[Tensor, "B S"]:
        """How far its members are from a target."""
        return each_differences(self.family, self.values, prompts, target)

    def estimates(self, weights: Float[Tensor, "R B"], level: float) -> dict[str, tuple[Estimate, ...]]:
        """The parameters with bootstrap intervals, by context size: one Gauss-Newton step for each resample.

        Where predictions do not depend on a parameter its interval is all that was tried.

        Args:
            weights: How often each episode is in each resample, as shares.
            level: Coverage of the intervals, each by itself.
        """
        gradient = torch.einsum("rb,bsp->rsp", weights, self.gradients)
        curvature = torch.einsum("rb,bspq->rspq", weights, self.curvatures)
        ridge = _FLAT + 1e-12 * curvature.diagonal(dim1=-2, dim2=-1)
        step = -torch.linalg.solve(curvature + torch.diag_embed(ridge), gradient).clamp(-_STRIDE, _STRIDE)
        drawn = (self.logs + step - step.mean(0)).exp()
        tail = 0.5 * (1 - level)
        ends = drawn[:2]  # [2, S, p]
        if self.logs.shape[1]:
            ends = torch.quantile(drawn, torch.tensor([tail, 1 - tail]).to(drawn), 0)
        flat = self.curvatures.mean(0).diagonal(dim1=-2, dim2=-1)  # [S, p]
        flat = flat <= _SILENT * flat.amax(0)
        found, place = {}, 0
        for parameter in self.family.parameters:
            value, grid = self.values[parameter.name], parameter.grid
            low, high = value, value
            if not parameter.whole:
                low, high = ends[:, :, place].clamp(grid[0], grid[-1])
                low = low.masked_fill(flat[:, place], grid[0])
                high = high.masked_fill(flat[:, place], grid[-1])
                place += 1
            single = len(grid) == 1
            found[parameter.name] = tuple(
                Estimate(*numbers, edge="" if single else _edge(numbers[0], grid, parameter.whole))
                for numbers in zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
            )
        return found


def fit_by_size(fit: Fit, prompts: Prompts, target: Target) -> BySize:
    """Minimise the mean squared difference from a target at every context size by itself.

    As `fitting.fit`, from the best points of its grid, for all context sizes at once.

    Args:
        fit: The fit of one member for all of them.
        prompts: Episodes.
        target: The predictions to come near to.
    """
    return _Search(fit.family, prompts, target).run(fit.scan)


def with_fixed(fit: Fit, name: str, value: float) -> Fit:
    """A fit whose parameter has one value; what the grid showed of others with it."""
    parameters = tuple(replace(p, grid=(value,)) if p.name == name else p for p in fit.family.parameters)
    family = replace(fit.family, parameters=parameters)
    places = {p.name: i for i, p in enumerate(p for p in parameters if p.whole)}
    scan = fit.scan
    if name in places:
        near = (scan.wholes[:, places[name]] - value).abs()
        rows = near == near.min()
        wholes = scan.wholes[rows].clone()
        wholes[:, places[name]] = int(value)
        scan = Scan(wholes, scan.logs[rows], scan.losses[rows], scan.constant)
    return Fit(family, fit.candidates, scan)


def each_differences(
    family: Family, values: dict[str, Tensor], prompts: Prompts, target: Target
) -> Float[Tensor, "B S"]:
    """How far members with parameters of their own for each context size are from a target."""
    sizes = list(target.sizes)
    found = target.differences_at(family.predict_each(prompts, values, sizes), sizes)
    return found.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)


@dataclass(frozen=True)
class _Search:
    family: Family
    prompts: Prompts
    target: Target

    @cached_property
    def bounds(self) -> Float[Tensor, "2 p"]:
        ends = [[math.log(p.grid[0]), math.log(p.grid[-1])] for p in self.family.parameters if not p.whole]
        return torch.tensor(ends, dtype=torch.float64).view(-1, 2).T

    def run(self, scan: Scan) -> BySize:
        order = scan.losses.argsort(dim=0, stable=True)[:_STARTS]  # [starts, S]
        here = torch.arange(len(self.target.sizes))
        starts = (self._refine(scan.wholes[rank], self._inside(scan.logs[rank, here])) for rank in order)
        whole, logs, loss = functools.reduce(self._better, starts)
        for axis, parameter in enumerate(p for p in self.family.parameters if p.whole):
            stride = int(_gap(parameter.grid))
            while stride:
                before = whole
                for move in (-2 * stride, -stride, stride, 2 * stride):
                    tried = whole.clone()
                    tried[:, axis] = (tried[:, axis] + move).clamp(
                        int(parameter.grid[0]), int(parameter.grid[-1])
                    )
                    if not torch.equal(tried, whole):
                        start = self._scaled(logs, whole, tried)
                        whole, logs, loss = self._better((whole, logs, loss), self._refine(tried, start))
                stride = stride // 2 if torch.equal(before, whole) else stride
        sizes, rest, slopes = self.target.sizes, self._residuals(whole, logs), self._slopes(whole, logs)
        return BySize(
            self.family,
            sizes,
            whole,
            logs,
            torch.einsum("pbs,bs->bsp", slopes, rest),
            torch.einsum("pbs,qbs->bspq", slopes, slopes),
        )

    def _scaled(self, logs: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Where to start from with other integers: more steps go with a smaller rate."""
        names = [p.name for p in self.family.parameters if not p.whole]
        if "rate" not in names or before.shape[1] != 1:
            return logs
        moved = logs.clone()
        moved[:, names.index("rate")] += (before[:, 0].double() / after[:, 0]).log()
        return self._inside(moved)

    def _inside(self, logs: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(logs, self.bounds[0]), self.bounds[1])

    def _better(
        self, first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At each context size the one with the smaller loss, of equal ones the first."""
        wins = second[2] < first[2] * (1 - 1e-12)
        whole, logs = (torch.where(wins[:, None], b, a) for a, b in zip(first[:2], second[:2], strict=True))
        return whole, logs, torch.where(wins, second[2], first[2])

    def _residuals(self, whole: Tensor, logs: Tensor) -> Float[Tensor, "B S"]:
        return each_differences(self.family, _values(self.family, whole, logs), self.prompts, self.target)

    def _slopes(self, whole: Tensor, logs: Tensor) -> Float[Tensor, "p B S"]:
        moves = _STEP * torch.eye(logs.shape[1], dtype=logs.dtype)
        found = [self._residuals(whole, logs + m) - self._residuals(whole, logs - m) for m in moves]
        none = logs.new_zeros(0, len(self.target.values), len(self.target.sizes))
        return (torch.stack(found) / (2 * _STEP) if found else none).nan_to_num(0.0, 0.0, 0.0)

    def _refine(self, whole: Int[Tensor, "S q"], logs: Float[Tensor, "S p"]) -> tuple[Tensor, Tensor, Tensor]:
        """Levenberg-Marquardt at every context size by itself, all in step."""
        rest = self._residuals(whole, logs)
        loss = rest.square().mean(0)
        if not logs.shape[1]:
            return whole, logs, loss
        damping = torch.full_like(loss, 1e-3)
        going = loss.isfinite() & (loss > 0)
        for _ in range(_ITERATIONS):
            if not going.any():
                break
            slopes = self._slopes(whole, logs)
            rest = torch.where(rest.isfinite(), rest, 0.0)
            curvature = torch.einsum("pbs,qbs->spq", slopes, slopes)
            gradient = torch.einsum("pbs,bs->sp", slopes, rest)
            scale = torch.diag_embed(curvature.diagonal(dim1=-2, dim2=-1).clamp(min=_FLAT))
            step = -torch.linalg.solve(curvature + damping[:, None, None] * scale, gradient)
            step = torch.where(going[:, None], step.clamp(-_STRIDE, _STRIDE), 0.0)
            tried = self._inside(logs + step)
            after = self._residuals(whole, tried)
            lower = after.square().mean(0)
            wins = going & (lower < loss)
            moved = (tried - logs).abs().amax(1)
            small = (moved < 1e-7) | (wins & (damping < 1e-2) & (lower > (1 - 1e-6) * loss))
            logs, loss = torch.where(wins[:, None], tried, logs), torch.where(wins, lower, loss)
            rest = torch.where(wins, after, rest)
            damping = torch.where(wins, (damping / 10).clamp(min=1e-12), damping * 10)
            going = going & ~small & (damping < 1e4)
        return whole, logs, loss


def _gap(grid: tuple[float, ...]) -> float:
    """Half the widest distance of a grid."""
    gaps = [b - a for a, b in itertools.pairwise(grid)]
    return max(1, max(gaps) // 2) if gaps else 0


def _values(family: Family, whole: Tensor, logs: Tensor) -> dict[str, Tensor]:
    numbers, logarithms = iter(whole.double().unbind(1)), iter(logs.exp().unbind(1))
    return {p.name: next(numbers if p.whole else logarithms) for p in family.parameters}


def _edge(value: float, grid: tuple[float, ...], whole: bool) -> str:
    if value <= 1.001 * grid[0]:
        return "" if whole else "low"
    return "high" if value >= 0.999 * grid[-1] else ""
