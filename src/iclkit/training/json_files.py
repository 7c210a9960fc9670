"""JSON as model folders and run folders hold it: read strictly, for such files may come from anywhere."""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any

from iclkit import disk
from iclkit.errors import UserError

# Far above what is ever written: the description of a network by hand with hundreds of blocks takes 200 KB.
_LONGEST = 1 << 24
_DEEPEST = 50

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60


def brief(data: Any) -> str:
    """JSON data as a message may hold it, whatever its size."""
    return _brief.repr(data)


def json_bytes(data: Any) -> bytes:
    """Data as the content of a JSON file; NaN and infinity, which JSON does not know, are refused."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file, or a link to it.
        missing: What to say where there is none; "... is missing" if None.

    Raises:
        UserError: The file is missing or holds something else.
    """
    if missing is not None and not path.exists():
        raise UserError(missing)
    return parse_json(disk.read(path, _LONGEST), str(path))


def parse_json(content: bytes | str, where: str) -> dict[str, Any]:
    """The JSON object that a text holds.

    Beyond what Python's reader refuses: numbers that are not finite or take more than 64 bits, a name twice in
    one object, deep nesting, and halves of letters, which no file can be written with.

    Args:
        content: The text.
        where: What it is called in errors.

    Raises:
        UserError: Anything else.
    """
    if len(content) > _LONGEST:
        raise UserError(f"{where} is longer than {_LONGEST >> 20} MiB, which no such text is")
    try:
        text = content if isinstance(content, str) else content.decode()
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except _Refused as error:
        raise UserError(f"{where} {error}: altered") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply: altered") from None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{where} is not valid JSON: truncated or altered") from None
    if not isinstance(data, dict):
        raise UserError(f"{where} must hold a JSON object")
    _check(data, where)
    return data


class _Refused(Exception):
    """What JSON allows and these files never hold."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"has {brief(twice)} twice in one object")
    return found


def _integer(digits: str) -> int:
    # Checked by length first: Python's own limit on digits is a setting, and long ones take long.
    number = int(digits) if len(digits) <= 20 else 1 << 63
    if abs(number) >= 1 << 63:
        raise _Refused(f"holds the number {brief(digits)}, which takes more than 64 bits")
    return number


def _fraction(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused(f"holds the number {brief(digits)}, which is not finite")
    return number


def _constant(name: str) -> float:
    raise _Refused(f"holds {name}, which is no number of JSON")


def _check(data: Any, where: str) -> None:
    """Refuse deep nesting and text that is none; without recursion, for that is what it guards."""
    layer: list[Any] = [data]
    for _ in range(_DEEPEST):
        if not layer:
            return
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not _is_text(value):
                raise UserError(f"{where} holds {brief(value)}, which is no text: altered")
        layer = inner
    raise UserError(f"{where} is nested too deeply: altered")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
