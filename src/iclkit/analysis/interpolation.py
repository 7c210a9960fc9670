"""The loss along the straight line between two networks: whether they are one solution or two.

Networks that compute the same need not have the same weights. In linear attention W_KQ may trade a factor with
W_PV; `match_scale` takes it out before the line is drawn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclkit.analysis.causality import check_causal
from iclkit.analysis.intervals import Curve, Interval, cell
from iclkit.analysis.table import Table
from iclkit.errors import UserError
from iclkit.networks import WEIGHTINGS, Attention, BlockConfig, MergedAttention
from iclkit.tasks import RegressionTask

# Episodes on which it is checked that a network does not see its answers.
_FEW = 64
# Networks on a line: more show nothing that these do not.
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class Interpolation:
    """Losses along the line (1 - t) a + t b.

    Args:
        fractions: The t, from 0 to 1.
        losses: Squared errors by episode; column i belongs to fraction i.
    """

    fractions: tuple[float, ...]
    losses: Curve

    def interval(self, level: float = 0.95) -> Interval:
        """Mean losses with their bootstrap intervals, by fraction."""
        return self.losses.interval(level)

    def barrier(self, level: float = 0.95) -> Interval:
        """The most by which the loss exceeds the straight line between its ends: 0 where nothing lies between.

        The place of the largest excess is chosen on all episodes, the interval is that of the excess there.
        """
        t = torch.tensor(self.fractions, dtype=torch.float64)
        values = self.losses.values.double().cpu()
        excess = values - (1 - t) * values[:, :1] - t * values[:, -1:]
        place = int(excess.mean(0).argmax())
        return Curve((0,), excess[:, place : place + 1]).interval(level)[0]

    def table(self) -> Table:
        """Mean loss and 95 % interval by fraction."""
        interval = self.interval()
        rows = [
            [f"{t:.2f}", f"{interval.mean[i]:.4g}", f"{interval.low[i]:.4g} to {interval.high[i]:.4g}"]
            for i, t in enumerate(self.fractions)
        ]
        return Table(["fraction", "squared error", "95 % interval"], rows)


@dataclass(frozen=True)
class Lines:
    """Straight lines between two networks, with and without matching the scales of their attention.

    Args:
        ends: What the networks are, those at fraction 0 and 1.
        lines: Interpolations by name.
        episodes: How many each loss is a mean over.
    """

    ends: tuple[str, str]
    lines: dict[str, Interpolation]
    episodes: int

    @property
    def verdict(self) -> str:
        """The barriers, in one line."""
        barriers = [f"{cell(line.barrier())} {name}" for name, line in self.lines.items()]
        return f"Barrier from {self.ends[0]} to {self.ends[1]}: {'; '.join(barriers)}."

    @property
    def head(self) -> str:
        """What the numbers are of."""
        return f"{self.verdict}\n\nMeans over {self.episodes} episodes with 95 % intervals."

    def table(self) -> Table:
        """Mean losses with 95 % intervals by fraction, a column for each line."""
        first, *_ = self.lines.values()
        rows = [[f"{t:.2f}"] for t in first.fractions]
        for line in self.lines.values():
            found = line.interval()
            for i, row in enumerate(rows):
                row.append(f"{found.mean[i]:.4f} [{found.low[i]:.4f}, {found.high[i]:.4f}]")
        return Table(["fraction", *self.lines], rows)

    def to_csv(self) -> str:
        """Mean losses and their 95 % intervals."""
        rows = ["line,fraction,squared_error,low,high"]
        for name, line in self.lines.items():
            found = line.interval()
            rows += [
                f"{name},{t!r},{float(found.mean[i])!r},{float(found.low[i])!r},{float(found.high[i])!r}"
                for i, t in enumerate(line.fractions)
            ]
        return "\n".join(rows) + "\n"


MATCHED, UNMATCHED = "scales matched", "as they are"


def straight_lines(
    a: Any,
    b: Any,
    task: RegressionTask,
    ends: tuple[str, str] = ("a", "b"),
    points: int = 11,
    episodes: int = 512,
    seed: int = 0,
    steps: int = 21,
) -> Lines:
    """The line between two networks as they are, and after matching scales; whichever of the two there are.

    Args:
        a: As in `interpolate`.
        b: As in `interpolate`.
        task: Where the episodes come from.
        ends: What the networks are.
        points: Points of each episode, of which the last is predicted.
        episodes: How many episodes; the same for both lines.
        seed: Of the episodes.
        steps: Networks on each line.

    Raises:
        UserError: Networks of two shapes, which neither line can join; fewer than two steps.
    """
    lines, mistakes = {}, []
    for name, match in ((UNMATCHED, False), (MATCHED, True)):
        generator = torch.Generator().manual_seed(seed)
        try:
            lines[name] = interpolate(a, b, task, points, episodes, generator, steps, match=match)
        except UserError as mistake:
            # Of four matrices and two only the products are comparable; of softmax attention only the weights.
            mistakes.append(mistake)
    if not lines:
        raise mistakes[0]
    return Lines(ends, lines, episodes)


def interpolate(
    a: Any,
    b: Any,
    task: RegressionTask,
    points: int = 11,
    episodes: int = 512,
    generator: torch.Generator | None = None,
    steps: int = 21,
    last: bool = True,
    match: bool = False,
) -> Interpolation:
    """Squared error on fresh episodes of networks on the line between two.

    Args:
        a: A network (x, y) -> predictions, or a trained learner.
        b: Another of the same shape.
        task: Where the episodes come from.
        points: Points of each episode.
        episodes: How many episodes; the same all along the line.
        generator: Source of randomness.
        steps: Networks on the line, both ends included.
        last: Whether the error is that of the last point alone, not the mean over all.
        match: Whether to match the scales of linear attention first; see `match_scale`.

    Returns:
        Squared errors. Von Oswald et al. state half of that.

    Raises:
        UserError: Networks of two shapes, or that differ in more than weights; networks that say densities;
            or see what they predict; longer contexts than they take, no episodes, or fewer than two steps.

    Source: von Oswald et al. (2022), figure 2 and appendix A.
    """
    if not 2 <= steps <= _MOST_STEPS:
        raise UserError(f"steps must lie in 2..{_MOST_STEPS}, both ends of the line among them, given {steps}")
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, given {episodes}")
    for network in (_network(a), _network(b)):
        _check_asked(network, points)
    first, second = (match_scale(a, b), merged(_network(b))) if match else (_network(a), _network(b))
    start, end = (
        {name: weight.detach() for name, weight in network.named_parameters()} for network in (first, second)
    )
    _check_shapes(start, end)
    end = {name: weight.to(start[name]) for name, weight in end.items()}
    weight = next(iter(start.values()))
    x, y = (part.to(weight) for part in task.sample(episodes, points, generator))
    _check_end(first, second, end, x, y)
    _check_causal({"the first network": start, "the second network": end}, first, x, y)
    fractions = torch.linspace(0, 1, steps, dtype=torch.float64).tolist()
    losses = []
    with torch.no_grad():
        for t in fractions:
            between = {name: torch.lerp(start[name], end[name], t) for name in start}
            error = (_predictions(first, between, x, y) - y).double().square()
            losses.append(error[:, -1] if last else error.mean(1))
    return Interpolation(tuple(fractions), Curve(tuple(range(steps)), torch.stack(losses, 1)))


def match_scale(network: Any, target: Any) -> nn.Module:
    """A copy of a network that computes the same, with the sizes of its attention matrices as in another.

    In linear attention f = E + W_PV E (Eᵀ W_KQ E) / n, c W_KQ and W_PV / c compute the same for any number
    c. In each layer c makes ‖W_KQ‖ / ‖W_PV‖ that of the other network, and its sign the same way round.

    Args:
        network: The network to copy, with linear attention of one head and without biases in it.
        target: Another of the same shape.

    Raises:
        UserError: Other kinds of attention, whose scale is not free; networks of two shapes.
    """
    found, wanted = merged(_network(network)), merged(_network(target))
    _check_shapes(dict(found.named_parameters()), dict(wanted.named_parameters()))
    with torch.no_grad():
        for own, other in zip(_layers(found), _layers(wanted), strict=True):
            ratios = [m.key_query.weight.norm() / m.value_out.weight.norm() for m in (own, other)]
            turned = (own.key_query.weight * other.key_query.weight).sum() < 0
            factor = (ratios[1] / ratios[0]).sqrt() * (-1 if turned else 1)
            if not (factor.isfinite() and factor != 0):
                raise UserError(
                    "a layer's attention is zero, so its scale cannot be matched; train the network"
                )
            own.key_query.weight *= factor
            own.value_out.weight /= factor
    return found


def merged(network: nn.Module) -> nn.Module:
    """A copy of a network whose linear attention has the matrices W_KQ = W_Kᵀ W_Q and W_PV = W_O W_V.

    The four matrices may trade whole changes of basis, the two a factor alone.

    Raises:
        UserError: Attention that is not linear or not plain, has several heads or biases.
    """
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, attention in list(parent.named_children()):
            if not isinstance(attention, Attention):
                continue
            if not isinstance(attention.weighting, type(WEIGHTINGS["linear"])):
                raise UserError(
                    f"the scale is free in linear attention alone, given {type(attention.weighting).__name__}; "
                    "interpolate without matching it"
                )
            if not attention.variant.plain:
                raise UserError(
                    f"the scale is free in plain attention alone, given {attention.variant}; interpolate "
                    "without matching it"
                )
            if not isinstance(attention, MergedAttention):
                setattr(parent, name, _merge(attention))
    if not _layers(network):
        raise UserError(f"{type(network).__name__} has no attention whose scale could be matched")
    return network


def _merge(attention: Attention) -> MergedAttention:
    if attention.heads != 1 or attention.qkv.bias is not None:
        raise UserError(
            "attention of several heads or with biases is no two matrices; interpolate without matching"
        )
    key_query, value_out = attention.kq()[0], attention.pv()[0]
    config = BlockConfig(len(key_query), 1, bias=False, weighting="linear", own=attention.own, merged=True)
    with torch.device("meta"):  # no memory, and no numbers from the global generator
        found = MergedAttention(config)
    found.key_query.weight = nn.Parameter(key_query.detach().clone())
    found.value_out.weight = nn.Parameter(value_out.detach().clone())
    return found


def _layers(network: nn.Module) -> list[MergedAttention]:
    return [module for module in network.modules() if isinstance(module, MergedAttention)]


def _network(value: Any) -> nn.Module:
    network = getattr(value, "network", value)
    if not isinstance(network, nn.Module):
        raise UserError(
            f"weights are interpolated of networks or trained learners, given {type(value).__name__}"
        )
    return network


def _check_asked(network: nn.Module, points: int) -> None:
    if getattr(network, "components", 0):
        raise UserError("the error of a line is of predictions, and this network says densities; give another")
    limit = getattr(network, "max_points", None)
    if limit is not None and points > limit + 1:
        raise UserError(f"{points} points are contexts of up to {points - 1} pairs, at most {limit} are taken")


def _check_end(
    first: nn.Module,
    second: nn.Module,
    end: dict[str, Tensor],
    x: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
) -> None:
    """Refuse a line that does not end at the second network: one whose weights mean something else."""
    with torch.no_grad():
        reached = torch.func.functional_call(first, end, (x[:1], y[:1]))
        like = next(second.parameters())
        wanted = second(x[:1].to(like), y[:1].to(like)).to(reached)
    room = 1e-3 * float(wanted.abs().max())  # rounding, also of weights in another type
    if reached.shape != wanted.shape or not torch.allclose(reached, wanted, rtol=0, atol=room, equal_nan=True):
        raise UserError(
            "with the second network's weights the first must compute what the second does; they differ in "
            "attention, in what a token sees, in how they read pairs, or in the sign of their answers"
        )


def _check_causal(
    ends: dict[str, dict[str, Tensor]],
    network: nn.Module,
    x: Float[Tensor, "B N d"],
    y: Float[Tensor, "B N"],
) -> None:
    """Refuse networks that see what they predict; raises as `check_causal`."""
    few = x[:_FEW], y[:_FEW]
    with torch.no_grad():
        for name, weights in ends.items():
            said = _predictions(network, weights, *few)

            def respond(x: Tensor, y: Tensor, rows: Tensor, weights: dict[str, Tensor] = weights) -> Tensor:
                return _predictions(network, weights, x, y)

            check_causal(name, respond, *few, said)


def _predictions(
    network: nn.Module, weights: dict[str, Tensor], x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]
) -> Float[Tensor, "B N"]:
    """What a network says with these weights; the first number where it says several."""
    return torch.func.functional_call(network, weights, (x, y)).reshape(*y.shape, -1)[..., 0]


def _check_shapes(a: dict[str, Float[Tensor, ...]], b: dict[str, Float[Tensor, ...]]) -> None:
    shapes = [{name: tuple(weight.shape) for name, weight in weights.items()} for weights in (a, b)]
    if shapes[0] != shapes[1]:
        odd = sorted(dict(shapes[0].items() ^ shapes[1].items()))
        raise UserError(f"both networks must have the same weights; they differ in {', '.join(odd[:3])}")
