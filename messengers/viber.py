"""Viber REST Bot API: texts and files from one bot to those who have written to it or subscribed.

https://developers.viber.com/docs/api/rest-bot-api/
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self

from messengers import viber_files
from messengers.base import (
    File,
    Identity,
    NoReply,
    Outbound,
    Outcome,
    Piece,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Steps,
    Taken,
    Unclear,
    by_status,
    not_sent,
    unanswered,
)
from messengers.inward import Incoming, Kind, Receipt, said, same
from messengers.reading import moment, parsed, words

_MESSAGE_TOKEN = re.compile(r"[0-9]{1,20}")

_PLACE_HOLDER = "replace_me_with_"
_ACCOUNT = Retry("", pauses="account", refused=True)
_REFUSED = Rejected("")

_MEANING: dict[int, Retry | Rejected] = {
    # Token, webhook (1, 10: sending needs one), a blocked bot, no right to broadcast: somebody has to mend it.
    **dict.fromkeys((1, 2, 7, 8, 9, 10, 15, 19, 20), _ACCOUNT),
    # The recipient: not registered, not subscribed (until it writes again); no suitable device.
    **dict.fromkeys((5, 6), Rejected("", dead=True)),
    11: _REFUSED,
    # The request: bad or missing data, API version, inline and public-chat matters.
    **dict.fromkeys((3, 4, 13, 14, 16, 17, 18), _REFUSED),
    # 100 messages an hour to somebody who does not reply; a reply lifts it at once, so ask before the hour is over.
    12: Retry("", after_s=600, pauses="recipient"),
}
"""`status` -> what it means; all others are Viber's own trouble. https://creators.viber.com/docs/bots-api/errors"""


_RECEIPTS: dict[object, Literal["delivered", "read", "failed"]] = {
    "delivered": "delivered",
    "seen": "read",
    "failed": "failed",
}
_EVENTS: dict[object, tuple[str, Kind]] = {
    "message": ("sender", "text"),
    "subscribed": ("user", "joined"),
    "conversation_started": ("user", "other"),  # looking is not asking for messages again
    "unsubscribed": ("", "left"),
}
"""`event` -> where its user stands, and what it is. https://developers.viber.com/docs/api/rest-bot-api/#callbacks"""
_KINDS: dict[object, Kind] = {
    "text": "text",
    "picture": "image",
    "video": "video",
    "file": "file",
    "sticker": "sticker",
    "contact": "contact",
    "location": "location",
    "url": "other",
}


@dataclass(frozen=True, slots=True)
class Viber:
    """One bot. A recipient's id is known to this bot only, and only from what people send it."""

    name: ClassVar[str] = "viber"
    needs: ClassVar[tuple[str, ...]] = ("VIBER_AUTH_TOKEN",)
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = True
    slower: ClassVar[Mapping[str, float]] = {}
    TEXT_LIMIT: ClassVar[int] = 7000
    """https://creators.viber.com/docs/bots-api/data-models/message"""
    BODY_LIMIT: ClassVar[int] = 30_000
    """Bytes of the whole JSON, as UTF-8 without `\\u` escapes and spaces: escaped, 7000 emoji would fill 84 KB.

    https://creators.viber.com/docs/bots-api/resources/messaging/send-message
    """
    BROADCAST_LIMIT: ClassVar[int] = 300
    """https://creators.viber.com/docs/bots-api/resources/messaging/broadcast-message"""
    ENVELOPE_BYTES: ClassVar[int] = 1000
    """Left for all but the text: far more than the longest receiver, sender and key take."""
    SENDER_LIMIT: ClassVar[int] = 28
    """https://creators.viber.com/docs/bots-api/resources/messaging/send-message"""
    RECIPIENT_LIMIT: ClassVar[int] = 64
    EVENTS: ClassVar[tuple[str, ...]] = (
        *("delivered", "seen", "failed"),
        *("subscribed", "unsubscribed", "conversation_started"),
    )
    """`message` and `webhook` come unasked. https://creators.viber.com/docs/bots-api/getting-started/web-hooks"""
    WINDOW: ClassVar[timedelta] = timedelta(hours=3)
    """How old a callback may be: Viber repeats one for an hour or so, and our clocks may differ."""

    takes_links: ClassVar[bool] = True
    reuses_s: ClassVar[float] = 0
    """It fetches each file from where it lies."""

    token: str = field(repr=False)
    sender: str = "Postrider"
    base_url: str = "https://chatapi.viber.com"
    public: bool = False
    """Whether it can fetch from us: PUBLIC_URL is set."""

    def __post_init__(self) -> None:
        if len(self.sender) > self.SENDER_LIMIT:
            raise ValueError(
                f"VIBER_SENDER_NAME: has {len(self.sender)} characters; viber takes {self.SENDER_LIMIT}"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """Raises ValueError when the sender's name is too long."""
        token = env.get("VIBER_AUTH_TOKEN", "").strip()
        sender = env.get("VIBER_SENDER_NAME", "").strip() or "Postrider"
        base_url = env.get("VIBER_API_URL", "").strip().rstrip("/") or "https://chatapi.viber.com"
        public = bool(env.get("PUBLIC_URL", "").strip())
        return cls(token, sender, base_url, public) if token else None

    def check_recipient(self, uuid: str) -> str | None:
        if 1 <= len(uuid) <= self.RECIPIENT_LIMIT and uuid.isprintable() and " " not in uuid:
            return None
        return f"must be 1 to {self.RECIPIENT_LIMIT} printable characters without spaces"

    def check_text(self, text: str) -> str | None:
        if not text:
            return f"is empty; viber takes 1 to {self.TEXT_LIMIT} characters"
        if len(text) > self.TEXT_LIMIT:
            return f"has {len(text)} characters; viber takes {self.TEXT_LIMIT}"
        size = _bytes_as_json(text)
        if size > (limit := self.BODY_LIMIT - self.ENVELOPE_BYTES):
            return f"has {size} bytes as JSON; viber takes {limit}"
        return None

    def request(self, out: Outbound) -> Request:
        return self._message(out, type="text", text=out.text)

    def _message(self, out: Outbound, **said: Any) -> Request:
        """`tracking_data` comes back with the recipient's next message."""
        return self._call(
            "send_message",
            receiver=out.to,
            min_api_version=1,
            **said,
            sender={"name": self.sender},
            tracking_data=out.key,
        )

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        for index, file in enumerate(files):
            if reason := viber_files.unsendable(file, public=self.public):
                return index, reason
        return None

    def notices(self, files: Sequence[File]) -> list[str]:
        changed = ((file, *viber_files.shown_as(file)) for file in files)
        return [f"{file.name} goes as a {shown}: {why}" for file, shown, why in changed if why]

    def pieces(self, out: Outbound) -> list[Piece]:
        return viber_files.pieces_of(out.files, out.text)

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        if piece.files:
            (index,) = piece.files
            if not (file := out.files[index]).link:
                if self.public:  # the key that signs links could not be read just now
                    return Taken(Retry(viber_files.NOT_SIGNED))
                return Taken(Rejected(viber_files.NO_LINK))  # PUBLIC_URL was taken away since
            fields = viber_files.fields_of(file, out.text if piece.text else "")
            reply = yield self._message(out, **fields)
        else:
            reply = yield self.request(out)
        return Taken(unanswered(reply) if isinstance(reply, NoReply) else self.read(reply))

    def read(self, reply: Reply) -> Outcome:
        """HTTP is 200 even for a refusal: `status` decides."""
        answer = reply.object()
        if not _accepted(reply, answer):
            return self._read_refusal(reply, answer)
        token = answer.get("message_token")
        if type(token) in {int, str} and _MESSAGE_TOKEN.fullmatch(str(token)):
            return Sent(str(token))
        return Unclear("ok, but without a message_token")

    def most_receivers(self, text: str, tos: Sequence[str]) -> int:
        """As many as fit into the body; one for a text that Viber would fill in for each receiver.

        https://developers.viber.com/docs/guides/broadcast-rest-api/
        """
        if _PLACE_HOLDER in text:
            return 1
        free = self.BODY_LIMIT - self.ENVELOPE_BYTES - _bytes_as_json(text)
        longest = max(map(_bytes_as_json, tos)) + len(",")
        return max(1, min(self.BROADCAST_LIMIT, free // longest))

    def broadcast(self, outs: Sequence[Outbound]) -> Request:
        return self._call(
            "broadcast_message",
            broadcast_list=[out.to for out in outs],
            min_api_version=1,
            type="text",
            text=outs[0].text,
            sender={"name": self.sender},
        )

    def read_broadcast(self, reply: Reply, outs: Sequence[Outbound]) -> list[Outcome] | None:
        """One token answers for all; `failed_list` names who did not get it, each with a status of its own."""
        answer = reply.object()
        status = answer.get("status")
        if type(status) is int and status in {19, 20}:
            return None
        whole = self.read(reply)
        failed = answer.get("failed_list")
        named = {
            entry.get("receiver"): self._read_entry(reply, entry)
            for entry in (failed if isinstance(failed, list) else [])
            if isinstance(entry, dict) and isinstance(entry.get("receiver"), str)
        }
        return [named.get(out.to, whole) if isinstance(whole, Sent) else whole for out in outs]

    def _read_entry(self, reply: Reply, entry: dict[str, Any]) -> Outcome:
        """The account itself is well, whatever an entry says: Viber took the call."""
        outcome = self._read_refusal(reply, entry)
        if isinstance(outcome, Retry) and outcome.pauses == "account":
            return Retry(outcome.reason)
        return outcome

    def whoami(self) -> Request | None:
        return self._call("get_account_info")

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """https://creators.viber.com/docs/bots-api/resources/app/get-info"""
        answer = reply.object()
        name, uri = self._clean(answer.get("name")), self._clean(answer.get("uri"))
        if name and _accepted(reply, answer):
            return Identity(words(f"{name} ({uri})" if uri else name))
        return not_sent(self.read(reply))

    def webhook_request(self, url: str) -> Request:
        """Sends this bot's receipts and messages to `url`; Viber calls it at once and wants a 200.

        https://creators.viber.com/docs/bots-api/getting-started/web-hooks
        """
        events = list(self.EVENTS)
        return self._call(
            "set_webhook", url=url, event_types=events, send_name=True, send_photo=False
        )

    def read_webhook(self, reply: Reply) -> Identity | Rejected:
        """The events that Viber will send, or why it sends none."""
        answer = reply.object()
        if _accepted(reply, answer):
            events = answer.get("event_types")
            named = map(self._clean, events if isinstance(events, list) else ())
            return Identity(words(", ".join(filter(None, named))) or "ok")
        refusal = self._read_refusal(reply, answer)
        return Rejected("" if isinstance(refusal, Sent) else refusal.reason)

    def authentic(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        """Whether Viber signed `body`, and lately: the time stands in what is signed.

        https://developers.viber.com/docs/api/rest-bot-api/#callbacks
        """
        wanted = hmac.new(self.token.encode(), body, hashlib.sha256).hexdigest()
        if not same(headers.get("x-viber-content-signature", ""), wanted):
            return False
        at = moment(parsed(body).get("timestamp"), 0.001)
        return at is not None and abs(now - at) <= self.WINDOW

    def webhook_lacks(self) -> tuple[str, ...]:
        return ()  # the token that sends also signs

    def receipts(self, body: bytes) -> list[Receipt]:
        """One, of one receiver: the token of a broadcast stands for all of its call."""
        match callback := parsed(body):
            case {
                "event": str(event),
                "message_token": int() | str() as token,
                "user_id": str(to),
            } if event in _RECEIPTS and type(token) is not bool:
                if not _MESSAGE_TOKEN.fullmatch(_short(token)) or self.check_recipient(to):
                    return []
                at = moment(callback.get("timestamp"), 0.001)
                reason = self._clean(callback.get("desc"))
                return [Receipt(_short(token), _RECEIPTS[event], at, reason, to)]
        return []

    def incoming(self, body: bytes) -> list[Incoming]:
        """One message; or that somebody subscribes, opens the conversation, or goes."""
        callback = parsed(body)
        event, token = callback.get("event"), callback.get("message_token")
        if not isinstance(event, str) or event not in _EVENTS or type(token) not in {int, str}:
            return []
        place, kind = _EVENTS[event]
        who = callback.get(place) if place else {"id": callback.get("user_id")}
        message = callback.get("message") if event == "message" else {}
        if not isinstance(who, dict) or not isinstance(message, dict):
            return []
        to, id_ = who.get("id"), _short(token)
        if not isinstance(to, str) or self.check_recipient(to) or not _MESSAGE_TOKEN.fullmatch(id_):
            return []
        if event == "message":
            type_ = message.get("type")
            kind = _KINDS.get(type_, "other") if isinstance(type_, str) else "other"
        return [
            Incoming(
                id=id_,
                at=moment(callback.get("timestamp"), 0.001),
                sender=to,
                name=self._clean(who.get("name")) or to,
                text=said(message.get("text")),
                kind=kind,
            )
        ]

    def _call(self, method: str, **params: Any) -> Request:
        headers = {"X-Viber-Auth-Token": self.token}
        return Request("POST", f"{self.base_url}/pa/{method}", headers, params)

    def _read_refusal(self, reply: Reply, answer: dict[str, Any]) -> Outcome:
        status = answer.get("status")
        if type(status) is not int or status == 0:
            if reply.status in {401, 403, 404}:  # not Viber's words: a wrong VIBER_API_URL, a proxy
                return replace(_ACCOUNT, reason=f"HTTP {reply.status}")
            return by_status(reply)
        why = self._clean(answer.get("status_message")) or words(f"status {status}")
        match _MEANING.get(status):
            case Rejected(dead=dead):
                return Rejected(why, dead)
            case Retry() as meant:
                return replace(meant, reason=why, after_s=reply.retry_after_s() or meant.after_s)
        return Retry(why, reply.retry_after_s())

    def _clean(self, said: object) -> str:
        return words(said, self.token)


def _short(token: object) -> str:
    """A token as text; "" for a number of more digits than Python writes."""
    return str(token) if not isinstance(token, int) or abs(token) < 10**30 else ""


_as_json = json.JSONEncoder(ensure_ascii=False).encode


def _bytes_as_json(text: str) -> int:
    return len(_as_json(text).encode("utf-8", "surrogatepass"))


def _accepted(reply: Reply, answer: dict[str, Any]) -> bool:
    status = answer.get("status")
    return type(status) is int and status == 0 and 200 <= reply.status <= 299  # False == 0, too
