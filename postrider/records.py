"""How things are written in Redis, and read from there. The Lua scripts know the same forms: `lua/_lib.lua` tells them."""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from messengers.base import Template
from postrider.errors import InvalidRequest
from postrider.model import (
    LETTERS,
    QUEUES,
    STATES,
    Attempt,
    Claim,
    Delivery,
    Message,
    Priority,
    Recipient,
    State,
    Verdict,
)

_as_json = json.JSONEncoder(ensure_ascii=False).encode


def moment(seconds: bytes | float) -> datetime:
    """Seconds since the epoch as aware UTC."""
    return datetime.fromtimestamp(float(seconds), UTC)


def seconds(value: float) -> str:
    """A time or a span as it is stored: microseconds, where Lua would print 14 digits."""
    return f"{value:.6f}"


def message_fields(m: Message) -> list[str]:
    """The hash of a message: name, value, name, value ..."""
    fields = {
        "body": m.body,
        "accepted": seconds(m.accepted_at.timestamp()),
        "due": seconds(m.due_at.timestamp()),
        "timed": "1" if m.timed else "0",
        "total": str(m.total),
        "left": str(m.total),
    }
    if m.template:
        t = m.template
        fields["template"] = json.dumps([t.name, t.language, list(t.components)])
    return [part for field in fields.items() for part in field]


def messages(flat: Sequence[Any]) -> dict[str, Message]:
    """What a script gives of messages (id, fields, id, fields ...), by id."""
    found = {}
    for mid, (body, accepted, due, timed, total, template) in zip(
        flat[::2], flat[1::2], strict=True
    ):
        name, language, components = json.loads(template) if template else ("", "", [])
        found[mid.decode()] = Message(
            id=mid.decode(),
            body=body.decode(),
            accepted_at=moment(accepted),
            due_at=moment(due),
            timed=timed == b"1",
            total=int(total),
            template=Template(name, language, tuple(components)) if template else None,
        )
    return found


def account_key(service: str, name: str) -> str:
    """How an account is written: its service, and `/` and its name unless that is `default`."""
    return service if name == "default" else f"{service}/{name}"


def _recipient(account: str, uuid: str) -> Recipient:
    service, _, name = account.partition("/")
    return Recipient(uuid, service, name or "default")


def record(to: Recipient, priority: Priority, *, told: bool = False) -> str:
    """A delivery that nothing has happened to: state and queue, mark, account, uuid. `told`: callbacks tell of it."""
    account = account_key(to.service, to.account)
    mark = "*" if told else ""
    return f"{LETTERS[State.SCHEDULED]}{QUEUES[priority][0]}{mark} {account} {to.uuid}"


def delivery(id_: str, raw: bytes) -> Delivery:
    """The delivery that a record tells of."""
    marks, _, rest = raw.decode().partition(" ")
    attempts = 0
    if rest[0].isdigit():  # an account begins with a letter
        _, tried, rest = rest.split(" ", 2)
        attempts = int(tried)
    account, _, uuid = rest.partition(" ")
    return Delivery(id_, STATES[marks[0]], _recipient(account, uuid), attempts)


def claims(now: bytes, rows: Sequence[Any], messages_: Sequence[Any]) -> Iterator[Claim]:
    """What a script gives of claims."""
    at = moment(now)
    known = messages(messages_)
    for job_id, attempts, account, uuid, to, how, deaths in rows:
        yield Claim(
            job_id=job_id.decode(),
            at=at,
            recipient=_recipient(account.decode(), uuid.decode()),
            to=to.decode(),
            attempts=attempts,
            message=known[job_id.decode().partition("-")[0]],
            how=how.decode(),
            deaths=None if deaths == b"" else int(deaths),
        )


def attempt_line(v: Verdict) -> str:
    """An attempt as it is kept: started, ended, outcome, reason, provider's id."""
    a = v.attempt
    if a is None:
        return ""
    return _as_json(
        (a.started_at.timestamp(), a.ended_at.timestamp(), a.outcome, a.reason, a.provider_id)
    )


def attempts(raw: bytes | None) -> list[Attempt]:
    """The attempts that these lines tell of, in the order in which they were recorded."""
    found = []
    for line in (raw or b"").splitlines():
        started, ended, outcome, reason, provider_id = json.loads(line)
        found.append(Attempt(moment(started), moment(ended), outcome, reason, provider_id))
    return found


def cursor(at: float, id_: str) -> str:
    """What a client hands back for the page behind this entry."""
    return base64.urlsafe_b64encode(f"{at!r} {id_}".encode()).decode().rstrip("=")


def read_cursor(given: str | None) -> tuple[str, str]:
    """Time and id of the entry behind which to go on; empty for the first page. Raises InvalidRequest."""
    if given is None:
        return "", ""
    try:
        padded = given + "=" * (-len(given) % 4)
        at, id_ = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split(" ")
        return repr(float(at)), id_
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor", "is not one that this service gave") from None
