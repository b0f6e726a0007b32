"""How things are written in Redis, and read from there. The Lua scripts know the same forms: `lua/README.md` tells them."""

import base64
import binascii
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from messengers.base import File, Heading, Template
from messengers.inward import Receipt
from postrider.errors import InvalidRequest, Unreadable
from postrider.model import (
    LETTERS,
    QUEUES,
    STATES,
    Attempt,
    Claim,
    Delivery,
    Message,
    Part,
    Priority,
    ReceiptKept,
    Recipient,
    State,
    Terms,
    Verdict,
    new_message_id,
)
from postrider.vault import KEYLESS, Vault
from postrider.windows import Window

SENT_WITH = (
    *(b"body", b"accepted", b"due", b"timed", b"total", b"template", b"more", b"owner"),
    *(b"files", b"partial"),
)
"""What the scripts give of a message to whoever sends its deliveries, in this order."""

RECIPIENT_BUCKETS = 16_384

_as_json = json.JSONEncoder(ensure_ascii=False).encode


def moment(seconds: bytes | float) -> datetime:
    """Seconds since the epoch as aware UTC."""
    return datetime.fromtimestamp(float(seconds), UTC)


def moment_of(client: Any) -> datetime:
    """Redis's time: the one clock."""
    whole, micros = client.time()
    return moment(whole + micros / 1e6)


def seconds(value: float) -> str:
    """A time or a span as it is stored: microseconds, where Lua would print 14 digits."""
    return f"{value:.6f}"


def message_fields(
    m: Message, further: Mapping[str, str], vault: Vault = KEYLESS
) -> list[str | bytes]:
    """The hash of a message, and what of `further` is not empty: name, value, name, value ..."""
    fields: dict[str, str | bytes] = {
        "body": vault.seal(m.body, body_of(m.id)),
        "accepted": seconds(m.accepted_at.timestamp()),
        "due": seconds(m.due_at.timestamp()),
        "timed": "1" if m.timed else "0",
        "total": str(m.total),
        "left": str(m.total),
    }
    if m.template:
        t = m.template
        told = _as_json([t.name, t.language, list(t.components)])
        fields["template"] = vault.seal(told, template_of(m.id))
    if more := _more(m.terms) | _style(m):
        fields["more"] = _as_json(more)
    if m.terms.zoned:
        fields["zoned"] = "1"
    if m.terms.expires_at:
        fields["expires"] = seconds(m.terms.expires_at.timestamp())
    if m.owner:
        fields["owner"] = m.owner
    if m.reference:
        fields["reference"] = m.reference
    if m.tags:
        fields["tags"] = _as_json(m.tags)
    if m.files:
        fields["files"] = files_line(m.files)
        fields["file_ids"] = " ".join(dict.fromkeys(file.id for file in m.files if file.id))
    fields |= {name: value for name, value in further.items() if value}
    return [part for field in fields.items() for part in field]


def size(fields: Iterable[str | bytes]) -> int:
    """Bytes of these."""
    return sum(len(part.encode() if isinstance(part, str) else part) for part in fields)


def body_of(mid: str) -> str:
    """Where a message's text is kept, as the vault knows it."""
    return f"pr:m:{mid} body"


def template_of(mid: str) -> str:
    """Where a message's template is kept, as the vault knows it."""
    return f"pr:m:{mid} template"


def messages(flat: Sequence[Any], vault: Vault = KEYLESS) -> dict[str, Message]:
    """What a script gives of messages (id, fields, id, fields ...), by id. Raises Unreadable."""
    return {mid: _readable(found) for mid, found in _messages(flat, vault).items()}


def message(mid: str, flat: Sequence[bytes], vault: Vault = KEYLESS) -> Message:
    """A message out of all its fields: name, value, name, value ... Raises Unreadable."""
    return _readable(_message(mid, dict(zip(flat[::2], flat[1::2], strict=True)), vault))


def as_it_went(found: Message, body: bytes, due: bytes, *, vault: Vault) -> Message:
    """A message with the text and due time that one of its deliveries went with; b"": as it is now. Raises Unreadable."""
    text = vault.open(body, body_of(found.id)) if body[:1] == b"\0" else body
    return replace(
        found,
        body=text.decode() if body else found.body,
        due_at=moment(due) if due else found.due_at,
    )


def _readable(found: Message) -> Message:
    if found.unreadable:
        raise Unreadable(found.unreadable)
    return found


def _messages(flat: Sequence[Any], vault: Vault) -> dict[str, Message]:
    return {
        mid.decode(): _message(mid.decode(), dict(zip(SENT_WITH, values, strict=True)), vault)
        for mid, values in zip(flat[::2], flat[1::2], strict=True)
    }


def _message(mid: str, fields: Mapping[bytes, Any], vault: Vault) -> Message:
    """A message; without its text, where that cannot be read."""
    template, more, tags, files = (
        fields.get(name) for name in (b"template", b"more", b"tags", b"files")
    )
    body, unreadable = fields[b"body"], ""
    try:
        if body[:1] == b"\0":  # asked here, so that nothing is called for what is not encrypted
            body = vault.open(body, body_of(mid))
        if template and template[:1] == b"\0":
            template = vault.open(template, template_of(mid))
    except Unreadable as error:
        unreadable, body, template = str(error), b"", None
    told = json.loads(more) if more else {}
    name, language, components = json.loads(template) if template else ("", "", [])
    return Message(
        id=mid,
        body=body.decode(),
        accepted_at=moment(fields[b"accepted"]),
        due_at=moment(fields[b"due"]),
        timed=fields[b"timed"] == b"1",
        total=int(fields[b"total"]),
        template=Template(name, language, tuple(components)) if template else None,
        terms=_terms(told) if told else Terms(),
        owner=(fields.get(b"owner") or b"").decode(),
        reference=(fields.get(b"reference") or b"").decode(),
        tags=tuple(json.loads(tags)) if tags else (),
        services=tuple((fields.get(b"services") or b"").decode().split()),
        files=read_files(files),
        format=told.get("format", "plain"),
        heading=heading(told["mail"]) if "mail" in told else None,
        partial=bool(fields.get(b"partial")),
        unreadable=unreadable,
    )


def files_line(files: Sequence[File]) -> str:
    """What is kept of a message's files."""
    return _as_json([_file_fields(file) for file in files])


def read_files(line: bytes | None) -> tuple[File, ...]:
    """The files that it tells of."""
    return tuple(File(**told) for told in json.loads(line)) if line else ()


def _file_fields(file: File) -> dict[str, Any]:
    """What is kept of a file with its message."""
    told = {
        name: getattr(file, name)
        for name in ("id", "width", "height", "inline", "link")
        if getattr(file, name)
    }
    return {
        "name": file.name,
        "media_type": file.media_type,
        "size": file.size,
        "kind": file.kind,
    } | told


def _style(m: Message) -> dict[str, Any]:
    """How it is written and headed, where that is not as usual."""
    told: dict[str, Any] = {} if m.format == "plain" else {"format": m.format}
    if m.heading:
        told["mail"] = {name: value for name, value in asdict(m.heading).items() if value}
    return told


def heading(told: Mapping[str, Any]) -> Heading:
    """A heading out of its fields, those that are left out empty; clients call the sender `from`."""
    given: dict[str, Any] = {}
    for name, value in told.items():
        if value:
            given["sender" if name == "from" else name] = (
                tuple(value) if isinstance(value, list) else value
            )
    return Heading(**given)


def _more(terms: Terms) -> dict[str, Any]:
    told: dict[str, Any] = {
        "expires_at": terms.expires_at.timestamp() if terms.expires_at else None,
        "late_s": terms.late_s,
        "on_unknown": terms.on_unknown,
    }
    if terms.check_first:
        told["check_first"] = True
    if terms.window:
        told |= {"window": terms.window.to_fields(), "zone": terms.zone, "zoned": terms.zoned}
    return {name: value for name, value in told.items() if value is not None}


def _terms(more: dict[str, Any]) -> Terms:
    expires_at = more.get("expires_at")
    return Terms(
        expires_at=None if expires_at is None else moment(expires_at),
        late_s=more.get("late_s"),
        on_unknown=more.get("on_unknown"),
        window=Window.from_fields(more["window"]) if "window" in more else None,
        zone=more.get("zone", "UTC"),
        zoned=more.get("zoned", False),
        check_first=more.get("check_first", False),
    )


def recipients_bucket(uuid: str) -> str:
    """The list in which the deliveries to `uuid`, and some others, are found. `lua/_lists.lua` has the same."""
    digest = hashlib.sha1(uuid.encode(), usedforsecurity=False).hexdigest()
    return f"pr:to:b:{int(digest[:8], 16) % RECIPIENT_BUCKETS}"


def account_key(service: str, name: str) -> str:
    """How an account is written: its service, and `/` and its name unless that is `default`."""
    return service if name == "default" else f"{service}/{name}"


def _recipient(account: str, uuid: str) -> Recipient:
    service, _, name = account.partition("/")
    return Recipient(uuid, service, name or "default")


def record(to: Recipient, priority: Priority, marks: str = "") -> str:
    """A delivery that nothing has happened to: state, queue and marks, account, uuid."""
    account = account_key(to.service, to.account)
    return f"{LETTERS[State.SCHEDULED]}{QUEUES[priority][0]}{marks} {account} {to.uuid}"


def delivery(id_: str, raw: bytes) -> Delivery:
    """The delivery that a record tells of."""
    marks, _, rest = raw.decode().partition(" ")
    attempts = 0
    if rest[0].isdigit():  # an account begins with a letter
        _, tried, rest = rest.split(" ", 2)
        attempts = int(tried)
    account, _, uuid = rest.partition(" ")
    return Delivery(id_, STATES[marks[0]], _recipient(account, uuid), attempts)


def claims(
    now: bytes, rows: Sequence[Any], messages_: Sequence[Any], vault: Vault = KEYLESS
) -> Iterator[Claim]:
    """What a script gives of claims; one of a message that cannot be read, too: all of them are ours by now."""
    at = moment(now)
    known = _messages(messages_, vault)
    for job_id, attempts, account, uuid, to, how, deaths, held in rows:
        yield Claim(
            job_id=job_id.decode(),
            at=at,
            recipient=_recipient(account.decode(), uuid.decode()),
            to=to.decode(),
            attempts=attempts,
            message=known[job_id.decode().partition("-")[0]],
            how=how.decode(),
            deaths=None if deaths == b"" else int(deaths),
            held_at=float(held or 0),
        )


def attempt_line(v: Verdict) -> str:
    """An attempt as it is kept: started, ended, outcome, reason, provider's id; and what became of each piece, if several."""
    a = v.attempt
    if a is None:
        return ""
    line = (a.started_at.timestamp(), a.ended_at.timestamp(), a.outcome, a.reason, a.provider_id)
    return _as_json((*line, _told(a.parts)) if a.parts else line)


def receipt_line(receipt: Receipt, now: datetime) -> str:
    """A receipt as it is kept, among the attempts: when, state, reason."""
    return _as_json(((receipt.at or now).timestamp(), receipt.state, receipt.reason))


def receipts(raw: bytes | None) -> list[ReceiptKept]:
    """The receipts among these lines, in the order in which they changed something."""
    lines = [json.loads(line) for line in (raw or b"").splitlines()]
    return [
        ReceiptKept(moment(at), State(state), why) for at, state, why in _of_length((3,), lines)
    ]


def _of_length(lengths: Sequence[int], lines: list[list[Any]]) -> list[list[Any]]:
    return [line for line in lines if len(line) in lengths]


def mark(account: str, provider_id: str, to: str = "") -> bytes:
    """What a messenger's id is looked up by: short, and the same for nothing else. `to`: where one id stands for many."""
    said = f"{account} {to} {provider_id}".encode(errors="replace")
    return hashlib.blake2b(said, digest_size=10).digest()


def attempts(raw: bytes | None) -> list[Attempt]:
    """The attempts that these lines tell of, in the order in which they were recorded."""
    lines = [json.loads(line) for line in (raw or b"").splitlines()]
    return [
        Attempt(moment(started), moment(ended), outcome, reason, provider_id, _parts(*more))
        for started, ended, outcome, reason, provider_id, *more in _of_length((5, 6), lines)
    ]


def _told(parts: Sequence[Part | None]) -> list[tuple[str, str] | None]:
    return [(part.outcome, part.said) if part else None for part in parts]


def _parts(told: Sequence[Any] = ()) -> tuple[Part | None, ...]:
    return tuple(part and Part(*part) for part in told)


def parts_line(parts: Sequence[Part | None]) -> str:
    """What has become of each piece, as it is noted while the rest is being sent."""
    return _as_json(_told(parts))


def read_parts(line: bytes | None) -> tuple[Part | None, ...]:
    """What such a note tells."""
    return _parts(json.loads(line)) if line else ()


def parts(raw: bytes | None) -> tuple[Part | None, ...]:
    """What the attempts that these lines tell of have done with each piece."""
    return functools.reduce(merged, (attempt.parts for attempt in attempts(raw)), ())


def merged(old: tuple[Part | None, ...], new: tuple[Part | None, ...]) -> tuple[Part | None, ...]:
    """What has become of each piece by both: what has gone has gone.

    Where they were not cut alike (the text was changed, a target has got another place) the later ones count.
    """
    if len(old) != len(new):
        return new or old
    return tuple(a if a and a.outcome == "sent" else b or a for a, b in zip(old, new, strict=True))


def event_line(
    event: str,
    data: Mapping[str, Any],
    at: datetime,
    *,
    url: str = "",
    owner: str = "",
    alone: bool = False,
) -> str:
    """An event that is no delivery's, as it stands in the outbox; under an id of its own. `alone`: it goes to `url` only."""
    id_, told_at = new_message_id(at), seconds(at.timestamp())
    line = {"id": id_, "type": event, "at": told_at, "url": url, "owner": owner, "data": data}
    return _as_json(line | {"alone": True} if alone else line)


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
        moment_s = float(at)
    except (ValueError, binascii.Error):
        moment_s, id_ = math.nan, ""
    if not math.isfinite(moment_s):
        raise InvalidRequest("cursor", "is not one that this service gave")
    return repr(moment_s), id_
