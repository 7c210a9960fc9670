"""log Z of densities that are hard to integrate and whose constant is known, and which energies are refused.

    python -m benchmarks.hard_densities                  # five suites of 60, seeds 0 to 4
    python -m benchmarks.hard_densities --seeds 7 --dims 4 5 6 --families shell ridge --each

A suite has ten families in one to six dimensions, with parameters drawn from its seed: narrow modes on a broad
density, two and three modes apart, several narrow modes at anchors, ridges (straight and curved), shells,
Laplace, quartic and Student densities, each moved to a random centre and scale. All lie where `EnergyLandscape`
asks: modes at anchors or within four scales. Beside it 30 mixtures of narrow modes apart in 5 and 10
dimensions, and energies without a constant, which must be refused.

Coverage is the share with |difference| <= 2 error + 1e-3 and error <= 0.3.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from iclkit.energy.landscape import EnergyLandscape
from iclkit.errors import UserError

Shape = tuple[Callable[[Tensor], Tensor], float, Tensor | None]  # energy of z, its log Z, anchors in z
REACH = 3.5


@dataclass(frozen=True)
class Hard:
    """A landscape and what is known of it; log_z is None if exp(-E) has no finite integral."""

    family: str
    dim: int
    landscape: EnergyLandscape
    log_z: float | None


class Draw:
    """Random parameters, all from one generator."""

    def __init__(self, seed: int, *labels: int) -> None:
        # One stream for each density, so that leaving one out changes no other.
        number = seed
        for label in labels:
            number = number * 101 + label
        self.generator = torch.Generator().manual_seed(number)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator, dtype=torch.float64))

    def log_between(self, low: float, high: float) -> float:
        return math.exp(self.between(math.log(low), math.log(high)))

    def one_of(self, options: Sequence) -> ...:
        return options[int(torch.randint(len(options), (1,), generator=self.generator))]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def within(self, dim: int, reach: float = REACH) -> Tensor:
        """A point of the ball of that radius, uniform."""
        direction = torch.nn.functional.normalize(self.normal(dim), dim=0)
        return direction * reach * self.between(0, 1) ** (1 / dim)

    def rotation(self, dim: int) -> Tensor:
        return torch.linalg.qr(self.normal(dim, dim)).Q


def mixture(means: Tensor, widths: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
    """-log of a mixture of round Gaussians."""
    dim = means.shape[1]
    constant = weights.log() - dim * (widths.log() + 0.5 * math.log(2 * math.pi))

    def energy(z: Tensor) -> Tensor:
        squares = ((z[..., None, :] - means.to(z)) / widths.to(z)[:, None]).square().sum(-1)
        return -(constant.to(z) - 0.5 * squares).logsumexp(-1)

    return energy


def draws(draw: Draw, count: int, means: Tensor, widths: Tensor, weights: Tensor) -> Tensor:
    """Draws from such a mixture: a context."""
    which = torch.multinomial(weights, count, replacement=True, generator=draw.generator)
    return means[which] + widths[which, None] * draw.normal(count, means.shape[1])


def log_sphere(dim: int) -> float:
    """Log area of the unit sphere."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def narrow_mode(dim: int, draw: Draw) -> Shape:
    """A narrow mode at an anchor, on a broad density: the narrow one holds 20 to 80% of the mass."""
    means = torch.stack([draw.within(dim, 0.5), draw.within(dim)])
    widths = torch.tensor([draw.between(0.6, 1.1), draw.log_between(0.02, 0.3)], dtype=torch.float64)
    share = draw.between(0.2, 0.8)
    weights = torch.tensor([1 - share, share], dtype=torch.float64)
    anchors = means[1:] if draw.one_of([True, False]) else draws(draw, 24, means, widths, weights)
    return mixture(means, widths, weights), 0.0, anchors


def modes_at_anchors(dim: int, draw: Draw) -> Shape:
    """Three narrow modes on a broad density, with anchors near them."""
    means = torch.stack([draw.within(dim, 0.5), *(draw.within(dim) for _ in range(3))])
    widths = torch.tensor([1.0, *(draw.log_between(0.03, 0.3) for _ in range(3))], dtype=torch.float64)
    weights = torch.tensor([draw.between(0.5, 1.5) for _ in range(4)], dtype=torch.float64)
    weights = weights / weights.sum()
    near = means[1:] + 0.5 * widths[1:, None] * draw.normal(3, dim)
    return mixture(means, widths, weights), 0.0, near


def modes_apart(count: int, dim: int, draw: Draw) -> Shape:
    """Modes with nothing between them, within a factor of three as wide; half of the time anchors are known."""
    width = draw.log_between(0.1, 0.4)
    widths = torch.tensor([width * draw.between(0.6, 1.7) for _ in range(count)], dtype=torch.float64)
    means = torch.stack([draw.within(dim) for _ in range(count)])
    weights = torch.tensor([draw.between(0.3, 1.5) for _ in range(count)], dtype=torch.float64)
    weights = weights / weights.sum()
    anchors = draws(draw, 16, means, widths, weights) if draw.one_of([True, False]) else None
    return mixture(means, widths, weights), 0.0, anchors


def ridge(dim: int, draw: Draw) -> Shape:
    """A Gaussian up to a hundred times as long as wide, or a curved valley."""
    turn, at = draw.rotation(dim), draw.within(dim, 1.5)
    if dim == 1 or draw.one_of([True, False]):
        widths = torch.tensor([draw.log_between(0.01, 1.0) for _ in range(dim)], dtype=torch.float64)
        log_z = float(widths.log().sum()) + 0.5 * dim * math.log(2 * math.pi)
        return lambda z: 0.5 * (((z - at.to(z)) @ turn.to(z)) / widths.to(z)).square().sum(-1), log_z, None
    bend, width, size = draw.between(0.3, 1.0), draw.log_between(0.1, 0.5), draw.between(0.5, 1.0)

    def energy(z: Tensor) -> Tensor:
        y = (z - at.to(z)) @ turn.to(z) / size
        across = (y[..., 1] - bend * (y[..., 0].square() - 1)) / width
        return 0.5 * (y[..., 0].square() + across.square() + y[..., 2:].square().sum(-1))

    return energy, dim * math.log(size) + math.log(width) + 0.5 * dim * math.log(2 * math.pi), None


def shell(dim: int, draw: Draw) -> Shape:
    """All the mass near a sphere."""
    radius, width = draw.between(1.0, 3.0), draw.log_between(0.05, 0.4)
    at = draw.within(dim, 0.5)
    r = torch.linspace(0, radius + 12 * width, 400_001, dtype=torch.float64)[1:]
    inner = (dim - 1) * r.log() - 0.5 * ((r - radius) / width).square()
    log_z = log_sphere(dim) + float(inner.logsumexp(0)) + math.log(float(r[1] - r[0]))
    return lambda z: 0.5 * (((z - at.to(z)).norm(dim=-1) - radius) / width).square(), log_z, None


def laplace(dim: int, draw: Draw) -> Shape:
    """A kink: exp(-|z|_1 / b) or exp(-|z|_2 / b)."""
    width, at = draw.log_between(0.2, 0.8), draw.within(dim, 1.5)
    if draw.one_of([True, False]):
        return lambda z: (z - at.to(z)).abs().sum(-1) / width, dim * math.log(2 * width), None
    width = width / math.sqrt(dim)
    log_z = log_sphere(dim) + math.lgamma(dim) + dim * math.log(width)
    return lambda z: (z - at.to(z)).norm(dim=-1) / width, log_z, None


def quartic(dim: int, draw: Draw) -> Shape:
    """No curvature at the mode: exp(-sum z_i^4 / a^4) or exp(-|z|^4 / a^4)."""
    width, at = draw.log_between(0.2, 2.0), draw.within(dim, 1.0)
    if draw.one_of([True, False]):
        log_z = dim * (math.log(2 * width) + math.lgamma(1.25))
        return lambda z: ((z - at.to(z)) / width).pow(4).sum(-1), log_z, None
    log_z = log_sphere(dim) + dim * math.log(width) + math.lgamma(dim / 4) - math.log(4)
    return lambda z: ((z - at.to(z)) / width).square().sum(-1).square(), log_z, None


def student(dim: int, draw: Draw) -> Shape:
    """Heavy tails, alike in all directions or along the axes; one degree of freedom is a Cauchy density."""
    nu, width, at = draw.one_of([1.0, 1.5, 2.0, 3.0, 5.0]), draw.log_between(0.3, 1.0), draw.within(dim, 1.0)

    def constant(size: int) -> float:
        return 0.5 * size * math.log(nu * math.pi) + math.lgamma(nu / 2) - math.lgamma((nu + size) / 2)

    if draw.one_of([True, False]):
        log_z = constant(dim) + dim * math.log(width)
        return lambda z: (nu + dim) / 2 * (((z - at.to(z)) / width).square().sum(-1) / nu).log1p(), log_z, None
    log_z = dim * (constant(1) + math.log(width))
    return lambda z: (nu + 1) / 2 * (((z - at.to(z)) / width).square() / nu).log1p().sum(-1), log_z, None


FAMILIES: dict[str, Callable[[int, Draw], Shape]] = {
    "narrow mode": narrow_mode,
    "modes at anchors": modes_at_anchors,
    "two modes": lambda dim, draw: modes_apart(2, dim, draw),
    "three modes": lambda dim, draw: modes_apart(3, dim, draw),
    "ridge": ridge,
    "shell": shell,
    "laplace": laplace,
    "quartic": quartic,
    "student": student,
    "student again": student,
}


def half(z: Tensor) -> Tensor:
    return 0.5 * z.square().sum(-1)


def flat_on_a_line(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    turn = draw.rotation(dim)
    return lambda z: half((z @ turn.to(z))[..., 1:])


def flat_on_one_side(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    turn = draw.rotation(dim)
    return lambda z: half(z) * ((z @ turn.to(z))[..., 0] < 0)


def slow(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    power, width = draw.between(0.3, 1.0), draw.between(0.3, 1.0)
    return lambda z: 0.5 * power * dim * (z / width).square().sum(-1).log1p()


def bounded(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    top = draw.between(1, 30)
    return lambda z: top * (half(z) / top).tanh()


def falling(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    rate = draw.between(0.01, 1)
    return lambda z: -rate * z.square().sum(-1)


def linear(dim: int, draw: Draw) -> Callable[[Tensor], Tensor]:
    slope = draw.normal(dim)
    return lambda z: z @ slope.to(z)


IMPROPER: dict[str, Callable[[int, Draw], Callable[[Tensor], Tensor]]] = {
    "flat": lambda dim, draw: lambda z: 0.0 * z.sum(-1),
    "bounded": bounded,
    "falling": falling,
    "linear": linear,
    "flat on one side": flat_on_one_side,
    "flat on a line": flat_on_a_line,
    "falls too slowly": slow,
}


def placed(
    family: str,
    dim: int,
    energy: Callable[[Tensor], Tensor],
    log_z: float | None,
    anchors: Tensor | None,
    draw: Draw,
) -> Hard:
    """The density of x = c + A z, in float32 or float64."""
    size = draw.log_between(0.05, 20)
    stretch = torch.tensor([draw.log_between(0.5, 2) for _ in range(dim)], dtype=torch.float64)
    scale, centre = size * draw.rotation(dim) * stretch, size * draw.normal(dim)
    dtype = draw.one_of([torch.float32, torch.float64])
    inverse = torch.linalg.inv(scale)

    def of_x(x: Tensor) -> Tensor:
        return energy((x - centre.to(x)) @ inverse.mT.to(x))

    if anchors is not None:
        anchors = (centre + anchors @ scale.mT).to(dtype)
    landscape = EnergyLandscape(of_x, dim, None, centre.to(dtype), scale.to(dtype), anchors)
    return Hard(
        family, dim, landscape, None if log_z is None else log_z + float(torch.linalg.slogdet(scale)[1])
    )


def suite(
    seed: int, dims: Sequence[int] = (1, 2, 3, 4, 5, 6), families: Sequence[str] | None = None
) -> Iterator[Hard]:
    """Sixty densities with a known constant."""
    for dim in dims:
        for index, (name, family) in enumerate(FAMILIES.items()):
            if families is None or name in families:
                draw = Draw(seed, dim, index)
                yield placed(name, dim, *family(dim, draw), draw)


def narrow_modes_apart(seed: int, count: int = 15) -> Iterator[Hard]:
    """Thirty mixtures in five and ten dimensions; a third of them without anchors."""
    for dim in (5, 10):
        for index in range(count):
            draw = Draw(seed, 1000 + dim, index)
            modes = draw.one_of([2, 3, 4])
            means = torch.stack([draw.within(dim) for _ in range(modes)])
            widths = torch.full((modes,), draw.log_between(0.05, 0.3), dtype=torch.float64)
            weights = torch.tensor([draw.between(0.3, 1.5) for _ in range(modes)], dtype=torch.float64)
            weights = weights / weights.sum()
            anchors = draws(draw, 16, means, widths, weights) if index % 3 else None
            yield placed("narrow modes apart", dim, mixture(means, widths, weights), 0.0, anchors, draw)


def improper(seed: int, dims: Sequence[int] = (1, 2, 3, 4, 5, 6)) -> Iterator[Hard]:
    """Energies without a constant."""
    for dim in dims:
        for index, (name, family) in enumerate(IMPROPER.items()):
            draw = Draw(seed, 2000 + dim, index)
            yield placed(name, dim, family(dim, draw), None, None, draw)


@dataclass(frozen=True)
class Result:
    """What `normalise` made of a density; difference and error are NaN where it refused."""

    hard: Hard
    difference: float
    error: float
    refusal: str
    seconds: float

    @property
    def covered(self) -> bool:
        return abs(self.difference) <= 2 * self.error + 1e-3 and self.error <= 0.3


def measure(hard: Hard) -> Result:
    """Normalise one density."""
    start = time.perf_counter()
    try:
        hard.landscape.normalise()
        found = hard.landscape.log_partition()  # found once, so this costs nothing
    except UserError as refusal:
        return Result(hard, math.nan, math.nan, str(refusal), time.perf_counter() - start)
    difference = math.nan if hard.log_z is None else float(found.estimate) - hard.log_z
    return Result(hard, difference, float(found.error), "", time.perf_counter() - start)


def line(result: Result) -> str:
    """One density in words."""
    what = f"  {'' if result.covered else 'NOT '}covered: {result.hard.family}, d = {result.hard.dim}: "
    how = f"difference {result.difference:+.2e}, error {result.error:.1e}, {result.seconds:.1f} s"
    return f"{what}{result.refusal or how}"


def summary(title: str, results: Sequence[Result], by: Callable[[Result], str]) -> Table:
    """Coverage and errors, a row for each group."""
    table = Table(title=title)
    for column in (
        "",
        "covered",
        "share",
        "refused",
        "|difference|, median",
        "worst",
        "error, median",
        "seconds",
    ):
        table.add_column(column, justify="left" if not column else "right")
    groups = sorted({by(result) for result in results})
    for group in [*groups, "all"]:
        rows = [result for result in results if group in ("all", by(result))]
        kept = [result for result in rows if not result.refusal] or [
            Result(rows[0].hard, math.nan, math.nan, "", 0.0)
        ]
        differences = torch.tensor([abs(result.difference) for result in kept], dtype=torch.float64)
        errors = torch.tensor([result.error for result in kept], dtype=torch.float64)
        covered = sum(result.covered for result in rows)
        table.add_row(
            group,
            f"{covered} of {len(rows)}",
            f"{covered / len(rows):.0%}",
            str(sum(bool(result.refusal) for result in rows)),
            f"{float(differences.median()):.1e}",
            f"{float(differences.max()):.1e}",
            f"{float(errors.median()):.1e}",
            f"{sum(result.seconds for result in rows) / len(rows):.2f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--each", action="store_true", help="a line for every density")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    results: list[Result] = []
    for seed in options.seeds:
        found = [measure(hard) for hard in suite(seed, options.dims, options.families)]
        results += found
        covered = sum(result.covered for result in found)
        console.print(f"seed {seed}: {covered} of {len(found)} covered ({covered / len(found):.0%})")
        for result in found:
            if options.each or not result.covered:
                console.print(line(result), highlight=False)
    console.print(summary("by family", results, lambda result: result.hard.family))
    console.print(summary("by dimension", results, lambda result: f"d = {result.hard.dim}"))
    if options.families is None:
        apart = [measure(hard) for seed in options.seeds for hard in narrow_modes_apart(seed)]
        console.print(summary("narrow modes apart", apart, lambda result: f"d = {result.hard.dim:2d}"))
        within = sum(abs(result.difference) <= 1.96 * result.error for result in apart)
        console.print(f"within 1.96 standard errors: {within} of {len(apart)} ({within / len(apart):.0%})")
        refused = [measure(hard) for seed in options.seeds for hard in improper(seed, options.dims)]
        accepted = [result for result in refused if not result.refusal]
        console.print(f"energies without a constant: {len(refused) - len(accepted)} of {len(refused)} refused")
        for result in accepted:
            console.print(f"  ACCEPTED: {result.hard.family}, d = {result.hard.dim}")


if __name__ == "__main__":
    main()
