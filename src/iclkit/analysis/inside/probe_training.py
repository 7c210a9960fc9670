"""Probes of many activations, targets and read-outs, trained as one batched program.

A probe reads one stream of activations H [T, W] (one layer of a network after one prefix):

    v̂ = FF(concat_h α_hᵀ H V_h),   α_h = softmax(s_h) over the tokens, whatever the input,

with FF linear or a perceptron of one hidden layer of GELU units. One head (h = 1, V of full width) is the
published probe. All parameters have the axes [S, R] of streams and of probes of one stream in front, and the
losses are added up. Adam treats every number by itself, so each probe goes the way that it would go alone.

Shape letters: S streams, R probes of each stream, E episodes, T tokens, W width, H heads, D entries of a
target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from iclkit.errors import UserError

READOUTS = ("linear", "mlp")
# The attention's scores learn faster than the rest, for a softmax that is to choose must grow by several units.
_SCORES = 10.0
# Episodes that are measured at a time: what a core's cache holds of a sweep.
_EPISODES = 64


@dataclass(frozen=True)
class Schedule:
    """How probes are trained.

    Args:
        steps: Updates.
        batch: Episodes of each.
        rate: Adam's learning rate at first; it falls to 0 as a cosine.
        hidden: Hidden units of the read-out "mlp" (512 in Akyürek et al., for streams of up to 512 channels).
        checks: How often the error on the episodes kept for it is measured; the best weights are kept.

    Raises:
        UserError: A number that is not positive.
    """

    steps: int = 1500
    batch: int = 16
    rate: float = 1e-2
    hidden: int = 256
    checks: int = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"{name} of the probes' training must be positive, given {value}")

    def factor(self, step: int) -> float:
        """The factor on the rate of update number `step`; 0 is the first."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True, eq=False)
class Readers:
    """R probes of each of S streams.

    Args:
        linear: How many of the R have a linear read-out; they come first, those with a perceptron follow.
        parameters: By name, each with the axes [S, r] in front, r the probes that have it.
    """

    linear: int
    parameters: dict[str, Float[Tensor, "S r *rest"]]

    def attention(self, seen: Bool[Tensor, "S T"]) -> Float[Tensor, "S R H T"]:
        """The position attention of every probe; 0 on tokens that a stream lacks."""
        return self.parameters["scores"].masked_fill(~seen[:, None, None], -math.inf).softmax(-1)

    def __call__(
        self, streams: Float[Tensor, "S T E W"], seen: Bool[Tensor, "S T"]
    ) -> Float[Tensor, "S R E D"]:
        """What every probe says.

        Args:
            streams: Activations; tokens that a stream lacks may hold anything finite.
            seen: Which tokens each stream has.
        """
        own = self.parameters
        (count, _, episodes, width), alpha = streams.shape, self.attention(seen)
        probes, heads = alpha.shape[1:3]
        mixed = alpha.flatten(1, 2) @ streams.flatten(2)  # one product a stream, whatever the episodes
        values = mixed.view(-1, episodes, width) @ own["values"].flatten(0, 2)
        pooled = values.view(count, probes, heads, episodes, -1).transpose(2, 3).flatten(3)  # [S R E V]
        said = []
        if self.linear:
            said.append(pooled[:, : self.linear] @ own["linear"] + own["linear_bias"])
        if self.linear < probes:
            hidden = F.gelu(pooled[:, self.linear :] @ own["inner"] + own["inner_bias"])
            said.append(hidden @ own["outer"] + own["outer_bias"])
        return torch.cat(said, 1)

    def probes_with(self, parameter: str) -> slice:
        """Which of the R probes have a parameter."""
        if parameter.startswith("linear"):
            return slice(0, self.linear)
        return slice(self.linear, None) if parameter.startswith(("inner", "outer")) else slice(None)


def whiten(
    streams: Float[Tensor, "S T E W"], seen: Bool[Tensor, "S T"], training: int
) -> Float[Tensor, "S T E W"]:
    """Give the channels of a stream mean 0 at each token and covariance 1 over all of them, in place.

    An affine map that a probe could learn itself: a constant at each token goes into its bias, a map of the
    channels into V. But gradients learn it slowly where what is looked for is little of a stream's variance, as
    it is in a network that has no use for it; a network must not look worse for that.

    Args:
        streams: Activations; 0 where a stream has no token.
        seen: Which tokens each stream has.
        training: Mean and covariance are those of so many episodes, the first.
    """
    covariance = streams.new_zeros(len(streams), streams.shape[-1], streams.shape[-1])
    for token in streams.unbind(1):  # one after another, for a copy of all may be large
        token -= token[:, :training].mean(1, keepdim=True)
        covariance += token[:, :training].mT @ token[:, :training]
    covariance /= (training * seen.sum(1))[:, None, None]
    variances, axes = torch.linalg.eigh(covariance.double())
    # Directions of less variance than this are rounding.
    variances = variances.clamp(min=1e-7 * variances[:, -1:]).clamp(min=torch.finfo(streams.dtype).tiny)
    maps = (axes * variances.rsqrt()[:, None]).to(streams)
    for token in streams.unbind(1):
        token.copy_(token @ maps)
    return streams


def train_probes(
    streams: Float[Tensor, "S T E W"],
    seen: Bool[Tensor, "S T"],
    targets: Float[Tensor, "S R E D"],
    linear: int,
    heads: int,
    generator: torch.Generator,
    schedule: Schedule | None = None,
) -> Readers:
    """Train R probes on each of S streams, all in one program.

    Args:
        streams: Whitened activations, each stream of its own layer and prefix.
        seen: Which tokens each stream has.
        targets: What the probes are to say, of mean 0 and mean square about 1; entries that a target lacks
            are 0. The last ninth of the episodes tells when to stop.
        linear: How many of the R probes have a linear read-out (the first ones); the others have a perceptron.
        heads: Position attentions of every probe; head h starts at token h if there are as many tokens as
            heads, else all start even.
        generator: Source of randomness: of the first weights and the order of the episodes.
        schedule: How they are trained.

    Returns:
        The probes with the weights that were best on the kept episodes.
    """
    schedule = schedule or Schedule()
    training = streams.shape[2] - max(1, streams.shape[2] // 9)
    probes = _start(streams, targets, linear, heads, generator, schedule.hidden)
    parameters = probes.parameters
    groups = [
        {"params": [value], "factor": _SCORES if name == "scores" else 1.0}
        for name, value in parameters.items()
    ]
    optimizer = torch.optim.Adam(groups, lr=schedule.rate, fused=True)
    best = torch.full(targets.shape[:2], math.inf)
    kept = {name: value.detach().clone() for name, value in parameters.items()}
    every = max(1, schedule.steps // schedule.checks)
    order = torch.empty(0, dtype=torch.long)
    for step in range(schedule.steps):
        if len(order) < min(schedule.batch, training):
            order = torch.randperm(training, generator=generator)
        rows, order = order[: schedule.batch], order[schedule.batch :]
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * group["factor"] * schedule.factor(step)
        said = probes(streams.index_select(2, rows), seen)
        # Each probe's own mean, so that its gradient does not depend on the others.
        loss = (said - targets.index_select(2, rows)).square().mean((2, 3)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            errors = squared_errors(probes, streams[:, :, training:], seen, targets[:, :, training:])
            errors = errors.mean((2, 3))
            better = errors < best
            best = torch.where(better, errors, best)
            for name, value in parameters.items():
                places = better[:, probes.probes_with(name)]
                kept[name][places] = value.detach()[places]
    return Readers(linear, kept)


def squared_errors(
    probes: Readers,
    streams: Float[Tensor, "S T E W"],
    seen: Bool[Tensor, "S T"],
    targets: Float[Tensor, "S R E D"],
) -> Float[Tensor, "S R E D"]:
    """Squared errors of probes; arguments as of `train_probes`."""
    with torch.no_grad():
        parts = [probes(part, seen) for part in streams.split(_EPISODES, 2)]
    return (torch.cat(parts, 2) - targets).square()


def _start(
    streams: Tensor, targets: Tensor, linear: int, heads: int, generator: torch.Generator, hidden: int
) -> Readers:
    count, tokens, _, width = streams.shape
    probes, entries = targets.shape[1], targets.shape[-1]
    deep, per_head = probes - linear, -(-width // heads)
    inner = per_head * heads

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-2])

    # Where every head has a token of its own, it begins there.
    begin = 3.0 * torch.eye(heads) if heads == tokens and heads > 1 else torch.zeros(heads, tokens)
    parameters = {
        "scores": begin.expand(count, probes, -1, -1).clone(),
        "values": normal(count, probes, heads, width, per_head),
    }
    if linear:
        parameters |= {
            "linear": normal(count, linear, inner, entries),
            "linear_bias": torch.zeros(count, linear, 1, entries),
        }
    if deep:
        parameters |= {
            "inner": normal(count, deep, inner, hidden),
            "inner_bias": torch.zeros(count, deep, 1, hidden),
            "outer": normal(count, deep, hidden, entries),
            "outer_bias": torch.zeros(count, deep, 1, entries),
        }
    return Readers(linear, {name: value.requires_grad_() for name, value in parameters.items()})
