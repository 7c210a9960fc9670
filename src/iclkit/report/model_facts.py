"""What the cards of all models say: which model it is, and how it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def facts(rows: Sequence[Sequence[str]]) -> str:
    """Named facts as a list."""
    return "".join(f"- {name}: {fact}\n" for name, fact in rows)


def identity(network: nn.Module, description: dict[str, Any], size: int) -> list[list[str]]:
    """The rows of a network and its file.

    Args:
        network: The network.
        description: The content of model.json, with its defaults (`Description.to_dict`).
        size: Bytes of the weights.
    """
    config = description["network"]
    parameters = sum(p.numel() for p in network.parameters())
    return [
        [
            "network",
            f"{config['layers']} layers, width {config['width']}, {config['heads']} heads, "
            f"{parameters:,} weights",
        ],
        ["size", f"{size / 1e6:.2f} MB, SHA-256 `{description['sha256'][:16]}…`"],
    ]


def training_section(description: dict[str, Any], episodes: str = "data sets") -> str:
    """Recipe, seed, hardware and time.

    Args:
        description: The content of model.json, with its defaults (`Description.to_dict`).
        episodes: What an episode is called.
    """
    recipe, training = description["recipe"], description["training"]
    if recipe is None:
        return "## Training\n\nNone: the weights were set by hand.\n"
    steps = training.get("steps") or recipe["steps"]
    batch = recipe["episodes"] * recipe["accumulate"]
    objective = {k: v for k, v in recipe["objective"].items() if k != "type"}
    given = fields(objective)
    rows = [
        ["recipe", f"`{recipe['name']}` (reproduce: `iclkit train {recipe['name']} --out RUN`)"],
        ["objective", f"{recipe['objective']['type']}{f' ({given})' if given else ''}"],
        ["seed", str(recipe["seed"])],
        ["updates", f"{steps:,} of {batch} {episodes}: {steps * batch:,} {episodes}"],
    ]
    if training.get("seconds") is not None:
        rows.append(["time", duration(training["seconds"])])
    for start in (training.get("starts") or [])[-1:]:
        processes = (
            f"{start['processes']} process{'es' * (start['processes'] > 1)} of {start['threads']} thread"
        )
        rows += [
            [
                "hardware",
                f"{start['device']}: {start['processor']}, {start['processor_count']} cores, "
                f"{processes}{'s' * (start['threads'] > 1)}",
            ],
            ["software", f"{fields(start['packages'], ' ')}, Python {start['python']}"],
            ["date", start["date"]],
        ]
    return f"## Training\n\n{facts(rows)}"


def fields(values: dict[str, Any], equals: str = "=") -> str:
    """The fields of a nested description on one line."""
    parts = []
    for key, value in values.items():
        inner = (
            f"({fields({k: v for k, v in value.items() if k != 'type'})})" if isinstance(value, dict) else ""
        )
        parts.append(f"{key}{inner}" if inner else f"{key}{equals}{value}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def limits_section(lines: Sequence[str]) -> str:
    """What a model is not for."""
    return "## Limits of use\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"
