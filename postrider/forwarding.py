"""Where what happens at a linked phone is told: to WEBHOOK_URL with the session's id behind it. Pure functions."""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit, urlunsplit

from postrider import records
from postrider.sessions import Session

Tells = Callable[[Session, Session | None], str]
"""A session before and after a change (None: it is deleted) -> the event for callbacks; '' for none."""


def place(webhook_url: str, session: str) -> str:
    """Where a session's events are posted: an address of its own, so that a receiver need not take them apart."""
    parts = urlsplit(webhook_url)
    path = f"{parts.path.rstrip('/')}/{session}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def tells(webhook_url: str | None, clock: Callable[[], datetime]) -> Tells:
    """What tells of sessions, where anybody is to be told."""

    def told(before: Session, after: Session | None) -> str:
        if webhook_url is None or (after and after.state == before.state):
            return ""
        now = clock()
        session = after or before
        data = {
            "session": session.id,
            "name": session.name,
            "owner": session.owner or None,
            "state": after.state if after else "deleted",
            "before": before.state,
            "reason": session.reason,
            "number": session.number or None,
        }
        url = place(webhook_url, session.id)
        return records.event_line(f"session.{data['state']}", data, now, url=url, alone=True)

    return told
