"""What a call asks for: read out of headers, query and body, and turned into the service's words."""

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from flask import request

from messengers.base import Template
from postrider import listing, records
from postrider.errors import InvalidRequest, WrongMediaType
from postrider.finding import Wanted
from postrider.model import Attachment, Client, NewMessage, Recipient, Terms
from postrider.repeats import Once
from postrider.web.bodies import AttachmentIn, ChangeIn, DeliveriesIn, MessagesIn, NewMessageIn, To
from postrider.web.schemas import TemplateIn
from postrider.windows import Window

KEY = "Idempotency-Key"
KEY_LENGTH = 255


def only_json() -> None:
    """Refuses a body that is anything else. Raises WrongMediaType."""
    has_body = request.method in {"POST", "PATCH", "PUT"} and request.content_length != 0
    if has_body and request.mimetype != "application/json":
        raise WrongMediaType("send the body as application/json")


def template_of(data: TemplateIn | None) -> Template | None:
    """The template that the body names."""
    return None if data is None else Template(data.name, data.language, tuple(data.components))


def owner_of(who: Client) -> str | None:
    """Whose things this client may see; None: everybody's."""
    return None if who.role == "admin" else who.id


def once() -> Once | None:
    """The idempotency key of this call, and what it asks. Raises InvalidRequest."""
    key = request.headers.get(KEY)
    if key is None:
        return None
    if not 0 < len(key) <= KEY_LENGTH:
        raise InvalidRequest(KEY, f"must have 1 to {KEY_LENGTH} characters")
    return Once(key, f"{request.method} {request.path}\n".encode() + request.get_data())


def moment(
    data: NewMessageIn | ChangeIn, zone: ZoneInfo, now: Callable[[], datetime]
) -> datetime | None:
    """The moment that the body names, by itself or from now on. Raises InvalidRequest."""
    if data.send_in_s is None:
        return listing.moment(data.send_at, data.timezone, zone)
    _not_both(data)
    return now() + timedelta(seconds=data.send_in_s)


def _not_both(data: NewMessageIn | ChangeIn) -> None:
    if data.send_in_s is not None and data.send_at is not None:
        raise InvalidRequest("send_in_s", "leave it out, or leave out send_at")


def new_message(data: NewMessageIn, zone: ZoneInfo, who: Client) -> NewMessage:
    """What the body asks to send. Raises InvalidRequest."""
    _not_both(data)
    return NewMessage(
        body=data.body,
        recipients=tuple(
            Recipient(
                to["uuid"],
                to["service"],
                to.get("account", data.account),
                _own_moment(n, to, data, zone) if "send_at" in to or "timezone" in to else None,
                to.get("timezone"),
            )
            for n, to in enumerate(data.recipients)
        ),
        send_at=listing.moment(data.send_at, data.timezone, zone),
        send_in_s=data.send_in_s,
        template=template_of(data.template),
        priority=data.priority,
        owner=who.id,
        reference=data.reference or "",
        tags=tuple(dict.fromkeys(data.tags)),
        terms=Terms(
            expires_at=listing.at("expires_at", data.expires_at, zone),
            late_s=data.late_s,
            on_unknown=data.on_unknown,
            window=None if data.window is None else Window.asked(data.window),
            zone=data.timezone or zone.key,
            check_first=data.check_first,
        ),
        dedupe_within_s=data.dedupe_within_s,
        callback_url=data.callback_url,
        callback_format=data.callback_format,
        attachments=attachments(data),
        format=data.format,
        heading=None if data.mail is None else records.heading(data.mail.model_dump()),
    )


def attachments(data: NewMessageIn) -> tuple[Attachment, ...]:
    """The files that the body names. Raises InvalidRequest."""
    return tuple(_attachment(n, one) for n, one in enumerate(data.attachments))


def _attachment(n: int, data: AttachmentIn) -> Attachment:
    if (data.file is None) == (data.url is None):
        raise InvalidRequest(f"attachments[{n}]", "name a file or a url, one of them")
    if data.link and data.url is None:
        raise InvalidRequest(f"attachments[{n}].link", "is for a url")
    return Attachment(
        file=data.file or "",
        url=data.url or "",
        link=data.link,
        name=data.name or "",
        kind=data.kind,
        inline=data.inline,
    )


def _own_moment(n: int, to: To, data: NewMessageIn, zone: ZoneInfo) -> datetime | None:
    """When the n-th recipient is to get it, if not with the others."""
    send_at = to.get("send_at", data.send_at)
    if send_at is None and data.window is None:
        raise InvalidRequest(
            f"recipients[{n}].timezone", "is for a send_at or a window; there is none"
        )
    try:
        return listing.moment(send_at, to.get("timezone", data.timezone), zone)
    except InvalidRequest as error:
        raise InvalidRequest(f"recipients[{n}].{error.field}", error.reason) from None


def wanted(data: MessagesIn | DeliveriesIn, zone: ZoneInfo, who: Client) -> Wanted:
    """What the query asks for, of what this client may see. Raises InvalidRequest."""
    return Wanted(
        state=data.state,
        service=data.service,
        account=getattr(data, "account", None),
        uuid=data.uuid,
        message=getattr(data, "message", None),
        reference=data.reference,
        tag=data.tag,
        owner=owner_of(who),
        accepted_from=listing.at("from", data.from_, zone),
        accepted_to=listing.at("to", data.to, zone),
    )
