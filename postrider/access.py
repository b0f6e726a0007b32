"""How keys, users and entries of the audit log are put into words, and what they may be called: for HTTP and terminal alike."""

import math
import re

from postrider.audit import Entry
from postrider.clients import Known
from postrider.errors import InvalidRequest
from postrider.model import Quota
from postrider.settings import Settings

NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._@+-]*$"
LONGEST_NAME = 64
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 1_024
MOST_RATE, MOST, MOST_BYTES = 1_000_000, 1_000_000_000, 10**15
PAGE, LONGEST_PAGE = 100, 1_000
"""Entries in one part of a list: when nobody says, and at most."""


def check_name(name: str) -> None:
    """Raises InvalidRequest for what no key or user may be called."""
    if len(name) > LONGEST_NAME or not re.fullmatch(NAME, name) or name.endswith("\n"):
        raise InvalidRequest(
            "name",
            f"must be 1 to {LONGEST_NAME} letters, digits, spaces or ._@+-, a letter or digit first",
        )


def refuse_name(name: str, settings: Settings) -> None:
    """Raises InvalidRequest when a user would be called as the one of the settings is."""
    if name == settings.api_user:
        raise InvalidRequest("name", "is the name of the user that the settings name (API_USER)")


def check_password(password: str) -> None:
    """Raises InvalidRequest for one that is too easy to guess, or too long to hash."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidRequest(
            "password", f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
        )


def check_quota(quota: Quota) -> None:
    """Raises InvalidRequest for a limit that is none."""
    if quota.rate is not None and not (math.isfinite(quota.rate) and 0 < quota.rate <= MOST_RATE):
        raise InvalidRequest("rate", f"must be over 0 and at most {MOST_RATE}")
    if quota.waiting is not None and not 0 <= quota.waiting <= MOST:
        raise InvalidRequest("waiting", f"must be 0 to {MOST}")
    if quota.recipients is not None and not 1 <= quota.recipients <= MOST:
        raise InvalidRequest("recipients", f"must be 1 to {MOST}")
    if quota.file_bytes is not None and not 0 <= quota.file_bytes <= MOST_BYTES:
        raise InvalidRequest("file_bytes", f"must be 0 to {MOST_BYTES}")


def told(one: Known) -> dict[str, object]:
    """A key or a user as it is answered."""
    times = (one.created_at, one.used_at, one.disabled_at)
    created_at, used_at, disabled_at = (at.isoformat() if at else None for at in times)
    return {
        "id": one.id,
        "name": one.name,
        "role": one.role,
        "created_at": created_at,
        "by": one.by,
        "last_used_at": used_at,
        "disabled_at": disabled_at,
        "limits": limits(one.quota),
    }


def limits(quota: Quota) -> dict[str, float | None]:
    """What a client may use, as it is answered."""
    return {
        "rate": quota.rate,
        "waiting": quota.waiting,
        "recipients": quota.recipients,
        "file_bytes": quota.file_bytes,
    }


def told_entry(entry: Entry) -> dict[str, str]:
    """An entry of the audit log as it is answered."""
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "actor": entry.actor,
        "name": entry.name,
        "action": entry.action,
        "what": entry.what,
        "address": entry.address,
        "result": entry.result,
    }
