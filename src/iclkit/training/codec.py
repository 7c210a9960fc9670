"""Frozen dataclasses to JSON and back, directed by their type annotations.

A member of a registered family (a task, an objective) carries its registered name beside its fields, so that a
recipe on disk says which member it means. Everything else is a plain dictionary of fields. No pickle, no import
of a name that a file supplies.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any, Union

from iclkit.errors import UserError, unknown
from iclkit.training.json_files import brief


def families() -> dict[type, dict[str, type]]:
    """The registered families by their base class; read anew each time, so that later registrations count."""
    from iclkit.energy.objectives import OBJECTIVES, Objective
    from iclkit.regression.objectives import REGRESSION_OBJECTIVES, RegressionObjective
    from iclkit.sequences.objectives import SEQUENCE_OBJECTIVES, SequenceObjective
    from iclkit.tasks import (
        REGRESSION_TASKS,
        SEQUENCE_TASKS,
        TASKS,
        DensityTask,
        RegressionTask,
        SequenceTask,
    )
    from iclkit.training.network_config import NETWORKS, NetworkConfig

    return {
        DensityTask: dict(TASKS),
        RegressionTask: dict(REGRESSION_TASKS),
        SequenceTask: dict(SEQUENCE_TASKS),
        Objective: dict(OBJECTIVES),
        RegressionObjective: dict(REGRESSION_OBJECTIVES),
        SequenceObjective: dict(SEQUENCE_OBJECTIVES),
        NetworkConfig: dict(NETWORKS),
    }


def _accepted(hints: Iterable[Any]) -> dict[str, type]:
    """The registered members that annotated types stand for: all of each family below or above them."""
    return {
        name: member
        for base, members in families().items()
        if any(isinstance(hint, type) and (issubclass(hint, base) or issubclass(base, hint)) for hint in hints)
        for name, member in members.items()
    }


def encode(value: Any) -> Any:
    """Turn a dataclass, with everything inside it, into what `json.dumps` takes.

    Raises:
        UserError: A task or objective that is not registered.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {}
        for base, members in families().items():
            if isinstance(value, base):
                # The tag is "type", for "name" may be a field of the member's own.
                tag = {"type": _registered_name(value, base, members)}
        return {**tag, **{f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a recipe holds numbers, strings, tuples and dataclasses only, given {type(value).__name__}"
    )


def _registered_name(value: Any, base: type, members: dict[str, type]) -> str:
    for name, member in members.items():
        if type(value) is member:
            return name
    raise UserError(
        f"{type(value).__name__} is not registered, so no recipe can name it; "
        f"use one of the {base.__name__} classes {', '.join(sorted(members))}"
    )


def decode(hint: Any, data: Any, where: str = "recipe") -> Any:
    """Build a value of the annotated type from JSON data.

    Args:
        hint: A type annotation.
        data: What `json.loads` returned.
        where: Name of the place in the file, for error messages.

    Returns:
        The value.

    Raises:
        UserError: Data of another shape, unknown fields or unknown registered names.
    """
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if data is None and len(options) < len(typing.get_args(hint)):
            return None
        # Unions of the recipes are "something or None", or of families.
        if members := _accepted(options):
            return _decode_member(" or ".join(option.__name__ for option in options), members, data, where)
        return decode(options[0], data, where)
    if origin is typing.Literal:
        if not isinstance(data, str) or data not in typing.get_args(hint):
            raise unknown(where, data if isinstance(data, str) else brief(data), typing.get_args(hint))
        return data
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), data, where)
    if origin is dict:
        return _decode_dict(typing.get_args(hint)[1], data, where)
    if isinstance(hint, type):
        if members := _accepted([hint]):
            return _decode_member(hint.__name__, members, data, where)
        if dataclasses.is_dataclass(hint):
            return _decode_fields(hint, data, where)
        if hint is float and isinstance(data, int) and not isinstance(data, bool):
            return float(data)
        if hint in (int, float, str, bool) and type(data) is hint:
            return data
    raise UserError(f"{where} must be of type {getattr(hint, '__name__', hint)}, given {brief(data)}")


def _decode_dict(hint: Any, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{where} must be an object, given {brief(data)}")
    return {name: decode(hint, item, f"{where}.{brief(name)}") for name, item in data.items()}


def _decode_tuple(hints: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise UserError(f"{where} must be a list, given {brief(data)}")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(data)
    if len(hints) != len(data):
        raise UserError(f"{where} must have {len(hints)} entries, given {len(data)}")
    return tuple(decode(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(zip(hints, data, strict=True)))


def _decode_member(family: str, members: dict[str, type], data: Any, where: str) -> Any:
    if family == "NetworkConfig" and isinstance(data, dict):
        # Files written before there was a second kind of network name none.
        data = {"type": next(iter(members)), **data}
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise UserError(f"{where} must be an object with a 'type' (accepted: {', '.join(sorted(members))})")
    name = data["type"]
    if name not in members:
        raise unknown(family, name, members)
    return _decode_fields(members[name], {key: item for key, item in data.items() if key != "type"}, where)


def _decode_fields(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{where} must be an object, given {brief(data)}")
    accepted = {field.name for field in dataclasses.fields(kind) if field.init}
    for name in data:
        if name not in accepted:
            raise unknown(f"field of {where}", name, accepted)
    return decode_known(kind, data, where)


def decode_known(kind: type, data: dict[str, Any], where: str) -> Any:
    """Build a dataclass from those of some JSON data that are its fields; errors as of `decode`."""
    hints = typing.get_type_hints(kind)
    accepted = [field.name for field in dataclasses.fields(kind) if field.init]
    known = {name: decode(hints[name], data[name], f"{where}.{name}") for name in accepted if name in data}
    try:
        return kind(**known)
    except TypeError as error:
        raise UserError(f"{where} is incomplete: {error}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        # Sizes beyond what a number can hold, say, which no check of the class expects.
        raise UserError(f"{where} describes nothing that could be made ({brief(str(error))})") from None
