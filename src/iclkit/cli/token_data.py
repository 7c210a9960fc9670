"""Demonstrations for language models from a file: token ids, or text where the model brings a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.analysis.inside.token_prompts import TokenEpisode

Encode = Callable[[str], list[int]]
_FIELDS = ("demonstrations", "labels", "query", "label")
_EXAMPLE = '{"demonstrations": [[5, 6], [7, 8]], "labels": [1, 2], "query": [5, 9], "label": 1}'


def read_episodes(path: Path, encode: Encode | None = None) -> list[TokenEpisode]:
    """Episodes from a file with one JSON object a line.

    Args:
        path: The file. Each line has the fields of `TokenEpisode`; demonstrations and queries are lists of
            token ids or text, labels a token id or text that is one token.
        encode: Turns text into tokens; None where there is no tokenizer.

    Raises:
        UserError: A line that cannot be read, with its number.
    """
    from iclkit.analysis.inside.token_prompts import TokenEpisode

    episodes = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except ValueError:
            raise UserError(f"{path}, line {number} is no JSON; write {_EXAMPLE}") from None
        if not isinstance(given, dict) or set(given) != set(_FIELDS):
            raise UserError(f"{path}, line {number} needs the fields {', '.join(_FIELDS)}; write {_EXAMPLE}")
        try:
            shown = [_tokens(item, encode) for item in _list(given["demonstrations"])]
            labels = [_label(item, encode) for item in _list(given["labels"])]
            episodes.append(
                TokenEpisode(shown, labels, _tokens(given["query"], encode), _label(given["label"], encode))
            )
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if not episodes:
        raise UserError(f"{path} holds no episodes; write lines like {_EXAMPLE}")
    return episodes


def tokenizer_of(folder: Path) -> Encode | None:
    """The tokenizer in a folder of Hugging Face, without special tokens; None if there is none."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason}") from None
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file; write one JSON object a line, like {_EXAMPLE}") from None


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"demonstrations and labels are lists, given {value!r}")
    return value


def _tokens(value: Any, encode: Encode | None) -> list[int]:
    if isinstance(value, str):
        if encode is None:
            raise UserError(f"text needs a tokenizer in the model's folder; give token ids for {value!r}")
        return encode(value)
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise UserError(f"a demonstration or query is text or a list of token ids, given {value!r}")
    return value


def _label(value: Any, encode: Encode | None) -> int:
    tokens = [value] if type(value) is int else _tokens(value, encode)
    if len(tokens) != 1:
        raise UserError(f"a label is one token, given {value!r} of {len(tokens)}")
    return tokens[0]
