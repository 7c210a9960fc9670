"""How wrong a compiled network is, against what its program stands for, on episodes that the program is for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.compiler.interpreter import Interpreted
from iclkit.compiler.program import Program
from iclkit.errors import UserError
from iclkit.regression import InContextRegressor

EPISODES = 6
# Shares of the size of predictions: what `compile` refuses to exceed; with a scale of one's own, whose error is
# asked for, predictions must at least be of the right size.
TOLERANCE, LOOSE = 1e-3, 1.0
_NOISE, _LONGER = 0.1, 1.5


@dataclass(frozen=True)
class Accuracy:
    """Errors of a compiled network on episodes of noisy linear functions of normal inputs, at every prefix.

    Args:
        error: The largest against the interpreter.
        drift: The largest of the interpreter against the textbook learner that the program stands for; 0 if it
            names none.
        size: Root mean square of what is right.
        longest: The largest ‖x‖² of the episodes.
        targets: The largest |y|.
        episodes: How many.
    """

    error: float
    drift: float
    size: float
    longest: float
    targets: float
    episodes: int

    @property
    def share(self) -> float:
        """The larger error as a share of the size of predictions."""
        worst = max(self.error, self.drift) if math.isfinite(self.error + self.drift) else math.inf
        return worst / (self.size or 1.0)

    def __str__(self) -> str:
        return (
            f"{self.share:.1e} of the size of predictions, for ‖x‖² up to {self.longest:.3g} and |y| up to "
            f"{self.targets:.3g}"
        )


def accuracy(
    program: Program, network: InContextRegressor, episodes: int = EPISODES, seed: int = 0
) -> Accuracy:
    """Run a compiled network and its program on the same episodes.

    Inputs are normal; in every second episode half as long again or, where the program says for which ‖x‖² it
    is right (`Program.longest`), one of them as long as that.

    Args:
        program: The program.
        network: What `compile` made of it.
        episodes: How many.
        seed: Their seed.
    """
    x, y = _episodes(program, episodes, seed)
    right = Interpreted(program).predict(x, y)
    like = next(network.parameters())
    with torch.no_grad():
        found = network(x.to(like), y.to(like))[..., 0].to(right)
    known = right if program.learner is None else program.learner.predict(x, y)
    return Accuracy(
        error=float((found - right).abs().max()),
        drift=float((right - known).abs().max()),
        size=float(known.square().mean().sqrt()),
        longest=float(x.square().sum(-1).max()),
        targets=float(y.abs().max()),
        episodes=episodes,
    )


def check_accuracy(program: Program, network: InContextRegressor, target: str, tolerance: float) -> None:
    """Refuse a network that is not what its program stands for.

    Raises:
        UserError: With the error, what is accepted and what to do.
    """
    found = accuracy(program, network)
    if found.share <= tolerance:
        return
    if found.drift > found.error or target == "exact":
        cause = "float64 has too few digits for its constants"
        advice = "give constants nearer to 1, like a larger penalty or a smaller rate"
    else:
        cause = "products of GELU units cannot follow its numbers"
        advice = "give constants nearer to 1 (a larger penalty, a smaller rate) or target 'exact'"
    raise UserError(
        f"{program.name}: target {target!r} would err by {found.share:.2g} of the size of predictions (‖x‖² up "
        f"to {found.longest:.3g}); accepted is {tolerance:g}: {cause}; {advice}"
    )


def _episodes(
    program: Program, episodes: int, seed: int
) -> tuple[Float[Tensor, "B N d"], Float[Tensor, "B N"]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    points = program.points + 1
    x, w = normal(episodes, points, program.dim), normal(episodes, program.dim, 1)
    if program.longest is None:
        x[1::2] *= _LONGER
    else:
        middle = x[1::2, points // 2]
        middle *= math.sqrt(program.longest) / middle.norm(dim=-1, keepdim=True)
    return x, (x @ w)[..., 0] + _NOISE * normal(episodes, points)
