"""How messages and deliveries are put into words: the simple API's lines, lists and answers, for HTTP and terminal alike.

Pure functions. The shapes are promised to clients of the simple API and never change.
"""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from postrider.errors import InvalidRequest
from postrider.model import QUEUED, Delivery, Message, Recipient, State
from postrider.store import Page
from postrider.timing import in_zone, parse_moment

SHOWN = 1_000
"""Deliveries that the answer to a POST lists."""
PAGE, LONGEST_PAGE = 1_000, 10_000
"""Deliveries in one part of a list: when nobody says, and at most."""
JOINERS = "\u200c\u200d"
"""Invisible, harmless, and what emoji families and some scripts are made with."""


def moment(send_at: str | None, timezone: str | None, default: ZoneInfo) -> datetime | None:
    """The moment a client names, aware UTC; None when it names none. Raises InvalidRequest."""
    zone = default
    if timezone is not None:
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InvalidRequest(
                "timezone", f"{timezone[:60]!r} is no IANA zone; one is Europe/Berlin"
            ) from None
    if send_at is None:
        return None
    try:
        return parse_moment(send_at, zone)
    except ValueError as error:
        raise InvalidRequest("send_at", str(error)) from None


def at(field: str, text: str | None, zone: ZoneInfo) -> datetime | None:
    """The moment that `field` names, aware UTC; None when it names none. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        return parse_moment(text, zone)
    except ValueError as error:
        raise InvalidRequest(field, str(error)) from None


def line(message: Message, recipient: Recipient, zone: ZoneInfo) -> str:
    """One delivery as the simple API words it."""
    return (
        f"Message to user: {recipient.uuid} with body: {message.body}"
        f" Queued at {in_zone(message.due_at, zone)} to messenger: {recipient.service}"
    )


def accepted(message: Message, recipients: tuple[Recipient, ...], zone: ZoneInfo) -> dict[str, Any]:
    """What POST /send_message answers: the first `SHOWN` deliveries, and `total` when there are more."""
    shown = recipients[:SHOWN]
    lines = [line(message, recipient, zone) for recipient in shown]
    state = State.SCHEDULED.value if message.timed else QUEUED
    answer: dict[str, Any] = {
        "scheduled": lines if message.timed else [],
        "started": [] if message.timed else lines,
        "message": {
            "id": message.id,
            "deliveries": [
                {"id": f"{message.id}-{i}", "uuid": r.uuid, "service": r.service, "state": state}
                for i, r in enumerate(shown)
            ],
        },
    }
    if message.total > SHOWN:
        answer["total"] = message.total
    return answer


def scheduled(page: Page, zone: ZoneInfo) -> dict[str, Any]:
    """What GET /get_scheduled answers."""
    lines = [line(message, delivery.recipient, zone) for delivery, message in page.rows]
    return {"scheduled": lines, "total": page.total, "next": page.next}


def finished(page: Page, zone: ZoneInfo) -> dict[str, Any]:
    """What GET /get_finished answers."""
    lists: dict[str, list[str]] = {
        "finished_main": [],
        "finished_scheduled": [],
        "finished_with_fail": [],
    }
    for delivery, message in page.rows:
        lists[_list_of(delivery, message)].append(line(message, delivery.recipient, zone))
    return {**lists, "total": page.total, "next": page.next}


def _list_of(delivery: Delivery, message: Message) -> str:
    if delivery.state not in {State.SENT, State.DELIVERED, State.READ}:
        return "finished_with_fail"
    return "finished_scheduled" if message.timed else "finished_main"


def state(delivery: Delivery, message: Message, now: datetime) -> str:
    """The state as it is shown."""
    due = delivery.state is State.SCHEDULED and message.due_at <= now
    return QUEUED if due else delivery.state.value


def printable(text: str) -> str:
    """`text` on one line with nothing in it that a terminal obeys: `\\n` and `\\x1b` are spelled out."""
    return "".join(
        c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text
    )
