"""Messages, deliveries and what else there is, as answers show them: the same for HTTP and for a terminal. Pure functions."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from messengers.base import Heading
from messengers.whatsapp_web import WhatsAppWeb
from postrider import timing
from postrider.changes import Changed
from postrider.files import Stored
from postrider.finding import Found, Summary
from postrider.incoming import Heard
from postrider.ledger import Balance
from postrider.model import (
    QUEUED,
    Attempt,
    Client,
    Message,
    Part,
    ReceiptKept,
    Recipient,
    State,
)
from postrider.planning import Planner
from postrider.schedules import Schedule
from postrider.stopping import scope_of
from postrider.store import ENDED_WELL

SHOWN = 1_000
"""Deliveries that the answer to a POST lists."""
MESSAGE = (
    *(
        "id",
        "body",
        "state",
        "reference",
        "tags",
        "accepted_at",
        "due_at",
        "due_local",
        "expires_at",
    ),
    *("check_first", "total", "counts", "files", "format", "mail"),
)
"""What `message` shows, in this order."""
DELIVERY = (
    *("id", "message", "uuid", "service", "account", "state", "due_at", "ended_at", "attempts"),
    *("reason", "provider_id", "reference"),
)
"""What `delivery` shows, in this order."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def message(summary: Summary, zone: ZoneInfo) -> dict[str, Any]:
    """A message and where its deliveries stand."""
    m = summary.message
    return {
        "id": m.id,
        "body": m.body,
        "state": summary.state,
        "reference": m.reference or None,
        "tags": list(m.tags),
        "accepted_at": iso(m.accepted_at),
        "due_at": iso(m.due_at),
        "due_local": timing.in_zone(m.due_at, zone),
        "expires_at": iso(m.terms.expires_at),
        "check_first": m.terms.check_first,
        "total": m.total,
        "counts": {state.value: n for state, n in sorted(summary.counts.items())},
        "files": [
            {name: getattr(file, name) for name in ("id", "name", "media_type", "size", "kind")}
            for file in m.files
        ],
        "format": m.format,
        "mail": _mail(m.heading),
    }


def _mail(heading: Heading | None) -> dict[str, Any] | None:
    """What a client asked of a mail, in its words; None when it asked nothing: whether it goes to several is ours to know."""
    if heading is None or replace(heading, bulk=False) == Heading():
        return None
    asked = asdict(heading)
    del asked["bulk"]
    return {"from" if name == "sender" else name: value for name, value in asked.items()}


def accepted(
    m: Message, recipients: tuple[Recipient, ...], zone: ZoneInfo, notices: Sequence[str] = ()
) -> dict[str, Any]:
    """An accepted message: what the first call answered, however often it is asked again."""
    state = State.SCHEDULED.value if m.timed else QUEUED
    shown = message(Summary(m, {State.SCHEDULED: m.total}), zone)
    shown["deliveries"] = [
        {"id": f"{m.id}-{n}", "uuid": to.uuid, "service": to.service, "state": state}
        for n, to in enumerate(recipients[:SHOWN])
    ]
    shown["notices"] = list(notices)
    return shown


def account_of(to: Recipient, who: Client | None = None) -> str:
    """What `who` calls the account that sends there; None, or an admin, calls each by its whole name."""
    if to.service != WhatsAppWeb.name or who is None or who.may("admin"):
        return to.account
    return to.account.partition("_")[0]  # of a session's id, behind which stands whose it is


def delivery(found: Found, now: datetime, who: Client | None = None) -> dict[str, Any]:
    """A delivery as it stands, and as `who` sees it."""
    d, last = found.delivery, found.last
    waits = d.state in {State.SCHEDULED, State.RETRYING, State.PAUSED, State.UNKNOWN}
    return {
        "id": d.id,
        "message": found.message.id,
        "uuid": d.recipient.uuid,
        "service": d.recipient.service,
        "account": account_of(d.recipient, who),
        "state": found.state(now),
        "due_at": iso(found.at) if waits else None,
        "ended_at": None if waits else iso(found.at),
        # The one that was taken used up none of its tries; events count it, too.
        "attempts": d.attempts + (d.state in ENDED_WELL),
        "reason": last.reason if last else "",
        "provider_id": last.provider_id if last else "",
        "reference": found.message.reference or None,
    }


def attempt(a: Attempt) -> dict[str, Any]:
    """One try."""
    return {
        "started_at": a.started_at.isoformat(),
        "ended_at": a.ended_at.isoformat(),
        "outcome": a.outcome,
        "reason": a.reason,
        "provider_id": a.provider_id,
        "parts": [part and _part(part) for part in a.parts] or None,
    }


def _part(p: Part) -> dict[str, str]:
    """What became of one piece."""
    sent = p.outcome == "sent"
    return {
        "outcome": p.outcome,
        "reason": "" if sent else p.said,
        "provider_id": p.said if sent else "",
    }


def changed(done: Changed) -> dict[str, Any]:
    """How many were changed, and for how many it was too late."""
    return {
        "changed": done.total,
        "unchanged": {state.value: n for state, n in sorted(done.unchanged.items())},
    }


def iso(at: datetime | None) -> str | None:
    """A moment as the API shows it: UTC, ISO 8601."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def receipt(r: ReceiptKept) -> dict[str, Any]:
    """What a messenger said later."""
    return {"at": iso(r.at), "state": r.state.value, "reason": r.reason}


def stop(name: str, at: datetime, by: str) -> dict[str, str | None]:
    """Something that is stopped, by the name that the store has for it."""
    return scope_of(name) | {"since": iso(at), "by": by}


def balance(found: Balance) -> dict[str, Any]:
    """The balance of a span."""
    ends = {
        name: at and iso(at.astimezone(UTC))
        for name, at in (("start", found.start), ("end", found.end))
    }
    return asdict(found) | ends | {"difference": found.difference}


def heard(row: Heard) -> dict[str, Any]:
    """An incoming message."""
    by_phone = row.service == WhatsAppWeb.name
    file = asdict(row.file) | {"id": row.file.id or None} if row.file else None
    times = {"at": iso(row.at), "received_at": iso(row.received_at)}
    # As its owner calls it: behind `_` stands the owner's id.
    session = row.account.partition("_")[0] if by_phone else None
    return asdict(row) | times | {"session": session, "file": file}


def schedule(s: Schedule) -> dict[str, Any]:
    """A schedule."""
    r = s.recurrence
    zone = ZoneInfo(r.zone)
    return {
        "id": s.id,
        "state": s.state,
        "repeat": {
            "cron": r.cron,
            "rrule": r.rule.text if r.rule else None,
            "until": r.until.isoformat(" ") if r.until else None,
            "count": r.count,
            "missed": s.missed,
        },
        "timezone": r.zone,
        "starts_at": r.start.isoformat(" "),
        "made": s.made,
        "next": timing.utc_and_local(s.next.at, zone) if s.next else None,
        "message": s.message if s.ready else None,
        "trouble": s.trouble or None,
        "created_at": timing.utc_and_local(s.created_at, zone)["utc"],
        "changed_at": timing.utc_and_local(s.changed_at, zone)["utc"],
    }


def file(stored: Stored) -> dict[str, Any]:
    """A file that we have."""
    found, until = stored.file, stored.unused_until
    return {
        "id": found.id,
        "name": found.name,
        "media_type": found.media_type,
        "size": found.size,
        "sha256": stored.sha256,
        "kind": found.kind,
        "width": found.width or None,
        "height": found.height or None,
        "created_at": stored.at.isoformat(),
        "unused_until": until.isoformat() if until else None,
    }


def whole_schedule(planner: Planner, s: Schedule) -> dict[str, Any]:
    """A schedule with its next dates and the message that it makes."""
    zone = ZoneInfo(s.recurrence.zone)
    dates = [timing.utc_and_local(o.at, zone) for o in planner.dates(s)]
    body = planner.body(s)
    return {**schedule(s), "dates": dates, "makes": body, "notices": planner.notices(s, body)}


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows as NDJSON."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_lines(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """What stands in rows under these names, as CSV, below the names; which stand there, too, when there are no rows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: object) -> object:
    """What a spreadsheet shows and does not carry out. https://owasp.org/www-community/attacks/CSV_Injection"""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
