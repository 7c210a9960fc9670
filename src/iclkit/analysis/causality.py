"""Does a learner's prediction leak its own target? A check at every position, in one batch.

A learner that looks at the target has no error, and no average shows why. So every learner that is measured
also predicts copies of some episodes, one copy for each position n, in which y_n and all later pairs are
replaced and x_n and the pairs before it are kept. Its predictions up to n must not change.

Shape letters: B episodes, N positions, C copies, each with a cut n; d coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclkit.errors import UserError

Respond = Callable[[Float[Tensor, "C N d"], Float[Tensor, "C N"], Int[Tensor, " C"]], Float[Tensor, "C N"]]
"""Answers at every position of copies with other pairs, given the episodes that the copies are of."""

# A change is one if it exceeds this share of what is usually predicted at the position. The same numbers in the
# same places of a batch give the same answers up to how later ones steer rounding: 1e-7 in float32, some digits
# more where contexts are badly conditioned. The targets change by about their own size, so a leak of 1 in
# 10,000 of a target is seen.
_SHARE = 1e-4
# The same, of what is usually predicted anywhere: where all but nothing is predicted rounding is all there is.
_FAINT = 1e-6
# Copies of each position, so that a leak on some data alone is met: as many as are 128 together, at most 4.
_COPIES, _ROUNDS = 128, 4
# Copies of a suspicious position, and of how many positions.
_AGAIN, _POSITIONS = 32, 64
# Standard errors of a rank sum that chance does not reach: once in three million positions.
_BEYOND = 5.0
_OF_PAIRS = "its prediction of y_n may depend on x_n and the pairs before n alone"
_OF_POINTS = "its density of x_n may depend on the points before n alone"


def check_causal(
    name: str,
    respond: Respond,
    x: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
    said: Float[Tensor, "B N"],
    own_input: bool = False,
    positions: Sequence[int] | None = None,
    points: bool = False,
) -> None:
    """Refuse a learner whose predictions change with the target that it predicts, or with later pairs.

    It predicts a few copies for each position. Where a prediction changed, it predicts more copies, and the
    same input twice, because a learner that draws random numbers never repeats itself. For such a learner the
    changes under replaced pairs must not rank above those between repeated inputs.

    Args:
        name: What the learner is called.
        respond: Predicts copies.
        x: The inputs on which it is measured.
        y: Their targets.
        said: Its predictions of them, made before this check: a learner with memory must not have seen copies.
        own_input: Whether x_n is replaced too, as where a query takes its place.
        positions: Those that are checked; all if None.
        points: Whether x alone is data: the learner returns a predictive density of points.

    Raises:
        UserError: Names the learner, the position, and what changed.
    """
    trial = _Trial(name, respond, x, y, said, own_input, points)
    chosen = torch.tensor(list(range(x.shape[1]) if positions is None else positions), device=x.device)
    cuts = chosen.repeat(min(_ROUNDS, max(1, _COPIES // len(chosen))))
    rows = torch.arange(len(cuts), device=x.device) % len(x)
    moved = trial.moved(trial.ask(rows, cuts), said[rows], said[rows])
    before = torch.arange(x.shape[1], device=x.device) <= cuts[:, None]
    suspicious = (moved & before).any(0).nonzero()[:, 0]
    if len(suspicious):
        trial.examine(suspicious[:_POSITIONS])


@dataclass(frozen=True)
class _Trial:
    name: str
    respond: Respond
    x: Float[Tensor, "B N d"]
    y: Float[Tensor, "B N"]
    said: Float[Tensor, "B N"]
    own_input: bool
    points: bool

    def examine(self, positions: Int[Tensor, " S"]) -> None:
        """Ask again about some positions, the same question too; raises as `check_causal`."""
        cuts = positions.repeat_interleave(_AGAIN)
        rows = torch.arange(len(cuts), device=cuts.device) % len(self.x)
        # In this order, for what drifts from call to call has drifted farthest by the last.
        first, other, second = self.ask(rows, cuts, ()), self.ask(rows, cuts), self.ask(rows, cuts, ())
        chance, change = (self._at(part - first, cuts) for part in (second, other))
        size = self._at(first, cuts)
        random = self._at(self.moved(second, first, first), cuts).any()
        if random:
            leaks = _rank_sum(change.abs(), chance.abs()) > _BEYOND
            pooled = _rank_sum(change.abs().reshape(1, -1), chance.abs().reshape(1, -1)) > _BEYOND
            found = leaks if leaks.any() else pooled.expand(len(leaks))
        else:
            found = self._at(self.moved(other, first, first), cuts).any(1)
        if found.any():
            place = int(found.nonzero()[0])
            self._refuse(int(positions[place]), float(_rms(change[place])), float(_rms(size[place])))

    def ask(
        self, rows: Int[Tensor, " C"], cuts: Int[Tensor, " C"], changed: tuple[str, ...] = ("own", "y", "x")
    ) -> Float[Tensor, "C N"]:
        """The answers about copies of episodes in which, from the cut on, something is another."""
        x, y = self.x[rows], self.y[rows]  # copies, which a learner may spoil
        places, cut = torch.arange(x.shape[1], device=x.device), cuts[:, None]
        turns = torch.arange(len(rows), device=x.device)
        if "y" in changed or "own" in changed:
            hit = (places > cut) & ("y" in changed) | (places == cut) & ("own" in changed)
            y = torch.where(hit, _others(self.y, turns)[turns, rows], y)
        if "x" in changed:
            hit = places >= cut if self.own_input else places > cut
            # Inputs of another episode and other places: values that the learner may be asked about.
            shift = 1 + turns % max(1, len(self.x) - 1)
            strange = self.x.roll(1, 1)[(rows + shift) % len(self.x)]
            x = torch.where(hit[..., None], strange, x)
        return self.respond(x, y, rows).double()

    def moved(self, after: Tensor, before: Tensor, like: Tensor) -> Bool[Tensor, "C N"]:
        """Which answers are others; not a number is always another."""
        typical = self.said.double().abs().median(0).values
        usual = self.said.double().abs().median()
        room = _SHARE * torch.maximum(like.double().abs(), typical) + _FAINT * usual
        return ~((after - before.double()).abs() <= room)

    def _at(self, values: Tensor, cuts: Tensor) -> Tensor:
        """Values at the cuts, [S, again]."""
        return values.gather(1, cuts[:, None]).view(-1, _AGAIN)

    def _refuse(self, position: int, change: float, size: float) -> None:
        cuts = torch.full((_AGAIN,), position, device=self.x.device)
        rows = torch.arange(_AGAIN, device=self.x.device) % len(self.x)
        plain = self.ask(rows, cuts, ())
        parts = {"own": "the target that it predicts changes", "y": "later targets change"}
        parts["x"] = f"later {'points' if self.points else 'inputs'} change"
        sizes = {part: float(_rms((self.ask(rows, cuts, (part,)) - plain)[:, position])) for part in parts}
        most = max(sizes.values())
        what = [parts[part] for part, size in sizes.items() if not size < 0.5 * most and most > 0]
        why = what[0] if what else "later ones change"
        things, depends = ("points", _OF_POINTS) if self.points else ("pairs", _OF_PAIRS)
        raise UserError(
            f"{self.name} predicts otherwise after {position} {things} when {why} (by {change:.2g}, of "
            f"predictions of about {size:.2g}); {depends}"
        )


def _others(y: Float[Tensor, "B N"], turns: Int[Tensor, " C"]) -> Float[Tensor, "T B N"]:
    """For each copy other targets that occur too: those whose rank is half, a third, ... of all further on."""
    flat = y.flatten()
    order = flat.argsort()
    parts = (2, 3, 5)
    found = []
    for part in parts:
        other = torch.empty_like(flat)
        other[order] = flat[order].roll(-max(1, len(flat) // part))
        # Where most targets are equal, another one.
        spread = float(flat.std()) if len(flat) > 1 and flat.std() > 0 else 1.0 + float(flat.abs().max())
        found.append(torch.where(other == flat, flat + spread, other).view_as(y))
    return torch.stack(found)[turns % len(parts)]


def _rms(values: Tensor) -> Tensor:
    return values.double().square().mean().sqrt()


def _rank_sum(a: Float[Tensor, "S K"], b: Float[Tensor, "S K"]) -> Float[Tensor, " S"]:
    """By how many standard errors the ranks of a exceed those of b (Mann and Whitney)."""
    count = a.shape[1]
    ranks = torch.cat([a, b], 1).nan_to_num(torch.inf).argsort(1).argsort(1).double()
    mean = count * (2 * count - 1) / 2
    std = (count * count * (2 * count + 1) / 12) ** 0.5
    return (ranks[:, :count].sum(1) - mean) / std
