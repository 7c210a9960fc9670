"""A compiled network is what its program stands for, within a bound that is stated, or it is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compiler_programs import episodes
from iclkit import cli
from iclkit.compiler import Interpreted, Program, accuracy, compile, programs
from iclkit.errors import UserError
from iclkit.learners import NearestNeighbors
from iclkit.learners.trained_regression import TrainedRegressor

NEAREST = NearestNeighbors(1)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def inputs(kind: str, dim: int, points: int) -> Tensor:
    """Exactly representable numbers, so that ties are ties: normal ones in units of 2^-20, or integers."""
    x = normal(32, points + 1, dim)
    if kind == "integers":
        return x.round()
    if kind == "duplicates":
        return (x * 2**20).round()[:, torch.arange(points + 1) % 3] / 2**20
    if kind == "the same":
        return torch.ones_like(x)
    return (x * 2**20).round() / 2**20


@pytest.mark.parametrize("kind", ["normal", "integers", "duplicates", "the same"])
@pytest.mark.parametrize(("dim", "points"), [(1, 6), (3, 12), (8, 40)])
def test_the_nearest_neighbor_is_the_textbook_learners(kind: str, dim: int, points: int) -> None:
    """Of several that are as near the first, behind any offset and in any unit.

    The target is copied, so only another neighbour could be wrong by more than rounding.
    """
    program = programs.nearest_neighbor(dim, points)
    compiled, interpreted = TrainedRegressor(compile(program)), Interpreted(program)
    x, y = inputs(kind, dim, points), normal(32, points + 1)
    for offset, unit in itertools.product((0.0, 1.0, 2.0**20, -(2.0**30)), (1.0, 2.0**-40, 2.0**100)):
        moved = unit * (x + offset)
        right = NEAREST.predict(moved, y)
        torch.testing.assert_close(interpreted.predict(moved, y), right, rtol=0, atol=1e-12)
        torch.testing.assert_close(compiled.predict(moved, y), right, rtol=0, atol=1e-12)


def test_an_offset_of_a_million_loses_nothing() -> None:
    x, y = normal(16, 10, 2) + 1e6, normal(16, 10)
    compiled = TrainedRegressor(compile(programs.nearest_neighbor(2, 9)))
    torch.testing.assert_close(compiled.predict(x, y), NEAREST.predict(x, y), rtol=0, atol=1e-12)


def test_points_as_far_away_on_both_sides_give_the_earlier_target() -> None:
    x = torch.tensor([[[-1.0], [1.0], [0.0]], [[5.0], [3.0], [4.0]]], dtype=torch.float64)
    y = torch.tensor([[2.0, 3.0, 0.0], [7.0, 9.0, 0.0]], dtype=torch.float64)
    compiled = TrainedRegressor(compile(programs.nearest_neighbor(1, 2)))
    assert compiled.predict(x, y)[:, 2].tolist() == [2.0, 7.0]


EXTREMES: dict[str, Callable[[int, int], Program]] = {
    "averaging": programs.averaging,
    "nearest": programs.nearest_neighbor,
    **{f"ridge {p:g}": lambda d, n, p=p: programs.ridge(d, n, p) for p in (1e-12, 1e-6, 1e-3, 0.1, 100.0, 1e6)},
    **{f"sgd {r:g}": lambda d, n, r=r: programs.sgd(d, n, r) for r in (1e-12, 0.02, 1.0, 1e3)},
    "sgd, decay": lambda d, n: programs.sgd(d, n, 0.02, weight_decay=1e3),
    **{f"gd {r:g}": lambda d, n, r=r: programs.gradient_descent(d, n, 5, r) for r in (1e-12, 0.3, 10.0, 1e3)},
    "gd, many steps": lambda d, n: programs.gradient_descent(d, n, 40, 3.0),
    "ridge, short": lambda d, n: programs.ridge(d, n, 0.1, longest=1e-3),
    "ridge, long": lambda d, n: programs.ridge(d, n, 0.1, longest=1e6),
}


def right_or_refused(name: str, target: str, dim: int, points: int) -> bool:
    """Whether it is refused. If it is not, it is right on other episodes: bounds of extremes of a few episodes
    may be exceeded by a factor of some on others, for which ten is room."""
    program = EXTREMES[name](dim, points)
    try:
        network = compile(program, target)
    except UserError as mistake:
        refusal = str(mistake)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert "would err by" in refusal or "lacks it" in refusal, refusal
        return True
    found = accuracy(program, network)
    assert found.share <= 1e-3
    assert accuracy(program, network, episodes=8, seed=1).share <= 1e-2
    return False


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("target", ["exact", "standard"])
def test_extremes_are_right_or_refused(name: str, target: str) -> None:
    right_or_refused(name, target, 3, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("target", ["exact", "standard"])
@pytest.mark.parametrize("dim", range(1, 11))
def test_extremes_of_every_dimension_are_right_or_refused(name: str, target: str, dim: int) -> None:
    right_or_refused(name, target, dim, 20)


def test_what_cannot_be_right_is_refused_with_its_error_and_what_to_do() -> None:
    message = r"^ridge: target 'standard' would err by \S+ of the size .*; accepted is 0\.001: .*'exact'$"
    with pytest.raises(UserError, match=message):
        compile(programs.ridge(2, 6, 1e-6), "standard")
    with pytest.raises(UserError, match=r"target 'exact' would err .* too few digits .* larger penalty"):
        compile(programs.ridge(8, 20, 1e-12))
    # The usual ones are not, nor what is asked for with open eyes.
    assert not right_or_refused("ridge 0.1", "standard", 8, 12)
    assert not right_or_refused("ridge 1e-06", "exact", 8, 12)
    compile(programs.ridge(2, 6, 1e-6), "standard", tolerance=float("inf"))
    compile(programs.averaging(2, 6), "standard", scale=0.03)
    with pytest.raises(UserError, match="accepted is 1:"):
        compile(programs.ridge(2, 6, 1e-6), "standard", scale=0.03)
    with pytest.raises(UserError, match="accepted is 1e-12"):
        compile(programs.averaging(2, 6), "standard", tolerance=1e-12)


def test_accuracy_is_what_a_user_would_measure() -> None:
    program = programs.ridge(2, 6, 0.5)
    network = compile(program, "standard", scale=0.003)
    found = accuracy(program, network, episodes=64)
    x, y = episodes(2, 6, batch=64)
    own = float((TrainedRegressor(network).predict(x, y) - Interpreted(program).predict(x, y)).abs().max())
    # One input in every second episode is as long as the program allows, here none.
    assert own < found.error < 100 * own
    assert found.drift < 1e-12
    assert found.longest == pytest.approx(2 + 6 * 2 + 8)  # d + 6 √(2d) + 8


def test_the_command_states_the_bound_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--d", "2", "--points", "6", "--target", "standard"]
    assert cli.main(["compile", "ridge", *sizes, "--penalty", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "largest error of the interpreter against Ridge(penalty=0.5): " in printed
    assert " of the size of predictions, for ‖x‖² up to 22 and |y| up to " in printed
    assert cli.main(["compile", "ridge", *sizes, "--penalty", "1e-6"]) == 2
    error = capsys.readouterr().err
    assert "would err by" in error
    assert len(error.strip().splitlines()) == 1
