"""WAHA, a sidecar that holds WhatsApp sessions. https://waha.devlike.pro/docs/how-to/sessions/"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

from messengers.base import (
    File,
    Incoming,
    Kind,
    Media,
    NoReply,
    Outcome,
    Receipt,
    Reply,
    Request,
    Retry,
    Sent,
    by_status,
    moment,
    parsed,
    said,
    same,
    words,
)
from messengers.phones import Checked, Code, Hook, Link, LinkState, Passkey, Talk, Trouble

EVENTS = ("session.status", "message", "message.reaction", "message.ack")
"""What the sidecar is to tell us."""
WINDOW_S = 300.0
"""How old a call may be: WAHA repeats one for a minute by default, with the time of the first try."""
_STATES: Mapping[str, LinkState] = {
    "STOPPED": "stopped",
    "STARTING": "starting",
    "SCAN_QR_CODE": "scan",
    "PASSKEY_REQUIRED": "passkey",
    "PASSKEY_CONFIRMATION_REQUIRED": "passkey",
    "WORKING": "linked",
    "FAILED": "failed",
}
"""https://waha.devlike.pro/docs/how-to/sessions/#session-status"""
_ACKS: Mapping[int, Literal["sent", "delivered", "read", "failed"]] = {
    -1: "failed",
    1: "sent",
    2: "delivered",
    3: "read",
    4: "read",
}
"""https://waha.devlike.pro/docs/how-to/events/#messageack"""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHAT = re.compile(r"[0-9-]{5,40}@(c\.us|s\.whatsapp\.net|lid|g\.us)")
_LIMITED = re.compile(r"\b463\b|reach.?out.?time.?lock|rate-overlimit|\b429\b", re.IGNORECASE)
"""WhatsApp's own words for an account that it restricts. https://github.com/WhiskeySockets/Baileys/issues/2441"""
_AGAIN_S = 3.0
"""Seconds until a session that is not linked is asked for again by a send; by then it is known not to be there."""


@dataclass(frozen=True, slots=True)
class Waha:
    """One WAHA server."""

    name: ClassVar[str] = "waha"
    CAPTION_LIMIT: ClassVar[int] = 1024
    remakes_codes: ClassVar[bool] = False

    base_url: str
    key: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        url = env.get("WAHA_URL", "").strip().rstrip("/")
        return cls(url, env.get("WAHA_API_KEY", "").strip()) if url else None

    # -- sessions

    def create(self, session: str, hook: Hook) -> Talk[Link | Trouble]:
        config = {"webhooks": [_webhook(hook)]}
        reply = yield self._get(f"/api/sessions/{session}")
        if not isinstance(reply, NoReply) and reply.status == 404:
            new = {"name": session, "start": True, "config": config}
            return _link((yield self._post("/api/sessions", new)))
        found = _link(reply)
        if isinstance(found, Trouble):
            return found
        if not _has_hook(reply, hook):
            changed = _link((yield self._call("PUT", f"/api/sessions/{session}", {"config": config})))
            if isinstance(changed, Trouble):
                return changed
        return (yield from self.start(session))

    def start(self, session: str) -> Talk[Link | Trouble]:
        return _link((yield self._post(f"/api/sessions/{session}/start")))

    def stop(self, session: str) -> Talk[None | Trouble]:
        return _done((yield self._post(f"/api/sessions/{session}/stop")))

    def restart(self, session: str) -> Talk[Link | Trouble]:
        return _link((yield self._post(f"/api/sessions/{session}/restart")))

    def logout(self, session: str) -> Talk[None | Trouble]:
        return _done((yield self._post(f"/api/sessions/{session}/logout")))

    def delete(self, session: str) -> Talk[None | Trouble]:
        done = _done((yield self._call("DELETE", f"/api/sessions/{session}")))
        return None if isinstance(done, Trouble) and done.kind == "missing" else done

    def look(self, session: str) -> Talk[Link | Trouble]:
        reply = yield self._get(f"/api/sessions/{session}")
        found = _link(reply)
        if isinstance(found, Trouble) and found.kind == "missing":
            return Link("missing", reason=found.reason)
        return found

    # -- linking

    def code(self, session: str) -> Talk[Code | Trouble]:
        reply = yield self._get(f"/api/{session}/auth/qr?format=raw")
        match _object(reply):
            case {"value": str(text)} if text:
                return Code(b"", text)
        return _trouble(reply)

    def pair(self, session: str, phone: str) -> Talk[str | Trouble]:
        reply = yield self._post(f"/api/{session}/auth/request-code", {"phoneNumber": phone})
        match _object(reply):
            case {"code": str(code)} if code:
                return words(code)
        return _trouble(reply)

    def passkey(self, session: str) -> Talk[Passkey | Trouble]:
        reply = yield self._get(f"/api/{session}/auth/passkey/challenge")
        if challenge := _object(reply):
            return Passkey(challenge)
        if isinstance(reply, NoReply) or reply.status not in {404, 409, 422}:
            return _trouble(reply)
        reply = yield self._get(f"/api/{session}/auth/passkey/confirmation")
        match _object(reply):
            case {"code": str(code)} if code:
                return Passkey(code=words(code))
        return _trouble(reply)

    def answer_passkey(self, session: str, assertion: Mapping[str, object]) -> Talk[None | Trouble]:
        return _done((yield self._post(f"/api/{session}/auth/passkey", assertion)))

    def confirm_passkey(self, session: str) -> Talk[None | Trouble]:
        return _done((yield self._post(f"/api/{session}/auth/passkey/confirm")))

    # -- what a session does

    def check(self, session: str, number: str) -> Talk[Checked | Trouble]:
        asked = urlencode({"phone": number, "session": session})
        reply = yield self._get(f"/api/contacts/check-exists?{asked}")
        match _object(reply):
            case {"numberExists": True, "chatId": str(chat)} if _CHAT.fullmatch(chat):
                return Checked("yes", _address(chat))
            case {"numberExists": bool(there)}:
                return Checked("yes" if there else "no")
        return _trouble(reply)

    def presence(self, session: str, *, online: bool) -> Talk[None | Trouble]:
        shown = {"presence": "online" if online else "offline"}
        return _done((yield self._post(f"/api/{session}/presence", shown)))

    def text(self, session: str, to: str, text: str, key: str) -> Request:  # noqa: ARG002
        said = {"session": session, "chatId": _chat(to), "text": text, "linkPreview": False}
        return self._post("/api/sendText", said)

    def file(self, session: str, to: str, file: File, caption: str, key: str) -> Request:  # noqa: ARG002
        """An image, video or voice as such; anything else as a file. WAHA fetches it by its link, or gets it in base64."""
        content = {"url": file.link} if file.link else {"data": file}
        call, more = _HOW.get(file.kind, _HOW["document"])
        said: dict[str, Any] = {
            "session": session,
            "chatId": _chat(to),
            "file": {"mimetype": file.media_type, "filename": file.name, **content},
            **more,
        }
        if caption:
            said["caption"] = caption
        return self._post(f"/api/{call}", said)

    def read_sent(self, reply: Reply) -> Outcome:
        if 200 <= reply.status <= 299 and (id_ := _message_id(reply.object())):
            return Sent(id_)
        trouble = _trouble(reply)
        match trouble.kind:
            case "limited":
                return Retry(trouble.reason, pauses="account", refused=True, stops=True)
            case "missing" | "unlinked":
                return Retry(trouble.reason, after_s=_AGAIN_S, pauses="account")
            case "refused" if reply.status in {401, 403}:
                return Retry(trouble.reason, pauses="account", refused=True)
        return by_status(reply, trouble.reason)

    def media(self, url: str) -> Request:
        """From this server, whatever host `url` names: WAHA is told its own name, which need not be ours for it."""
        path = "/" + url.partition("://")[2].partition("/")[2]
        return self._get(path)

    # -- what it tells

    def authentic(self, headers: Mapping[str, str], body: bytes, secret: str, now_s: float) -> bool:
        """https://waha.devlike.pro/docs/how-to/events/#hmac-authentication"""
        wanted = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
        if not same(headers.get("x-webhook-hmac", "").lower(), wanted):
            return False
        at = moment(parsed(body).get("timestamp"), 0.001)
        return at is not None and abs(now_s - at.timestamp()) <= WINDOW_S

    def session_of(self, body: bytes) -> str:
        session = parsed(body).get("session")
        return session if isinstance(session, str) and _NAME.fullmatch(session) else ""

    def links(self, body: bytes) -> Sequence[Link]:
        match parsed(body):
            case {"event": "session.status", "payload": {"status": str(status)}, **rest} if (
                status in _STATES
            ):
                return [Link(_STATES[status], *_me(rest.get("me")))]
        return []

    def receipts(self, body: bytes) -> list[Receipt]:
        match parsed(body):
            case {"event": "message.ack", "payload": {"ack": int(ack), **told}, **rest} if (
                ack in _ACKS and told.get("fromMe") is True and (id_ := _message_id(told))
            ):
                return [Receipt(id_, _ACKS[ack], moment(rest.get("timestamp"), 0.001))]
        return []

    def incoming(self, body: bytes) -> list[Incoming]:
        match parsed(body):
            case {
                "event": "message" | "message.reaction",
                "payload": {"id": str(id_), "from": str(chat), **told},
            } if told.get("fromMe") is not True and _CHAT.fullmatch(chat):
                return [_incoming(id_, chat, told)]
        return []

    # -- calling

    def _get(self, path: str) -> Request:
        return self._call("GET", path)

    def _post(self, path: str, said: Mapping[str, Any] | None = None) -> Request:
        return self._call("POST", path, said or {})

    def _call(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        said: Mapping[str, Any] | None = None,
    ) -> Request:
        headers = {"Accept": "application/json"} | ({"X-Api-Key": self.key} if self.key else {})
        return Request(method, self.base_url + quote(path, safe="/?=&%@:+,;~"), headers, said)


_HOW: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "image": ("sendImage", {}),
    "video": ("sendVideo", {"convert": False}),
    "animation": ("sendVideo", {"convert": False}),
    "voice": ("sendVoice", {"convert": False}),
    "document": ("sendFile", {}),
}


def _webhook(hook: Hook) -> dict[str, Any]:
    return {
        "url": hook.url,
        "events": list(EVENTS),
        "hmac": {"key": hook.secret},
        "retries": {"policy": "exponential", "delaySeconds": 2, "attempts": 10},
    }


def _has_hook(reply: Reply | NoReply, hook: Hook) -> bool:
    match _object(reply):
        case {"config": {"webhooks": [{"url": hook.url, "hmac": {"key": hook.secret}}]}}:
            return True
    return False


def _object(reply: Reply | NoReply) -> dict[str, Any]:
    """What a good answer says; {} for any other."""
    return reply.object() if isinstance(reply, Reply) and 200 <= reply.status <= 299 else {}


def _link(reply: Reply | NoReply) -> Link | Trouble:
    match _object(reply):
        case {"status": str(status), **told} if status in _STATES:
            return Link(_STATES[status], *_me(told.get("me")))
    return _trouble(reply)


def _me(me: object) -> tuple[str, str]:
    """Number and name of the linked phone."""
    match me:
        case {"id": str(id_), **told}:
            number = id_.partition("@")[0].partition(":")[0]
            return number if number.isascii() and number.isdigit() else "", words(told.get("pushName"))
    return "", ""


def _done(reply: Reply | NoReply) -> None | Trouble:
    if isinstance(reply, Reply) and 200 <= reply.status <= 299:
        return None
    return _trouble(reply)


def _trouble(reply: Reply | NoReply) -> Trouble:
    if isinstance(reply, NoReply):
        return Trouble("away", reply.reason)
    reason = _reason(reply)
    if _LIMITED.search(reason) or reply.status == 429:
        return Trouble("limited", reason)
    match reply.status:
        case 404:
            return Trouble("missing", reason)
        case 409 | 422:
            return Trouble("unlinked", reason)
        case status if 400 <= status <= 499:
            return Trouble("refused", reason)
        case status if 500 <= status <= 599:
            return Trouble("later", reason)
    return Trouble("away", f"HTTP {reply.status} with an answer that could not be read")


def _reason(reply: Reply) -> str:
    match reply.object():
        case {"exception": {"message": str(why)}} | {"error": str(why)} | {"message": str(why)}:
            return words(why) or f"HTTP {reply.status}"
    return f"HTTP {reply.status}"


def _chat(to: str) -> str:
    """WAHA's way to write an address."""
    return to.replace("@s.whatsapp.net", "@c.us") if "@" in to else f"{to}@c.us"


def _address(chat: str) -> str:
    """Ours: a person is a number."""
    number, _, place = chat.partition("@")
    return number if place in {"c.us", "s.whatsapp.net"} else chat


def _message_id(told: Mapping[str, Any]) -> str:
    """WhatsApp's own id: what else stands in WAHA's, the chat, is spelt in more than one way.

    `true_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA`, in a group with `_` and the participant behind.
    """
    id_ = told.get("id")
    if isinstance(id_, dict):  # as some engines have it
        id_ = id_.get("_serialized")
    parts = id_.split("_") if isinstance(id_, str) else []
    found = parts[2] if len(parts) > 2 else parts[0] if len(parts) == 1 else ""
    return found if re.fullmatch(r"[!-~]{1,200}", found) else ""


def _incoming(id_: str, chat: str, told: Mapping[str, Any]) -> Incoming:
    data = told.get("_data")
    name = data.get("notifyName") or data.get("pushName") if isinstance(data, dict) else ""
    kind, text = _kind(told)
    return Incoming(
        id=words(id_),
        at=moment(told.get("timestamp")),
        sender=_address(chat),
        name=words(name),
        text=text,
        kind=kind,
        group=chat.endswith("@g.us"),
        media=_media(told),
    )


def _kind(told: Mapping[str, Any]) -> tuple[Kind, str]:
    """What sort of message it is, and its text."""
    text = said(told.get("body"))
    match told:
        case {"reaction": {"text": str(reaction)}}:
            return "reaction", said(reaction)
        case {"location": {"latitude": latitude, "longitude": longitude}}:
            return "location", words(f"{latitude},{longitude}")
        case {"vCards": [str(card), *_]}:
            return "contact", said(card)
        case {"hasMedia": True, "media": {"mimetype": str(media_type)}}:
            return _KINDS.get(media_type.partition("/")[0], "file"), text
    return "text", text


_KINDS: Mapping[str, Kind] = {"image": "image", "video": "video", "audio": "audio"}


def _media(told: Mapping[str, Any]) -> Media | None:
    match told:
        case {"hasMedia": True, "media": {"url": str(url), **more}} if url:
            media_type = more.get("mimetype")
            return Media(
                url,
                words(media_type) or "application/octet-stream",
                words(more.get("filename")),
            )
    return None
