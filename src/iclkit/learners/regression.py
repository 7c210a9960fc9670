"""What every regression learner offers: pairs in, a prediction after every prefix, for a batch of episodes."""

from __future__ import annotations

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from iclkit.ambient import neutral
from iclkit.arrays import as_tensor
from iclkit.errors import UserError

# Rows of the batch that the general way to answer queries builds at a time.
_ROWS = 16_384


class RegressionLearner(ABC):
    """A map from pairs (x_1, y_1), ..., (x_n-1, y_n-1) and an input x_n to a prediction of y_n.

    What a learner says of y_n depends on the pairs before n and on x_n alone.
    """

    dim: int | None = None
    """The dimension of the inputs that it takes; None for any."""
    limit: int | None = None
    """The longest context that it takes; None for any."""
    device: torch.device | None = None
    """Where its arguments must be; None for anywhere."""

    def _around(self) -> AbstractContextManager[None]:
        """What predictions are made in: no autocast, default type or device of the caller."""
        return neutral()

    @abstractmethod
    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """`predict`, after the arguments have been checked."""

    def predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Predict every y_n from x_n and the pairs before n, all n in one call.

        Args:
            x: Inputs, N ≥ 1: a tensor, or anything that `iclkit.arrays.as_tensor` reads.
            y: Targets, likewise; the last is not looked at.

        Returns:
            Predictions, a tensor.

        Raises:
            UserError: Tensors of another shape, type or device, with NaN or infinite values, or too long.
        """
        with self._around():
            x, y = as_pairs(x, y, device=self.device)
            check_pairs(x, y, self.dim, self.limit)
            return self._predict(x, y)

    def predict_queries(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        prefixes: Sequence[int] | None = None,
    ) -> Float[Tensor, "B P K"]:
        """Predict at K queries after each of P prefixes of each episode.

        Args:
            x: Inputs of the episodes; N may be 0.
            y: Their targets.
            queries: Inputs to predict at; those of [b, p] follow prefix p of episode b.
            prefixes: Context lengths P, each in 0..N; if None 0, 1, ..., up to as many as queries has.

        Returns:
            Predictions.

        Raises:
            UserError: As `predict`; or prefixes that are not in 0..N, or not as many as the queries.
        """
        with self._around():
            x, y, queries = as_pairs(x, y, queries, device=self.device)
            chosen = check_queries(x, y, queries, prefixes, self.dim, self.limit)
            return self._predict_queries(x, y, queries, chosen)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        """By the contract alone: each query takes the place of the point that follows its prefix."""
        batch, lengths, count, _ = queries.shape
        points = max(prefixes) + 1
        # One more point, so that the longest prefix has a place for its query.
        pad = max(0, points - x.shape[1])
        x = torch.nn.functional.pad(x, (0, 0, 0, pad))[:, :points]
        y = torch.nn.functional.pad(y, (0, pad))[:, :points]
        places = torch.tensor(prefixes, device=x.device)
        here = torch.arange(points, device=x.device) == places[:, None]  # [P, N]
        answers = []
        rows = max(1, _ROWS // max(1, lengths * count))
        for start in range(0, batch, rows):  # in parts that fit into memory
            part = slice(start, start + rows)
            inputs = torch.where(here[None, :, None, :, None], queries[part, :, :, None], x[part, None, None])
            targets = y[part, None, None].expand(-1, lengths, count, -1)
            outputs = self._predict(inputs.flatten(0, 2), targets.reshape(-1, points))
            outputs = outputs.view(*targets.shape)
            answers.append(
                outputs.gather(-1, places[None, :, None, None].expand(*targets.shape[:3], 1))[..., 0]
            )
        return torch.cat(answers)


class LinearLearner(RegressionLearner):
    """A learner whose prediction is linear in the input: ŷ_n = w(x_<n, y_<n)ᵀ x_n."""

    @abstractmethod
    def _weights(self, x: Tensor, y: Tensor, prefixes: list[int]) -> Float[Tensor, "B P d"]:
        """`weights`, after the arguments have been checked."""

    def weights(
        self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"], prefixes: Sequence[int] | None = None
    ) -> Float[Tensor, "B P d"]:
        """The weights after each of P prefixes; if None is given 0, 1, ..., N - 1, those that predict each y_n.

        Raises:
            UserError: As `predict_queries`.
        """
        with self._around():
            x, y = as_pairs(x, y, device=self.device)
            check_pairs(x, y, self.dim, self.limit)
            chosen = range(x.shape[1]) if prefixes is None else prefixes
            return self._weights(x, y, check_prefixes(chosen, x.shape[1], self.limit))

    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return (self._weights(x, y, list(range(x.shape[1]))) * x).sum(-1)

    def _predict_queries(self, x: Tensor, y: Tensor, queries: Tensor, prefixes: list[int]) -> Tensor:
        return torch.einsum("bpd,bpkd->bpk", self._weights(x, y, prefixes), queries)


class ProbabilisticLearner(RegressionLearner):
    """A learner that knows how sure it is: it gives a distribution of every y_n."""

    @abstractmethod
    def _distribution(self, x: Tensor, y: Tensor) -> torch.distributions.Distribution:
        """`distribution`, after the arguments have been checked."""

    def distribution(
        self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]
    ) -> torch.distributions.Distribution:
        """The distribution of every y_n given x_n and the pairs before n, noise included; batch shape [B, N].

        Raises:
            UserError: As `predict`.
        """
        with self._around():
            x, y = as_pairs(x, y, device=self.device)
            check_pairs(x, y, self.dim, self.limit)
            return self._distribution(x, y)

    def log_prob(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """log p(y_n | x_n, pairs before n), in nats."""
        with self._around():
            x, y = as_pairs(x, y, device=self.device)
            return self.distribution(x, y).log_prob(y)


class CallableLearner(RegressionLearner):
    """A user's own function (x [B, N, d], y [B, N]) -> [B, N] as a learner.

    Args:
        function: It must look at no pair from n on to predict y_n.
        name: What it is called in tables.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str | None = None) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def _around(self) -> AbstractContextManager[None]:
        # A user's function may need what the user has set, as a default device.
        return nullcontext()

    @property
    def device(self) -> torch.device | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the parameters are if it is a module, or the method of one."""
        owner = getattr(self.function, "__self__", self.function)
        parameter = next(owner.parameters(), None) if isinstance(owner, torch.nn.Module) else None
        return None if parameter is None else parameter.device

    def _predict(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        found = self.function(x, y)
        if not isinstance(found, Tensor) or found.shape != y.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"{self.name} must return predictions of shape {list(y.shape)}, given {shape}")
        return found


def as_learner(value: Any) -> RegressionLearner:
    """A learner as it is; an object with `predict(x, y)` or a plain function of (x, y) as one.

    Raises:
        UserError: Something else.
    """
    if isinstance(value, RegressionLearner):
        return value
    _check_kind(value)
    if callable(getattr(value, "predict", None)):
        return CallableLearner(value.predict, type(value).__name__)
    return CallableLearner(cast("Callable[[Tensor, Tensor], Tensor]", value))


def _check_kind(value: Any) -> None:
    """Refuse what cannot be asked for predictions of a batch of episodes."""
    accepted = "a learner is an object with predict(x, y) or a function of (x, y)"
    if isinstance(value, type):
        raise UserError(
            f"{accepted}, given the class {value.__name__}; give an object of it: {value.__name__}()"
        )
    if isinstance(value, str):
        raise UserError(f"{accepted}, given the text {value!r}; iclkit.compare and iclkit.identify read names")
    predict = getattr(value, "predict", None)
    if not (callable(predict) or callable(value)):
        raise UserError(f"{accepted}, given {type(value).__name__}")
    if callable(getattr(value, "fit", None)):
        raise UserError(
            f"{accepted}, which learns from the pairs of each context; {type(value).__name__} is fitted to one "
            "table. Give a textbook learner like Ridge(0.1) of iclkit.learners, or a function that fits it "
            "before every prediction"
        )
    asked = predict if callable(predict) else value
    if isinstance(asked, torch.nn.Module):
        return  # what it takes stands in its forward method, which may take anything
    try:
        inspect.signature(asked).bind(None, None)
    except TypeError:
        raise UserError(f"{accepted}, given {_named(value)}, which does not take two arguments") from None
    except ValueError:
        pass  # built-in functions that have no signature


def _named(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def as_pairs(x: Any, y: Any, queries: Any = None, *, device: torch.device | None = None) -> tuple[Any, ...]:
    """Arrays, DataFrames and lists as tensors of one type, on the device of the learner; tensors as they are.

    Args:
        x: Inputs.
        y: Targets.
        queries: Further inputs; left out of the result if None.
        device: Where the learner is; None for the CPU.

    Returns:
        What was given, in this order.

    Raises:
        UserError: What holds no numbers.
    """
    given = {"x": x, "y": y} | ({} if queries is None else {"queries": queries})
    if all(isinstance(value, Tensor) for value in given.values()):
        return tuple(given.values())
    read = [as_tensor(value, name, allow="anything", device=device) for name, value in given.items()]
    wide = any(value.dtype == torch.float64 for value in read)
    return tuple(value.to(torch.float64 if wide else torch.float32) for value in read)


def check_pairs(x: Any, y: Any, dim: int | None = None, limit: int | None = None, least: int = 1) -> None:
    """Refuse what is no batch of regression episodes.

    Args:
        x: To be [B, N, d].
        y: To be [B, N].
        dim: The d that is taken; None for any.
        limit: The longest context that is taken, N - 1; None for any.
        least: The smallest N that is taken.

    Raises:
        UserError: Says which argument, what it is, and what is accepted.
    """
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise UserError(f"{name} must be a tensor, given {type(value).__name__}")
        # Half precision has too few digits for sums of squares, and torch cannot solve in it.
        if value.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"{name} must be a floating point tensor, float32 or float64, given {value.dtype}; "
                f"convert it with {name}.float()"
            )
    wanted = "d" if dim is None else dim
    if x.ndim != 3 or x.shape[-1] < 1 or (dim is not None and x.shape[-1] != dim):
        raise UserError(
            f"x must have shape [episodes, points, {wanted}], given {list(x.shape)}; "
            "add an axis for a single episode: x[None]"
        )
    if y.shape != x.shape[:2]:
        raise UserError(
            f"y must have shape {list(x.shape[:2])}, one target for each of x, given {list(y.shape)}"
        )
    if x.dtype != y.dtype:
        raise UserError(f"x and y must have one type, given {x.dtype} and {y.dtype}")
    if x.device != y.device:
        raise UserError(f"x and y must be on one device, given {x.device} and {y.device}")
    if x.is_meta:
        raise UserError(
            "x and y must hold numbers, given tensors on the meta device, which holds shapes alone; "
            "load them, and what predicts, on another: cpu"
        )
    if len(x) < 1:
        raise UserError(f"x must hold at least one episode, given {list(x.shape)}")
    if x.shape[1] < least:
        raise UserError(f"x must hold at least {least} points in each episode, given {list(x.shape)}")
    if limit is not None and x.shape[1] > limit + 1:
        raise UserError(
            f"x of shape {list(x.shape)} gives contexts of up to {x.shape[1] - 1} pairs, "
            f"at most {limit} are taken; give fewer points"
        )
    for name, value in (("x", x), ("y", y)):
        if not value.isfinite().all():
            raise UserError(
                f"{name} of shape {list(value.shape)} holds NaN or infinite values; remove those episodes"
            )


def check_prefixes(prefixes: Sequence[int], points: int, limit: int | None = None) -> list[int]:
    """Context lengths as a list.

    Raises:
        UserError: None at all, or one that is no whole number, not in 0..points, or beyond the limit.
    """
    try:
        chosen = [operator.index(n) for n in prefixes]
    except TypeError:
        raise UserError(f"prefixes must be whole numbers, given {prefixes}") from None
    if not chosen:
        raise UserError("prefixes must name at least one context length, given none")
    highest = points if limit is None else min(points, limit)
    outside = [n for n in chosen if not 0 <= n <= highest]
    if outside:
        why = "the pairs that there are" if highest == points else f"contexts of up to {limit} pairs are taken"
        given = str(outside) if len(outside) < 6 else f"{outside[0]} to {outside[-1]}"
        raise UserError(f"prefixes must lie in 0..{highest}, {why}, given {given}")
    return chosen


def check_queries(
    x: Tensor,
    y: Tensor,
    queries: Tensor,
    prefixes: Sequence[int] | None,
    dim: int | None = None,
    limit: int | None = None,
) -> list[int]:
    """The prefixes as a list, after checking all arguments of `predict_queries`; raises as that."""
    check_pairs(x, y, dim, None, least=0)
    if not isinstance(queries, Tensor) or queries.ndim != 4:
        given = list(queries.shape) if isinstance(queries, Tensor) else type(queries).__name__
        raise UserError(f"queries must be a tensor of shape [episodes, prefixes, queries, dim], given {given}")
    if not queries.shape[2]:
        raise UserError(f"queries must hold at least one after each prefix, given {list(queries.shape)}")
    if queries.shape[0] != x.shape[0] or queries.shape[-1] != x.shape[-1]:
        raise UserError(f"queries of shape {list(queries.shape)} do not go with x of shape {list(x.shape)}")
    if queries.dtype != x.dtype or queries.device != x.device:
        raise UserError(
            f"queries must be {x.dtype} on {x.device} as x is, given {queries.dtype} on {queries.device}"
        )
    if not queries.isfinite().all():
        raise UserError(f"queries of shape {list(queries.shape)} hold NaN or infinite values")
    chosen = check_prefixes(range(queries.shape[1]) if prefixes is None else prefixes, x.shape[1], limit)
    if len(chosen) != queries.shape[1]:
        raise UserError(
            f"{len(chosen)} prefixes need queries of shape [episodes, {len(chosen)}, ...], "
            f"given {list(queries.shape)}"
        )
    return chosen
