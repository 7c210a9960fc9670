"""A user's energy, checked once where it comes in; what comes in is called many thousand times.

A forgotten axis is no error to torch: the sum over all chains broadcasts against one energy for each, and
Metropolis' rule then moves all chains or none. So a few points are evaluated together and again in other
company, and the answers compared.

Shape letters: B contexts (any leading axes), M probes, d coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.errors import UserError

T = TypeVar("T")
Energy = Callable[[Float[Tensor, "*B C d"]], Float[Tensor, "*B C"]]


class OwnEnergy:
    """The energies of this package, which its tests check and no border does.

    They are classes and not functions inside functions, for landscapes are pickled and copied.
    """

    def made_of(self) -> Energy | None:
        """The energy that this one calls, if it may be a user's."""
        return None


def evaluating(energy: Energy, *, grad: bool | None = None) -> AbstractContextManager[Any]:
    """The block in which an energy is evaluated, so that what comes of it may be kept and differentiated later.

    Our own are evaluated as in a fresh process. A user's sees the device and number type that he has set, for
    the tensors that it makes; only inference mode, whose tensors are good for nothing later, is left.

    Args:
        energy: What will be evaluated.
        grad: Whether gradients are recorded; None leaves that to the caller.
    """
    inner: Energy | None = energy
    while isinstance(inner, OwnEnergy):
        inner = inner.made_of()
    if inner is None:
        return neutral(grad=grad)
    return nullcontext() if grad is None else _left(grad)


@contextmanager
def _left(grad: bool) -> Iterator[None]:
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


def evaluated(run: Callable[..., T]) -> Callable[..., T]:
    """A method whose first argument is an energy, in the block of `evaluating`."""

    @wraps(run)
    def inside(self: Any, energy: Energy, *arguments: Any, **options: Any) -> T:
        with evaluating(energy, grad=False):
            return run(self, energy, *arguments, **options)

    return inside


def check_energy(
    energy: Any,
    points: Float[Tensor, "*B C d"],
    scale: Float[Tensor, "*B d d"] | None = None,
    random: bool = False,
) -> None:
    """Refuse what is no energy: one floating-point number for each point, whatever points are beside it.

    Args:
        energy: What a user gave.
        points: Where it will be evaluated; the first of each context is the centre of the probes.
        scale: How far it will be looked at: a matrix for each context. None for about one.
        random: Accept answers that change from call to call, as those of a mini-batch do.

    Raises:
        UserError: Says what came back, and what should.
    """
    if isinstance(energy, OwnEnergy):
        return
    if not callable(energy):
        raise UserError(
            f"an energy is a function from points to one number each, given {type(energy).__name__}"
        )
    with _left(True):
        centre = points[..., :1, :].detach().clone()
        probes = centre + _offsets(centre, scale)
        try:
            values: Any = energy(probes)
        except Exception:
            # Perhaps it lives on a part of the space alone, and the chains will stay there.
            probes = centre.expand(probes.shape).clone()
            values = _ask(energy, probes)
        check_values(values, probes)
        again, company, expected = _ask(energy, probes), *_in_other_company(probes, values)
        check_values(again, probes)
        if not _equal(again, values):
            if random:
                return
            raise UserError(
                "the energy gives other values when asked again for the same points; it must be a function of "
                "them alone: no dropout (call eval() on its network) and no draws of its own"
            )
        found = _ask(energy, company)
        check_values(found, company)
    if not _equal(found, expected):
        raise UserError(
            "the energy of a point changes with the points beside it; it must be a function of each point "
            "alone: sum over the last axis only, as x.square().sum(-1) does, and use no statistics of the batch"
        )


def check_values(value: Any, points: Float[Tensor, "*B C d"]) -> None:
    """Refuse energies of another kind or shape than one number for each point.

    Raises:
        UserError: Says what was given and what is accepted.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"an energy must return a tensor, given {type(value).__name__}; compute it with torch")
    wanted, given = list(points.shape[:-1]), list(value.shape)
    if given != wanted:
        raise UserError(
            f"an energy must return one number for each point: {wanted} for points {list(points.shape)}, "
            f"given {given}; {_advice(given, wanted)}"
        )
    if not value.is_floating_point():
        raise UserError(f"an energy must return floating-point numbers, given {value.dtype}")
    if value.device != points.device:
        raise UserError(
            f"an energy must stay on the device of its points, {points.device}, given {value.device}"
        )


def without_gradient() -> UserError:
    """The error for an energy that torch cannot differentiate."""
    return UserError(
        "the energy has no gradient with respect to the points; compute it from them by torch's operations, "
        "not by NumPy, and neither detached nor under no_grad"
    )


def _advice(given: Sequence[int], wanted: Sequence[int]) -> str:
    if list(given) == [*wanted, 1]:
        return "drop the last axis: energy.squeeze(-1)"
    return "sum over the last axis alone, as x.square().sum(-1) does"


def _ask(energy: Any, points: Tensor) -> Any:
    try:
        return energy(points)
    except UserError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"the energy fails on points of shape {list(points.shape)}, {points.dtype}: "
            f"{type(error).__name__}: {words[:200]}"
        ) from error


def _offsets(centre: Float[Tensor, "*B 1 d"], scale: Tensor | None) -> Float[Tensor, "*B M d"]:
    """From the centre to the probes; fixed, none of them alike."""
    # As many probes as no other axis has entries, so that no other shape can pass for the right one.
    count = next(m for m in range(3, 3 + centre.ndim + 1) if m not in centre.shape)
    place = torch.arange(count, dtype=centre.dtype, device=centre.device)[:, None]
    axis = torch.arange(centre.shape[-1], dtype=centre.dtype, device=centre.device)
    unit = 0.5 * torch.sin(1 + 2.3 * place + 1.7 * axis)
    if scale is not None:
        return unit @ scale.to(centre).mT
    return unit * (1 + 0.01 * centre.abs())


def _in_other_company(
    probes: Float[Tensor, "*B M d"], values: Float[Tensor, "*B M"]
) -> tuple[Float[Tensor, "*B L d"], Float[Tensor, "*B L"]]:
    """All probes but one, another one in each context, in another order; and their energies."""
    count = probes.shape[-2]
    contexts = torch.arange(values[..., 0].numel(), device=probes.device).view(values.shape[:-1])
    order = (contexts[..., None] + 1 + torch.arange(count - 1, device=probes.device)) % count
    company = probes.gather(-2, order[..., None].expand(*order.shape, probes.shape[-1]))
    return company, values.gather(-1, order)


def _equal(found: Tensor, expected: Tensor) -> bool:
    """Up to rounding, which may differ with the number of points."""
    rounding = torch.finfo(expected.dtype).eps ** 0.5
    finite = expected.detach().abs().nan_to_num(posinf=0.0)
    margin = rounding + max(1e-3, rounding) * float(finite.max())
    return torch.allclose(found.detach(), expected.detach(), rtol=0, atol=margin, equal_nan=True)
