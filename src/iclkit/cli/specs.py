"""Tasks and learners as text: `LinearRegression(dim=8, noise_std=0.5)`, `ridge(1/4)`, or a model's name.

Nothing is executed: the text is read as one Python call whose arguments are numbers, strings, tuples, fractions
like 1/16, or again a task.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.errors import UserError, unknown

if TYPE_CHECKING:
    from iclkit.learners import RegressionLearner
    from iclkit.tasks import RegressionTask

_ALIASES = {
    "gd": "GradientDescent",
    "gdplusplus": "GradientDescentPlusPlus",
    "gp": "GaussianProcess",
    "knn": "NearestNeighbors",
    "nearestneighbours": "NearestNeighbors",
    "ols": "LeastSquares",
    "sgd": "OnePassSGD",
    # Tasks by the names of the recipes that train on them.
    "decisiontree": "DecisionTrees",
    "pool": "LinearPool",
    "relunetwork": "ReluNetworks",
    "sine": "SineCurves",
    "sparse": "SparseLinearRegression",
}


def parse_task(text: str, **fields: Any) -> RegressionTask:
    """The regression task that a text names.

    Args:
        text: Name of a task, with or without arguments; capitals, hyphens and an ending "Regression" may be
            left out: "linear", "LinearRegression(dim=8)".
        **fields: More fields of the task; None for those that are not given.

    Raises:
        UserError: No such task, or no such fields.
    """
    return with_fields(_build(_tree(text, "task"), _tasks(), "task"), **fields)


def with_fields(task: RegressionTask, **fields: Any) -> RegressionTask:
    """A task with other fields; None for those that stay.

    Raises:
        UserError: Fields that the task does not have.
    """
    assert dataclasses.is_dataclass(task)  # as all tasks are
    given = {name: value for name, value in fields.items() if value is not None}
    accepted = [field.name for field in dataclasses.fields(task) if field.init]
    for name in given:
        if name not in accepted:
            raise unknown(f"field of {type(task).__name__}", name, accepted)
    return dataclasses.replace(task, **given)


def parse_learner(text: str) -> RegressionLearner:
    """The learner that a text names: a textbook learner, or a model.

    Args:
        text: "ridge(0.25)", "LeastSquares", "knn(k=3, weights='distance')"; the name of a shipped model, or the
            folder of a model or a run. Capitals, hyphens and underscores of textbook learners do not matter.

    Raises:
        UserError: No such learner, or arguments that it does not take.
    """
    from iclkit.training.models import load, shipped

    if text in shipped() or "/" in text.partition("(")[0] or Path(text).is_dir():
        return _regression(load(text), text)
    kinds = _learners()
    name = text.partition("(")[0].strip()
    if "(" not in text and _find(name, kinds) is None:
        raise unknown("learner", text, [*kinds, *shipped()])
    return _build(_tree(text, "learner"), kinds, "learner")


def learner_of(value: Any) -> Any:
    """The learner that a text names; anything else as it is. Raises as `parse_learner`."""
    return parse_learner(value) if isinstance(value, str) else value


def task_of(value: Any) -> Any:
    """The task that a text names; anything else as it is. Raises as `parse_task`."""
    return parse_task(value) if isinstance(value, str) else value


def _regression(learner: Any, name: str) -> RegressionLearner:
    from iclkit.learners import RegressionLearner

    if not isinstance(learner, RegressionLearner):
        raise UserError(f"{name} is a model of {type(learner).__name__}; give a regression model")
    return learner


def _tasks() -> dict[str, Callable[..., Any]]:
    from iclkit import tasks

    return {name: kind for name, kind in vars(tasks).items() if _member(kind, tasks.RegressionTask)}


def _learners() -> dict[str, Callable[..., Any]]:
    from iclkit import learners

    return {name: kind for name, kind in vars(learners).items() if _member(kind, learners.RegressionLearner)}


def _member(kind: Any, base: type) -> bool:
    """A finished class of a family, whose fields say all of it."""
    if not (inspect.isclass(kind) and issubclass(kind, base)):
        return False
    return dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace("+", "plus").replace(" ", "")


def _find(name: str, kinds: Mapping[str, Callable[..., Any]]) -> str | None:
    wanted = _plain(_ALIASES.get(_plain(name), name))
    for kind in kinds:
        if wanted in (_plain(kind), _plain(kind).removesuffix("regression")):
            return kind
    return None


def _tree(text: str, what: str) -> ast.expr:
    head, bracket, arguments = text.partition("(")
    # Hyphens stand in names here, but not in Python's.
    readable = _plain(head) + bracket + arguments
    try:
        tree = ast.parse(readable.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        tree = None
    if not isinstance(tree, ast.Call | ast.Name):
        call = "linear(dim=8)" if what == "task" else "ridge(penalty=0.25)"
        raise UserError(f"{what} {text!r} cannot be read; write a name, or a call like {call}")
    return tree


def _build(tree: ast.expr, kinds: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """The object that a name or a call of one stands for."""
    head = tree.func if isinstance(tree, ast.Call) else tree
    name = ast.unparse(head)
    found = _find(name, kinds)
    if found is None:
        raise unknown(what, name, kinds)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    if isinstance(tree, ast.Call):
        positional = [_value(node, found) for node in tree.args]
        keywords = {str(pair.arg): _value(pair.value, found) for pair in tree.keywords}
    make = kinds[found]
    signature = inspect.signature(make)
    accepted = list(signature.parameters)
    for keyword in keywords:
        if keyword not in accepted:
            raise unknown(f"argument of {found}", keyword, accepted)
    try:
        given = signature.bind(*positional, **keywords).arguments
    except TypeError:  # too many, one twice, or one missing
        raise UserError(f"{found} takes {_takes(signature)}, given {ast.unparse(tree)}") from None
    for name, value in given.items():
        _check_kind(signature.parameters[name], value, found)
    try:
        return make(*positional, **keywords)
    except (TypeError, AttributeError):
        raise UserError(f"{found} takes {_takes(signature)}, not {ast.unparse(tree)}") from None


def _takes(signature: inspect.Signature) -> str:
    """The arguments as one would write them: "(penalty)", "(k, weights='uniform')"."""
    empty = inspect.Parameter.empty
    parameters = signature.parameters.values()
    return f"({', '.join(p.name if p.default is empty else f'{p.name}={p.default!r}' for p in parameters)})"


_KINDS = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "True or False"),
    "None": ((type(None),), "None"),
    "list": ((tuple,), "a list (a, b, ...)"),
}
_LISTS = ("Sequence[", "tuple[", "list[")
# What no text can say, so that it need not be mentioned.
_UNWRITTEN = ("Tensor", "Callable", "Float[")


def _check_kind(parameter: inspect.Parameter, value: Any, owner: str) -> None:
    """Refuse what a field of simple types cannot hold; what holds other kinds is left to the class."""
    from iclkit.tasks import RegressionTask

    kinds = {**_KINDS, "RegressionTask": ((RegressionTask,), "a task")}
    parts = [part.strip() for part in str(parameter.annotation).split("|")]
    parts = ["list" if part.startswith(_LISTS) else part for part in parts if not part.startswith(_UNWRITTEN)]
    if not parts or any(part not in kinds for part in parts):
        return
    accepted = tuple(kind for part in parts for kind in kinds[part][0])
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        what = " or ".join(kinds[part][1] for part in parts)
        raise UserError(f"{parameter.name} of {owner} must be {what}, given {value!r}")


def _value(node: ast.expr, owner: str) -> Any:
    """A literal, a fraction of numbers, a task, or a learner."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        top, bottom = _value(node.left, owner), _value(node.right, owner)
        if isinstance(top, int | float) and isinstance(bottom, int | float) and bottom:
            return top / bottom
    if isinstance(node, ast.Call):
        known, name = _learners(), ast.unparse(node.func)
        if _find(name, _tasks()) is None and _find(name, known) is not None:
            return _build(node, known, "learner")  # one that another is made of
        return _build(node, _tasks(), "task")
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_value(item, owner) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise UserError(
            f"{owner}: {ast.unparse(node)} is no number, text or task; write text in quotes, fractions as 1/16"
        ) from None
