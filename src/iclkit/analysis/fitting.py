"""The member of a family that is nearest to given predictions, and how sure that is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclkit.analysis.family import Family, Parameter
from iclkit.analysis.prompts import Prompts
from iclkit.analysis.targets import Target

# Half the step of central differences in a logarithm, as wide as solvers with a tolerance need.
_STEP = 1e-3
_ITERATIONS = 30
# A step, hardly damped, that lessens the loss by a smaller share is the last.
_GAIN = 1e-6
# The longest move of one iteration, in logarithms.
_STRIDE = 1.0
# Points of the grid that are refined, each with other integers.
_STARTS = 4
# A curvature that counts as none.
_FLAT = 1e-100
# With less, parameters that only count together make a matrix that is singular to rounding.
_LEAST_DAMPING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A fitted parameter.

    Args:
        value: The fit.
        low: Lower end of its interval.
        high: Upper end.
        edge: "low" or "high" where the fit is the least or greatest value that was tried; else empty.
    """

    value: float
    low: float
    high: float
    edge: str = ""

    def __str__(self) -> str:
        if self.edge:
            return f"{'≤' if self.edge == 'low' else '≥'} {self.value:.3g}"
        value, low, high = (f"{number:.3g}" for number in (self.value, self.low, self.high))
        return f"= {value}" if low == high == value else f"= {value} [{low}, {high}]"


@dataclass(frozen=True)
class Candidate:
    """The best member of a family among those with given integers, and the loss around it, episode by episode.

    Args:
        whole: Its integer parameters.
        logs: Logarithms of its continuous ones (θ), p of them.
        losses: Mean squared difference from the target.
        gradients: Half the derivative of the losses by θ.
        curvatures: Half their second derivatives, as by Gauss and Newton.
    """

    whole: tuple[int, ...]
    logs: Float[Tensor, " p"]
    losses: Float[Tensor, " B"]
    gradients: Float[Tensor, "B p"]
    curvatures: Float[Tensor, "B p p"]

    @property
    def loss(self) -> float:
        """Mean over the episodes."""
        return float(self.losses.mean())


@dataclass(frozen=True)
class Scan:
    """What the first look at the grid showed, on some of the episodes.

    Args:
        wholes: Choices of the integers (W).
        logs: For each of them and each context size the best logarithms of the continuous parameters.
        losses: The mean squared difference there.
        constant: The least loss of one member for all context sizes.
    """

    wholes: Int[Tensor, "W q"]
    logs: Float[Tensor, "W S p"]
    losses: Float[Tensor, "W S"]
    constant: float


@dataclass(frozen=True)
class Fit:
    """The nearest member of a family by the mean squared difference of predictions.

    Args:
        family: The family.
        candidates: The best one first, then the others that were refined.
        scan: The best members of the grid, one for each choice of the integers and each context size.
    """

    family: Family
    candidates: tuple[Candidate, ...]
    scan: Scan

    @cached_property
    def values(self) -> dict[str, float]:
        """The fitted parameters by name."""
        return _values(self.family, self.candidates[0].whole, self.candidates[0].logs)

    def estimates(self, weights: Float[Tensor, "R B"], level: float) -> dict[str, Estimate]:
        """The fitted parameters with bootstrap intervals: each resample of the episodes is fitted again.

        A refit is one Gauss-Newton step from each candidate, after which the one with the least loss counts.

        Args:
            weights: How often each episode is in each resample.
            level: Coverage of the intervals.
        """
        logs, losses = zip(*(_refit(candidate, weights) for candidate in self.candidates), strict=True)
        best = torch.stack(losses).argmin(0)  # [R]
        refits = torch.stack(logs)[best, torch.arange(len(best))]  # [R, p]
        whole = torch.tensor([c.whole for c in self.candidates], dtype=refits.dtype)[best]
        tail = 0.5 * (1 - level)
        found = {}
        columns = {"whole": iter(whole.unbind(1)), "log": iter(refits.exp().unbind(1))}
        for parameter in self.family.parameters:
            drawn = next(columns["whole" if parameter.whole else "log"])
            # Integers between which a resample cannot decide are not averaged.
            how = "nearest" if parameter.whole else "linear"
            low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail]).to(drawn), interpolation=how)
            value, grid = self.values[parameter.name], parameter.grid
            edge = "low" if value <= 1.001 * grid[0] else "high" if value >= 0.999 * grid[-1] else ""
            # There is nothing below 1, so that is no edge of the search.
            edge = "" if parameter.whole and edge == "low" else edge
            low, high = (min(max(float(end), grid[0]), grid[-1]) for end in (low, high))
            found[parameter.name] = Estimate(value, low, high, edge)
        return found


def fit(family: Family, prompts: Prompts, target: Target) -> Fit | None:
    """Minimise the mean squared difference from the target over a family's parameters.

    Every point of the grid is tried on some of the episodes. From the best ones, continuous parameters are
    refined by the method of Levenberg and Marquardt, and integers by trying their neighbours, each with the
    continuous ones found anew.

    Args:
        family: The family.
        prompts: Episodes.
        target: The predictions to come near to.

    Returns:
        The fit; None where no member has a finite loss.
    """
    return _Search(family, prompts, target).run()


@dataclass(frozen=True)
class _Search:
    family: Family
    prompts: Prompts
    target: Target
    scanned: list[tuple[tuple[int, ...], Tensor, Tensor, float]] = field(default_factory=list)

    @cached_property
    def wholes(self) -> list[Parameter]:
        return [p for p in self.family.parameters if p.whole]

    @cached_property
    def continuous(self) -> list[Parameter]:
        return [p for p in self.family.parameters if not p.whole]

    @cached_property
    def bounds(self) -> Float[Tensor, "2 p"]:
        ends = [[math.log(p.grid[0]), math.log(p.grid[-1])] for p in self.continuous]
        return torch.tensor(ends, dtype=torch.float64).view(-1, 2).T

    @cached_property
    def scouts(self) -> tuple[Prompts, Target]:
        """The first episodes, on which the points of the grid are compared."""
        return self.prompts.first, self.target.part(slice(0, len(self.prompts.first.asked.x)))

    def run(self) -> Fit | None:
        wholes = itertools.product(*(map(int, p.grid) for p in self.wholes))
        starts = [self._start(whole) for whole in wholes]
        starts = sorted((s for s in starts if s[0] < math.inf), key=lambda start: start[0])[:_STARTS]
        known = {whole: self._refine(whole, logs) for _, whole, logs in starts}
        if not any(found.loss < math.inf for found in known.values()):
            return None  # what converged on the first episodes may diverge on others
        stride = max([self._gap(p, w) for p, w in zip(self.wholes, starts[0][1], strict=True)], default=1)
        while True:
            centre = min(known.values(), key=lambda c: c.loss)
            for near in self._around(centre.whole, stride):
                if near not in known:
                    _, _, logs = self._start(near)
                    known[near] = self._refine(near, logs)
            if min(known.values(), key=lambda c: c.loss) is centre:
                if stride == 1:
                    break
                stride //= 2
        finite = (found for found in known.values() if found.loss < math.inf)
        return Fit(self.family, tuple(sorted(finite, key=lambda c: c.loss)), self._scan())

    def _scan(self) -> Scan:
        wholes, logs, losses, constant = zip(*self.scanned, strict=True)
        found = torch.tensor(wholes, dtype=torch.int64).view(len(wholes), -1)
        return Scan(found, torch.stack(logs), torch.stack(losses), min(constant))

    def _start(self, whole: tuple[int, ...]) -> tuple[float, tuple[int, ...], Tensor]:
        """The best point of the grid with given integers, and its loss."""
        points = itertools.product(*(p.grid for p in self.continuous))
        logs = [torch.tensor(point, dtype=torch.float64).log() for point in points]
        by_size = torch.stack([self._residuals(whole, point, *self.scouts).square().mean(0) for point in logs])
        losses = by_size.mean(1)
        least = int(losses.argmin())
        best = by_size.min(0)
        own = (whole, torch.stack(logs)[best.indices], best.values, float(losses[least]))
        self.scanned.append(own)
        return float(losses[least]), whole, logs[least]

    def _gap(self, parameter: Parameter, value: int) -> int:
        """Half the distance to the next value of the grid."""
        index = parameter.grid.index(value)
        after = parameter.grid[min(index + 1, len(parameter.grid) - 1)]
        return max(1, int(after - value) // 2)

    def _around(self, whole: tuple[int, ...], stride: int) -> list[tuple[int, ...]]:
        """The neighbours along each integer parameter; two on either side, for signs may alternate."""
        found = []
        for axis, parameter in enumerate(self.wholes):
            for move in (-2, -1, 1, 2):
                value = whole[axis] + move * stride
                if parameter.grid[0] <= value <= parameter.grid[-1]:
                    found.append((*whole[:axis], value, *whole[axis + 1 :]))
        return found

    def _residuals(
        self, whole: tuple[int, ...], logs: Tensor, prompts: Prompts | None = None, target: Target | None = None
    ) -> Float[Tensor, "B S"]:
        found = self.family.predict(prompts or self.prompts, _values(self.family, whole, logs))
        rest = (target or self.target).differences(found)
        return rest.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)

    def _slopes(self, whole: tuple[int, ...], logs: Tensor) -> Float[Tensor, "p B S"]:
        """Derivatives of the residuals by the logarithms."""
        moves = _STEP * torch.eye(len(logs), dtype=logs.dtype)
        found = [self._residuals(whole, logs + m) - self._residuals(whole, logs - m) for m in moves]
        none = logs.new_zeros(0, len(self.target.values), len(self.target.sizes))
        slopes = torch.stack(found) / (2 * _STEP) if found else none
        return slopes.nan_to_num(0.0, 0.0, 0.0)

    def _refine(self, whole: tuple[int, ...], logs: Tensor) -> Candidate:
        """Levenberg-Marquardt in the logarithms, within their bounds."""
        rest = self._residuals(whole, logs)
        slopes = self._slopes(whole, logs)
        damping = 1e-3
        for _ in range(_ITERATIONS if len(logs) and rest.isfinite().all() else 0):
            curvature = torch.einsum("pbs,qbs->pq", slopes, slopes)
            gradient = torch.einsum("pbs,bs->p", slopes, rest)
            scale = curvature.diagonal().clamp(min=_FLAT).diag()
            step = -torch.linalg.solve(curvature + damping * scale, gradient).clamp(-_STRIDE, _STRIDE)
            tried = torch.minimum(torch.maximum(logs + step, self.bounds[0]), self.bounds[1])
            after = self._residuals(whole, tried)
            loss, before = (float(part.square().sum()) for part in (after, rest))
            if loss < before:
                moved = float((tried - logs).abs().max())
                logs, rest, damping = tried, after, max(damping / 10, _LEAST_DAMPING)
                slopes = self._slopes(whole, logs)
                if moved < 1e-7 or (damping < 1e-2 and loss > (1 - _GAIN) * before):
                    break
            elif damping > 1e4 or float(step.abs().max()) < 1e-7:
                break
            else:
                damping *= 10
        count = len(self.target.sizes)
        return Candidate(
            whole,
            logs,
            rest.square().mean(1),
            torch.einsum("pbs,bs->bp", slopes, rest) / count,
            torch.einsum("pbs,qbs->bpq", slopes, slopes) / count,
        )


def _refit(
    candidate: Candidate, weights: Float[Tensor, "R B"]
) -> tuple[Float[Tensor, "R p"], Float[Tensor, " R"]]:
    """The logarithms and the loss after one Gauss-Newton step for each resample of the episodes."""
    losses = weights @ candidate.losses
    if not len(candidate.logs):
        return candidate.logs.expand(len(weights), 0), losses
    gradient = weights @ candidate.gradients
    curvature = torch.einsum("rb,bpq->rpq", weights, candidate.curvatures)
    # A parameter without influence stays where it is.
    ridge = _FLAT + 1e-12 * curvature.diagonal(dim1=-2, dim2=-1)
    step = -torch.linalg.solve(curvature + torch.diag_embed(ridge), gradient).clamp(-_STRIDE, _STRIDE)
    # From all episodes together the step should be 0. Where the fit stopped at a bound, or a little early, it
    # is not, and how resamples differ is seen relative to it.
    logs = candidate.logs + step - step.mean(0)
    return logs, losses + (gradient * step).sum(-1)


def _values(family: Family, whole: tuple[int, ...], logs: Tensor) -> dict[str, float]:
    numbers, logarithms = iter(whole), iter(logs.tolist())
    return {p.name: next(numbers) if p.whole else math.exp(next(logarithms)) for p in family.parameters}
