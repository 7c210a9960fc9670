"""The integral of exp(-E) in any dimension, in parts: one for each mode, and one for what no mode explains.

A mixture sum_k a_k q_k of densities that can be drawn from, one around each mode that a search found and wide
ones beside them, divides the integral without remainder:
    exp(-E) = sum_k exp(-E) r_k,    r_k = a_k q_k / sum_j a_j q_j.
Each part is integrated by annealed importance sampling that starts from its own q_k, with steps of its own
shape and size. Where q_k resembles exp(-E) r_k that takes a few stages, however narrow the mode is; the wide
parts find what the modes do not explain (shells, curved ridges, modes that the search missed).

That is done twice. The particles of the first time, weighted, show where the mass is; a mixture is fitted to
them and divides the integral anew, into parts that its components resemble more. Given the mixture, the second
time is unbiased whatever the first time found, and its parts are independent: their squared errors add.

Shape letters: B contexts, K parts, C particles of a part, d coordinates.
Source: Hesterberg (1995), "Weighted average importance sampling and defensive mixture distributions", for the
mixture; Neal (2001) for the parts (see `annealing.py`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.energy.annealing import Annealed, anneal
from iclkit.energy.box import to_standard
from iclkit.energy.chains import Energy
from iclkit.energy.mixture_fit import fit_mixture
from iclkit.energy.modes import Modes, find_modes
from iclkit.energy.student import Student

_WIDE = 0.2, 0.05  # shares of the wide parts in the mixture, at first and once it is fitted
_CORE = 8.0  # scales from the centre within which the mixture is fitted: heavy tails have no covariance
_DEGREES = 8.0  # tails of the parts: heavier than a Gaussian's, which a mode's may be too
_UNLIKELY = 15.0  # nats below the heaviest mode at which a mode is left to the wide parts
_LEAST = 1e-3  # share below which a fitted component is left out
_PARTICLES = 512  # of a part, the second time
_STRAIN = 0.06, 0.02  # the first time only looks


def integrate_parts(
    energy: Energy,
    centre: Float[Tensor, "B d"],
    scale: Float[Tensor, "B d d"],
    anchors: Float[Tensor, "B n d"] | None,
    decay: Float[Tensor, " B"],
    generator: torch.Generator | None = None,
) -> Annealed:
    """Integrate exp(-E) for each of B energies at once.

    Args:
        energy: [B, M, d] -> [B, M].
        centre: Where the mass is.
        scale: A matrix A such that most mass lies where |A^-1 (x - centre)| < 4.
        anchors: Points at which narrow modes may sit.
        decay: Exponent of the tails of the mass (see `Tails`), infinite for light ones.
        generator: Source of randomness.
    """
    batch, dim = centre.shape

    def standard(z: Float[Tensor, "B M d"]) -> Float[Tensor, "B M"]:
        return energy(centre[:, None] + z @ scale.mT)

    if anchors is None:
        anchors = centre.new_zeros(batch, 0, dim)
    at = to_standard(anchors, centre, scale).to(centre)
    modes = find_modes(standard, at, generator)
    wide = _wide(decay.to(centre), dim)
    keep, log_share = _likely(modes)
    where, factor = modes.at[:, keep], modes.factor[:, keep]
    first = _anneal_parts(
        standard, wide, where, factor, log_share, _WIDE[0], _PARTICLES // 2, _STRAIN[0], generator
    )
    particles = first.particles.flatten(1, 2)
    core = particles.norm(dim=-1) < _CORE
    log_weights = first.log_weights.flatten(1)
    log_weights = log_weights.where(core & log_weights.isfinite(), -torch.finfo(log_weights.dtype).max / 4)
    weights = log_weights.softmax(1)
    where, factor, share = fit_mixture(particles, weights, where, factor, log_share.exp(), generator)
    share = share.where(share > _LEAST, 0)
    keep = (share > 0).any(0)
    log_share = (share / share.sum(1, keepdim=True)).log()[:, keep]
    second = _anneal_parts(
        standard, wide, where[:, keep], factor[:, keep], log_share, _WIDE[1], _PARTICLES, _STRAIN[1], generator
    )
    return Annealed(
        centre[:, None, None] + second.particles @ scale.mT[:, None],
        second.log_weights + torch.linalg.slogdet(scale).logabsdet[:, None, None],
        modes.evaluations + first.evaluations + second.evaluations,
    )


def _anneal_parts(
    energy: Energy,
    wide: Student,
    at: Float[Tensor, "B K d"],
    factor: Float[Tensor, "B K d d"],
    log_share: Float[Tensor, "B K"],
    wide_share: float,
    particles: int,
    strain: float,
    generator: torch.Generator | None,
) -> Annealed:
    """Anneal the parts of the wide densities and of the components at `at`, whose shares sum to one."""
    kinds = wide.degrees.shape[1]
    of_wide = torch.full_like(wide.degrees, math.log(wide_share / kinds))
    shares = torch.cat([of_wide, log_share + math.log(1 - wide_share)], 1)
    parts = Student(
        torch.cat([wide.centre, at], 1),
        torch.cat([wide.factor, factor], 1),
        torch.cat([wide.degrees, torch.full_like(log_share, _DEGREES)], 1),
        torch.cat([wide.product, torch.zeros_like(log_share, dtype=torch.bool)], 1),
    )
    count = shares.shape[1]
    particles = max(particles // 4, min(particles, 8 * particles // count))

    def part(first: int, last: int) -> Annealed:
        some = Student(
            *(value[:, first:last] for value in (parts.centre, parts.factor, parts.degrees, parts.product))
        )
        there = shares[:, first:last]

        def of_part(z: Float[Tensor, "B K C d"]) -> Float[Tensor, "B K C"]:
            flat = z.flatten(1, 2)
            log_each = parts.log_prob(flat[:, None].expand(-1, count, -1, -1)) + shares[..., None]
            log_all = log_each.logsumexp(1).view(z.shape[:-1])
            log_own = some.log_prob(z) + there[..., None]
            values = energy(flat).view(z.shape[:-1]) + log_all - log_own
            # A part that the context does not have is its own start: it takes one stage.
            return torch.where(there[..., None] > -math.inf, values, -some.log_prob(z))

        return anneal(of_part, some, generator, particles, strain)

    found = [part(0, kinds)] + ([part(kinds, count)] if count > kinds else [])
    log_weights = torch.cat([each.log_weights for each in found], 1)
    return Annealed(
        torch.cat([each.particles for each in found], 1),
        log_weights.masked_fill(shares[..., None] == -math.inf, -math.inf),
        sum(each.evaluations for each in found),
    )


def _wide(decay: Float[Tensor, " B"], dim: int) -> Student:
    """Densities as wide as the scale; for heavy tails one that has them on all sides and one along axes."""
    batch, heavy = len(decay), decay.isfinite()
    kinds = 2 if bool(heavy.any()) else 1
    degrees = torch.where(heavy, (0.8 * decay).clamp(0.3, _DEGREES), _DEGREES)
    return Student(
        decay.new_zeros(batch, kinds, dim),
        torch.eye(dim).to(decay).expand(batch, kinds, dim, dim),
        degrees[:, None].expand(-1, kinds),
        torch.tensor([False, True], device=decay.device)[:kinds].expand(batch, -1),
    )


def _likely(modes: Modes) -> tuple[Tensor, Float[Tensor, "B K"]]:
    """Which modes some context has, and the log shares of these in each."""
    likely = modes.log_mass >= modes.log_mass.amax(1, keepdim=True) - _UNLIKELY
    likely &= modes.log_mass > -math.inf
    keep = likely.any(0)
    log_share = modes.log_mass.masked_fill(~likely, -math.inf).log_softmax(1)[:, keep]
    return keep, log_share.masked_fill(log_share.isnan(), -math.inf)
