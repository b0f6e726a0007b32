"""What is read out of what messengers say, whatever that is: total, and bounded."""

import json
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

REASON_LIMIT = 300
"""Characters of a messenger's words that are kept."""


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object; {} when `body` is anything else."""
    try:
        value = from_json(body)  # a quarter of the time; but it takes no half characters
    except ValueError:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def entries(value: object) -> list[dict[str, Any]]:
    """The objects in a list; [] when `value` is none."""
    found = value if isinstance(value, list) else []
    return [entry for entry in found if isinstance(entry, dict)]


def moment(value: object, unit_s: float = 1.0) -> datetime | None:
    """A number of `unit_s` since the epoch, perhaps written as text, as a time; None when it cannot be one."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if type(value) is not int or not 0 < value * unit_s < 4e9:
        return None
    return datetime.fromtimestamp(value * unit_s, UTC)


def words(said: object, secret: str = "") -> str:
    """What a messenger said, as one line fit for logs, stores and terminals: bounded, printable, without `secret`."""
    if not isinstance(said, str):
        return ""
    # Masked before it is cut, so that no part of the secret is left at the edge.
    text = said.replace(secret, "***") if secret else said
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:REASON_LIMIT]
