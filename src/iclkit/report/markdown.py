"""Text from model files as a card may hold it: a name must not bring HTML or links along."""

from __future__ import annotations

import re
from typing import Any

from iclkit.errors import shown

# What a browser takes for the beginning of an element, a comment or an instruction.
_ELEMENT = re.compile(r"<(?=[A-Za-z/!?])")


def plain(value: Any) -> Any:
    """Text, also within lists and dictionaries, that Markdown and HTML show as it is."""
    if isinstance(value, str):
        text = shown(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return text.replace("`", "'").replace("[", "(").replace("]", ")").replace("|", "/")
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    if isinstance(value, dict):
        return {plain(name): plain(member) for name, member in value.items()}
    return value


def without_html(card: str) -> str:
    """A card whose HTML elements are shown, not obeyed; all else is as it was."""
    return _ELEMENT.sub("&lt;", card)
