"""What every textbook learner of regression keeps: each registered one runs through this suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iclkit.errors import UserError
from iclkit.learners import (
    REGRESSION_LEARNERS,
    BayesLinear,
    LinearLearner,
    PosteriorMixture,
    ProbabilisticLearner,
    RegressionLearner,
    SparseBayesLinear,
    as_learner,
)

EPISODES, POINTS = 3, 7
# With those that are made of others.
LEARNERS = REGRESSION_LEARNERS | {
    "PosteriorMixture": lambda: PosteriorMixture((BayesLinear(0.5), SparseBayesLinear(1, 0.3)), (2.0, 1.0))
}


@pytest.fixture(params=sorted(LEARNERS))
def learner(request: pytest.FixtureRequest) -> RegressionLearner:
    return LEARNERS[request.param]()


def episodes(
    learner: RegressionLearner, points: int = POINTS, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noisy linear episodes with more points than dimensions; both types hold the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    dim = learner.dim or 4
    x = torch.randn(EPISODES, points, dim, generator=generator)
    weights = torch.randn(EPISODES, dim, generator=generator)
    y = (x * weights[:, None]).sum(-1) + 0.3 * torch.randn(EPISODES, points, generator=generator)
    return x.to(dtype), y.to(dtype)


def some_queries(learner: RegressionLearner, prefixes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EPISODES, prefixes, 2, learner.dim or 4, generator=generator).to(dtype)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal but for rounding in float64, which conditioning may enlarge to some 1e-10."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_is_a_frozen_dataclass_under_its_own_name(learner: RegressionLearner) -> None:
    assert dataclasses.is_dataclass(learner)
    assert type(learner).__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert type(learner).__name__ in LEARNERS
    assert as_learner(learner) is learner


@pytest.mark.usefixtures("untouched_generators")
def test_predicts_every_point_finitely_and_the_same_again(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    found = learner.predict(x, y)
    assert found.shape == y.shape
    assert found.isfinite().all()
    assert torch.equal(found, learner.predict(x, y))


def test_leaves_its_arguments_as_they_are(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    before = x.clone(), y.clone()
    learner.predict(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("place", [0, 2, POINTS - 1])
def test_depends_on_earlier_pairs_and_on_its_own_input_alone(learner: RegressionLearner, place: int) -> None:
    x, y = episodes(learner)
    other_x, other_y = x.clone(), y.clone()
    other_x[:, place + 1 :] *= -30
    other_y[:, place:] = 1e3
    close(learner.predict(other_x, other_y)[:, : place + 1], learner.predict(x, y)[:, : place + 1])


def test_depends_on_earlier_pairs(learner: RegressionLearner) -> None:
    """The reverse of the test above: a learner that ignores its context would pass that one."""
    if type(learner).__name__ == "Zero":
        pytest.skip("predicts 0")
    x, y = episodes(learner)
    first = learner.predict(x, y)[:, 1:]
    assert not torch.allclose(first, learner.predict(x, -y)[:, 1:])


def test_an_episode_alone_and_in_a_batch_are_answered_alike(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    alone = [learner.predict(x[b : b + 1], y[b : b + 1]) for b in range(EPISODES)]
    close(learner.predict(x, y), torch.cat(alone))


def test_keeps_the_type_of_its_arguments(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    wide = learner.predict(x, y)
    narrow = learner.predict(x.float(), y.float())
    assert wide.dtype == torch.float64
    assert narrow.dtype == torch.float32
    # float32 has 7 digits; of those, the square system at n = d takes some.
    close(narrow.double(), wide, 1e-3)
    queries = some_queries(learner, 2)
    assert learner.predict_queries(x.float(), y.float(), queries.float(), [3, 5]).dtype == torch.float32


def test_answers_from_an_empty_context(learner: RegressionLearner) -> None:
    x, y = episodes(learner, points=1)
    found = learner.predict(x, y)
    assert found.shape == (EPISODES, 1)
    assert found.isfinite().all()
    nothing = learner.predict_queries(x[:, :0], y[:, :0], x[:, :, None])
    close(nothing[..., 0], found)


def test_queries_are_answered_as_the_contract_says(learner: RegressionLearner) -> None:
    """A query after prefix n is answered as point n would be: by the way that needs `_predict` alone."""
    x, y = episodes(learner)
    for prefixes in ([0, 1, 3, POINTS], [5, 2, 2]):
        queries = some_queries(learner, len(prefixes))
        found = learner.predict_queries(x, y, queries, prefixes)
        close(found, RegressionLearner._predict_queries(learner, x, y, queries, prefixes))


def test_queries_without_prefixes_follow_all_from_the_empty_one_on(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    close(learner.predict_queries(x, y, x[:, :, None])[..., 0], learner.predict(x, y))


def test_weights_are_the_predictions_at_unit_queries(learner: RegressionLearner) -> None:
    if not isinstance(learner, LinearLearner):
        pytest.skip("not linear in its input")
    x, y = episodes(learner)
    prefixes = [0, 2, POINTS]
    dim = x.shape[-1]
    units = torch.eye(dim, dtype=x.dtype).expand(EPISODES, len(prefixes), dim, dim)
    weights = learner.weights(x, y, prefixes)
    close(weights, RegressionLearner._predict_queries(learner, x, y, units, prefixes))
    close((learner.weights(x, y) * x).sum(-1), learner.predict(x, y))


def test_gradient_with_respect_to_a_query(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    queries = some_queries(learner, 3).requires_grad_()
    found = learner.predict_queries(x, y, queries, [1, 3, POINTS])
    if not found.requires_grad:
        assert not isinstance(learner, LinearLearner | ProbabilisticLearner)
        pytest.skip("piecewise constant in its input")
    (gradient,) = torch.autograd.grad(found.sum(), queries)
    assert gradient.isfinite().all()
    if isinstance(learner, LinearLearner):
        close(gradient, learner.weights(x, y, [1, 3, POINTS])[:, :, None].expand_as(queries))
    else:
        step = 1e-6
        with torch.no_grad():
            ahead = learner.predict_queries(x, y, queries + step * gradient, [1, 3, POINTS])
            behind = learner.predict_queries(x, y, queries - step * gradient, [1, 3, POINTS])
        slope = (ahead - behind) / (2 * step)
        close(slope, gradient.square().sum(-1), 1e-5)


def test_distribution_agrees_with_predictions(learner: RegressionLearner) -> None:
    if not isinstance(learner, ProbabilisticLearner):
        pytest.skip("gives no distribution")
    x, y = episodes(learner)
    distribution = learner.distribution(x, y)
    assert distribution.batch_shape == y.shape
    close(distribution.mean, learner.predict(x, y))
    close(learner.log_prob(x, y), distribution.log_prob(y))
    # The next target changes no distribution up to its own, also not the last one.
    other = y.clone()
    other[:, -1] = 50.0
    close(learner.distribution(x, other).stddev, distribution.stddev)
    close(learner.distribution(x, other).mean, distribution.mean)


def spoiled(spoil: Callable[[Tensor], None], value: Tensor) -> Tensor:
    value = value.clone()
    spoil(value)
    return value


MISTAKES: dict[str, Callable[[Tensor, Tensor], tuple]] = {
    "x must have shape .* given \\[1\\]": lambda x, y: ([1.0], y),
    "x must be numeric and rectangular, given list": lambda x, y: ([[[1.0]], [[1.0], [2.0]]], y),
    "y must be numeric, given 'a'": lambda x, y: (x, [["a"] * y.shape[1]] * len(y)),
    "x must be a floating point tensor": lambda x, y: (x.long(), y),
    "y must be a floating point tensor": lambda x, y: (x, y.long()),
    "x must have shape": lambda x, y: (x[0], y),
    "y must have shape": lambda x, y: (x, y[:, :-1]),
    "x must be a floating point tensor, float32 or float64, given torch.float16": lambda x, y: (
        x.half(),
        y.half(),
    ),
    "x must hold at least one episode": lambda x, y: (x[:0], y[:0]),
    "one type": lambda x, y: (x, y.float()),
    "one device": lambda x, y: (x, y.to("meta")),
    "at least 1 points": lambda x, y: (x[:, :0], y[:, :0]),
    "x of shape .* NaN or infinite": lambda x, y: (spoiled(lambda t: t[0, 1].fill_(torch.nan), x), y),
    "y of shape .* NaN or infinite": lambda x, y: (x, spoiled(lambda t: t[0, 1].fill_(torch.inf), y)),
}


@pytest.mark.parametrize("given", ["arrays", "lists", "reversed views", "an array and a tensor"])
def test_arrays_and_lists_are_taken_as_tensors_are(learner: RegressionLearner, given: str) -> None:
    x, y = episodes(learner)
    queries = some_queries(learner, 2)
    kinds: dict[str, Callable[[Tensor], object]] = {
        "arrays": Tensor.numpy,
        "lists": Tensor.tolist,
        "reversed views": lambda value: value.flip(1).contiguous().numpy()[:, ::-1],
        "an array and a tensor": Tensor.numpy,
    }
    as_given = kinds[given]
    targets = y if given == "an array and a tensor" else as_given(y)
    close(learner.predict(as_given(x), targets), learner.predict(x, y))  # pyright: ignore[reportArgumentType]
    found = learner.predict_queries(as_given(x), targets, as_given(queries), [1, 2])  # pyright: ignore
    close(found, learner.predict_queries(x, y, queries, [1, 2]))


@pytest.mark.parametrize("message", MISTAKES)
def test_bad_input_is_a_user_error(learner: RegressionLearner, message: str) -> None:
    x, y = MISTAKES[message](*episodes(learner))
    with pytest.raises(UserError, match=message):
        learner.predict(x, y)


def test_bad_queries_are_a_user_error(learner: RegressionLearner) -> None:
    x, y = episodes(learner)
    queries = some_queries(learner, 2)
    with pytest.raises(UserError, match="prefixes must lie in"):
        learner.predict_queries(x, y, queries, [1, POINTS + 1])
    with pytest.raises(UserError, match="prefixes must be whole numbers"):
        learner.predict_queries(x, y, queries, [0.5, 1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="at least one after each prefix"):
        learner.predict_queries(x, y, queries[:, :, :0], [1, 2])
    with pytest.raises(UserError, match="2 prefixes need queries"):
        learner.predict_queries(x, y, queries[:, :1], [1, 2])
    with pytest.raises(UserError, match="do not go with x"):
        learner.predict_queries(x, y, queries[..., :-1], [1, 2])
    with pytest.raises(UserError, match="must be a tensor of shape"):
        learner.predict_queries(x, y, queries[0], [1, 2])
