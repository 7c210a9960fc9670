"""The compiler's language: programs against learners, and what is refused before any weight is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from compiler_programs import CASES, episodes
from iclkit.compiler import (
    Aff,
    Div,
    Interpreted,
    Largest,
    Loop,
    Mov,
    Mul,
    Pairs,
    Previous,
    Program,
    Raw,
    compile,
    interpret,
    programs,
    validate,
)
from iclkit.compiler.ranges import divisor_ranges
from iclkit.errors import UserError

# The interpreter is the reference of all else, so it is tested against what is not of this package's compiler.


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.learner is not None])
@pytest.mark.parametrize(("dim", "points"), [(1, 1), (3, 12), (8, 40)])
def test_programs_equal_learners(name: str, dim: int, points: int) -> None:
    x, y = episodes(dim, points)
    learner = CASES[name].learner
    assert learner is not None
    found = Interpreted(CASES[name].make(dim, points)).predict(x, y)
    # Rounding of sums of up to 40 terms below 100.
    torch.testing.assert_close(found, learner.predict(x, y), rtol=1e-10, atol=1e-10)


def test_sgd_with_decay_takes_the_gradient_of_the_penalised_error() -> None:
    """Also the sign of λ w: with the other one weights would grow."""
    dim, points, rate, decay = 3, 6, 0.05, 0.7
    x, y = episodes(dim, points, batch=1)
    w, expected = torch.zeros(dim, dtype=torch.float64), []
    for n in range(points + 1):
        expected.append(float(w @ x[0, n]))
        w = w.requires_grad_()
        error = (w @ x[0, n] - y[0, n]).square() + decay * w.square().sum()
        w = w.detach() - rate * torch.autograd.grad(error, w)[0]
    found = Interpreted(programs.sgd(dim, points, rate, decay)).predict(x, y)[0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_k_steps_of_sgd_use_the_k_latest_pairs() -> None:
    x, y = episodes(2, 7)
    found = Interpreted(programs.sgd(2, 7, 0.1, steps=3)).predict(x, y)
    every = Interpreted(programs.sgd(2, 7, 0.1)).predict
    for n in range(8):
        first = max(0, n - 3)
        torch.testing.assert_close(found[:, n], every(x[:, first : n + 1], y[:, first : n + 1])[:, -1])


@pytest.mark.parametrize("star", ["+", "*"])
@pytest.mark.parametrize("where", [Previous(), Pairs()])
def test_raw_is_what_its_formula_says(star: str, where: Any) -> None:
    """And the simpler operations that stand for it compute the same."""
    rng = np.random.default_rng(0)
    read, own, out = rng.normal(size=(4, 3)), rng.normal(size=(4, 1)), rng.normal(size=(1, 4))
    raw = Raw("prediction", "x", "y", star, where, read, own, out, to=())
    program = Program("raw", 3, 5, [raw])
    shapes = validate(program)
    parts = Program("parts", 3, 5, raw.parts(shapes))
    x, y = episodes(3, 5)
    found = interpret(program, x.numpy(), y.numpy())["prediction"]
    columns = interpret(parts, x.numpy(), y.numpy())
    np.testing.assert_allclose(columns["prediction"], found, rtol=1e-12, atol=1e-13)
    there = columns["prediction.there"] @ read.T
    here = columns["y"][..., None] @ own.T
    expected = (there + here if star == "+" else there * here) @ out.T
    np.testing.assert_allclose(found, expected[..., 0], rtol=1e-12, atol=1e-13)


def test_pairs_and_previous_at_every_column() -> None:
    program = Program("p", 1, 4, [Mov("before", "y"), Mov("prediction", "y", Pairs())])
    y = np.array([[1.0, 2.0, 4.0, 8.0]])
    found = interpret(program, np.zeros((1, 4, 1)), y)
    # The start, pairs 0 to 2, and queries after 0 to 3 pairs.
    np.testing.assert_array_equal(found["before"][0], [0, 0, 1, 2, 0, 1, 2, 4])
    np.testing.assert_allclose(found["prediction"][0], [0, 1, 1.5, 7 / 3, 0, 1, 1.5, 7 / 3], rtol=1e-15)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 7, 3), (2, 7), "ridge is for contexts of up to 5 pairs, given 6"),
        ((2, 4, 2), (2, 4), r"ridge takes x \[episodes, points, 3\].*given \[2, 4, 2\] and \[2, 4\]"),
        ((2, 4, 3), (2, 5), r"given \[2, 4, 3\] and \[2, 5\]"),
        ((2, 0, 3), (2, 0), "at least one point"),
    ],
)
def test_the_interpreter_refuses_data_that_a_program_is_not_for(
    x: tuple[int, ...], y: tuple[int, ...], message: str
) -> None:
    """Behind its longest context a loop would have run too seldom, and the answers be wrong."""
    with pytest.raises(UserError, match=message):
        Interpreted(programs.ridge(3, 5)).predict(torch.zeros(x), torch.zeros(y))


# Ranges


def ranges_of(body: Sequence[Any], **start: Any) -> list[tuple[float, float]]:
    program = Program("p", 2, 3, [*body, Aff("prediction", {}, 0.0)], start)
    return list(divisor_ranges(program, validate(program)).values())


def test_ranges_follow_from_the_program() -> None:
    squares = [Mul("s", "x", "x", "i,i->"), Aff("c", {"s": 2}, 0.5)]
    assert ranges_of([*squares, Div("q", "x", "c")]) == [(0.5, math.inf)]
    assert ranges_of([*squares, Div("q", "x", "c", least=1, most=9)]) == [(1, 9)]
    # 1 / (0.5 + 2 s) lies in [0, 2], so 3 minus that in [1, 3].
    inverse = [*squares, Aff("one", {}, 1.0), Div("i", "one", "c"), Aff("e", {"i": -1}, 3.0)]
    assert ranges_of([*inverse, Div("q", "x", "e")]) == [(0.5, math.inf), (1, 3)]


def test_what_a_loop_changes_may_be_anything() -> None:
    shrink = Loop(5, (Div("q", "y", "c", least=0.1), Aff("c", {"c": 0.9})))
    assert ranges_of([shrink], c=1.0) == [(0.1, 1.0)]
    steady = Loop(5, (Div("q", "y", "c"), Aff("d", {"c": 0.9})))
    assert ranges_of([steady], c=1.0) == [(1.0, 1.0)]


# What is refused


def program(*body: Any, start: dict[str, Any] | None = None, output: str = "prediction") -> Program:
    return Program("wrong", 3, 5, [*body, Aff("prediction", {}, 0.0)], start or {}, output)


X2 = Mul("xx", "x", "x", "i,j->ij")
REFUSED: dict[str, tuple[Callable[[], Program], str]] = {
    "shapes of a product": (
        lambda: program(X2, Mul("p", "xx", "y", "ij,i->j")),
        "mul p ← xx, y .*: y has shape \\(\\), but 'ij,i->j' gives it 1 axes",
    ),
    "sizes of a product": (
        lambda: program(Mul("p", "x", "w", "i,i->"), start={"w": np.zeros(2)}),
        "mul p ← x, w .*: axis i of 'i,i->' is 3 in x \\(3,\\) and 2 in w \\(2,\\)",
    ),
    "no product": (lambda: program(Mul("p", "x", "x", "ii,i->i")), "'ii,i->i' is no product"),
    "shapes of a sum": (
        lambda: program(X2, Aff("s", {"x": 1, "xx": 1})),
        "aff s .*: the term of xx has shape \\(3, 3\\), others \\(3,\\)",
    ),
    "shape of a matrix": (lambda: program(Aff("s", {"x": np.ones((2, 4))})), "matrix with 3 columns"),
    "shape of a constant": (lambda: program(Aff("s", {"x": 1}, np.ones(2))), "constant has shape \\(2,\\)"),
    "divisor is no number": (lambda: program(Div("q", "y", "x", least=1)), "divisor x has shape \\(3,\\)"),
    "choice of several shapes": (
        lambda: program(Mov("m", "y", Largest("x", "y", "y"))),
        "mov m .*: x \\(3,\\) and y \\(\\) must have one shape",
    ),
    "matrices of raw": (
        lambda: program(Raw("r", "x", "y", "+")),
        "raw r .*: W_read has 3 rows and W_own 1",
    ),
    "star of raw": (lambda: program(Raw("r", "x", "x", "-")), "unknown star '-'"),
    "use before definition": (
        lambda: program(Aff("s", {"w": 1}), Aff("w", {"x": 1})),
        "aff s ← w: 'w' is read before it is written",
    ),
    "use before definition in a loop": (
        lambda: program(Loop(2, (Mov("w", "v"), Aff("v", {"w": 1})))),
        "mov w ← v .*: 'v' is read before it is written",
    ),
    "data written": (lambda: program(Aff("x", {"x": 2})), "x holds the data and is not written"),
    "data at start": (lambda: program(start={"y": 1.0}), "y holds the data and cannot start"),
    "loop that changes a shape": (
        lambda: program(Loop(2, (Mul("w", "w", "x", "i,j->ij"),)), start={"w": np.zeros(3)}),
        "mul w .*: it would turn w from shape \\(3,\\) into \\(3, 3\\); a loop must leave shapes as they are",
    ),
    "register that changes its shape": (
        lambda: program(Aff("s", {"x": 1}), Aff("s", {"y": 1})),
        "it would turn s from shape \\(3,\\) into \\(\\); take another name",
    ),
    "loop that never runs": (lambda: program(Loop(0, (Mov("w", "x"),))), "loop 0 ×: it must run at least once"),
    "loop without statements": (lambda: program(Loop(2, ())), "loop 2 ×: it has no statements"),
    "start that is empty": (
        lambda: program(start={"w": np.zeros(0)}),
        "w must start with finite numbers, at least one",
    ),
    "coefficient that is no number": (
        lambda: program(Aff("s", {"x": math.nan})),
        "aff s .*: the coefficient of x must be finite",
    ),
    "constant without end": (
        lambda: program(Aff("s", {"x": 1}, math.inf)),
        "aff s .*: the constant must be finite",
    ),
    "start that is no number": (lambda: program(start={"w": math.nan}), "w must start with finite numbers"),
    "promises that exclude each other": (
        lambda: program(Div("q", "x", "y", least=2, most=1)),
        "y would lie in \\[2, 1\\], where no number is",
    ),
    "division by data": (
        lambda: program(Div("q", "x", "y")),
        "div q ← x / y: y may be 0, it lies in \\[-inf, inf\\]; promise a positive least",
    ),
    "division by a square": (
        lambda: program(Mul("s", "x", "x", "i,i->"), Div("q", "x", "s")),
        "s may be 0, it lies in \\[0, inf\\]",
    ),
    "output that is not there": (lambda: program(output="guess"), "output 'guess' is never written"),
    "output that is no number": (lambda: program(output="x"), "output 'x' has shape \\(3,\\)"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("do", [validate, compile, Interpreted])
def test_senseless_programs_are_refused(case: str, do: Callable[[Program], Any]) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        do(make())


def test_what_a_target_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_weights(*_: Any, **__: Any) -> None:
        pytest.fail("weights were made")

    monkeypatch.setattr("iclkit.compiler.weights.InContextRegressor", no_weights)
    with pytest.raises(UserError, match=r"mov prediction ← y .*: target 'standard' lacks it: softmax cannot"):
        compile(programs.nearest_neighbor(2, 4), "standard")
    endless = program(Mul("s", "x", "x", "i,i->"), Aff("c", {"s": 1}, 1.0), Div("q", "x", "c"))
    with pytest.raises(UserError, match=r"div q ← x / c: .* that has no end; promise a most"):
        compile(endless, "standard")
    with pytest.raises(UserError, match="unknown target 'best'"):
        compile(programs.averaging(2, 4), "best")
    with pytest.raises(UserError, match="no operation has a part in the output 'y'"):
        compile(program(output="y"))
    with pytest.raises(UserError, match="scale must lie in"):
        compile(programs.averaging(2, 4), "standard", scale=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: programs.sgd(2, 4, rate=0.0), "rate must be positive"),
        (lambda: programs.sgd(-1, 4), "dim must be at least 1"),
        (lambda: programs.ridge(-1, 4), "dim must be at least 1"),
        (lambda: programs.gradient_descent(-1, 4), "dim must be at least 1"),
        (lambda: programs.sgd(2, 4, weight_decay=-1.0), "weight_decay must not be negative"),
        (lambda: programs.sgd(2, 4, steps=5), "steps must lie in 1..4"),
        (lambda: programs.ridge(2, 4, 0.0), "penalty must be positive"),
        (lambda: programs.ridge(2, 4, longest=-1.0), "longest must be positive"),
        (lambda: programs.gradient_descent(2, 4, 0), "steps must be at least 1"),
        (lambda: compile(programs.averaging(0, 4)), "averaging: dim must be at least 1"),
        (lambda: compile(programs.averaging(2, 0)), "averaging: points must be at least 1"),
    ],
)
def test_constants_that_make_no_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_programs_print_as_they_are_read() -> None:
    text = str(programs.sgd(2, 4, 0.1))
    assert text.splitlines()[:3] == [
        "sgd (d = 2, up to 4 pairs), predicts xᵀw",
        "  loop 5 times",
        "    mov w ← w [previous]",
    ]
    assert text.splitlines()[-1] == "    aff w ← w - 0.2 gradient"
    sums = {
        "aff s ← -x + 3 y + 1": Aff("s", {"x": -1, "y": 3}, 1.0),
        "aff s ← M x - 0.5": Aff("s", {"x": np.ones((1, 3))}, -0.5),
        "aff s ← -0.5 x + c": Aff("s", {"x": -0.5}, np.ones(3)),
        "aff s ← 0": Aff("s", {}),
    }
    assert all(str(operation) == text for text, operation in sums.items())
