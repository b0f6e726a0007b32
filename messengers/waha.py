"""WAHA, a sidecar that holds WhatsApp sessions. https://waha.devlike.pro/docs/how-to/sessions/"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

from messengers import waha_events
from messengers.base import (
    File,
    FileKind,
    NoReply,
    Outcome,
    Rejected,
    Reply,
    Request,
    Sent,
    by_status,
)
from messengers.inward import Incoming, Receipt, same
from messengers.message_ids import id_of
from messengers.phones import Checked, Code, Hook, Link, Passkey, Talk, Trouble
from messengers.reading import parsed, words
from messengers.sidecars import (
    CHAT,
    IMAGES,
    LIMITED,
    VIDEOS,
    VOICES,
    address,
    is_done,
    not_sent,
    seconds,
    trouble_of,
)
from messengers.waha_events import EVENTS, STATES

WINDOW_S = 3600.0
"""How old a call may be: each try of it bears the time of the first, and ten take some 40 minutes."""
_TOO_LARGE = "request entity too large"
"""In a 500: what its own HTTP server says of a body over 50 MB."""


@dataclass(frozen=True, slots=True)
class Waha:
    """One WAHA server.

    A message goes out under an id that we choose (`message_ids`): the engines GOWS and NOWEB hand it to WhatsApp, from WAHA
    2026.4.3 on. There a send that got no answer is settled by its ack, and sent again it is shown once. WEBJS and WPP
    choose their own: such a send stays unknown.
    """

    name: ClassVar[str] = "waha"
    CAPTION_LIMIT: ClassVar[int] = 1024
    SHOWS: ClassVar[Mapping[FileKind, frozenset[str]]] = {
        "image": IMAGES,
        "video": VIDEOS,
        "animation": VIDEOS,
        "voice": VOICES,
    }
    """It has no call for audio that is no voice message, and none for stickers.
    https://waha.devlike.pro/docs/how-to/send-messages/"""
    DOCUMENT_BYTES: ClassVar[int] = 39_000_000
    """In base64, with its message around it, just under the 50 MB that it reads of a body: `json({ limit: '50mb' })`,
    https://github.com/devlikeapro/waha/blob/core/src/main.ts"""
    remakes_codes: ClassVar[bool] = False

    base_url: str
    key: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        url = env.get("WAHA_URL", "").strip().rstrip("/")
        return cls(url, env.get("WAHA_API_KEY", "").strip()) if url else None

    # -- sessions

    def create(self, session: str, hook: Hook) -> Talk[Link | Trouble]:
        """One that is there keeps all of its configuration but our webhook: a PUT replaces the whole, and restarts it."""
        reply = yield self._get(f"/api/sessions/{session}")
        if not isinstance(reply, NoReply) and reply.status == 404:
            new = {"name": session, "start": True, "config": {"webhooks": [_webhook(hook)]}}
            made = yield self._post("/api/sessions", new)
            if isinstance(made, NoReply) or made.status != 422:
                return self._link(made)
            reply = yield self._get(f"/api/sessions/{session}")  # somebody else was faster
        found = self._link(reply)
        if isinstance(found, Trouble):
            return found
        config = _object(reply).get("config")
        config = config if isinstance(config, dict) else {}
        if not _has_hook(config, hook):
            changed = yield self._call(
                "PUT", f"/api/sessions/{session}", {"config": _hooked(config, hook)}
            )
            if isinstance(trouble := self._link(changed), Trouble):
                return trouble
        return (yield from self.start(session))

    def start(self, session: str) -> Talk[Link | Trouble]:
        return self._link((yield self._post(f"/api/sessions/{session}/start")))

    def stop(self, session: str) -> Talk[Trouble | None]:
        return self._done((yield self._post(f"/api/sessions/{session}/stop")))

    def restart(self, session: str) -> Talk[Link | Trouble]:
        return self._link((yield self._post(f"/api/sessions/{session}/restart")))

    def logout(self, session: str) -> Talk[Trouble | None]:
        """And stops it: WAHA starts a session anew that it has logged out, to show a QR code that nobody asked for."""
        done = self._done((yield self._post(f"/api/sessions/{session}/logout")))
        return done or (yield from self.stop(session))

    def delete(self, session: str) -> Talk[Trouble | None]:
        done = self._done((yield self._call("DELETE", f"/api/sessions/{session}")))
        return None if isinstance(done, Trouble) and done.kind == "missing" else done

    def look(self, session: str) -> Talk[Link | Trouble]:
        reply = yield self._get(f"/api/sessions/{session}")
        found = self._link(reply)
        if isinstance(found, Trouble) and found.kind == "missing":
            return Link("missing", reason=found.reason)
        return found

    # -- linking

    def code(self, session: str) -> Talk[Code | Trouble]:
        """What the code says; whoever shows it draws it."""
        reply = yield self._get(f"/api/{session}/auth/qr?format=raw")
        match _object(reply):
            case {"value": str(text)} if text:
                return Code(b"", text)
        return self._trouble(reply)

    def pair(self, session: str, phone: str) -> Talk[str | Trouble]:
        reply = yield self._post(f"/api/{session}/auth/request-code", {"phoneNumber": phone})
        match _object(reply):
            case {"code": str(code)} if code:
                return words(code)
        return self._trouble(reply)

    def passkey(self, session: str) -> Talk[Passkey | Trouble]:
        """https://waha.devlike.pro/docs/how-to/sessions/#passkey: a 422 says that nothing is pending."""
        reply = yield self._get(f"/api/{session}/auth/passkey/challenge")
        match _object(reply):
            case {"challenge": str(challenge)} if challenge:
                return Passkey(_object(reply))
        if isinstance(reply, NoReply) or reply.status != 422:
            return self._trouble(reply)
        reply = yield self._get(f"/api/{session}/auth/passkey/confirmation")
        match _object(reply):
            case {"code": str(code)} if code:
                return Passkey(code=words(code))
        return self._trouble(reply)

    def answer_passkey(self, session: str, assertion: Mapping[str, object]) -> Talk[Trouble | None]:
        return self._done((yield self._post(f"/api/{session}/auth/passkey", assertion)))

    def confirm_passkey(self, session: str) -> Talk[Trouble | None]:
        return self._done((yield self._post(f"/api/{session}/auth/passkey/confirm")))

    # -- what a session does

    def check(self, session: str, number: str) -> Talk[Checked | Trouble]:
        asked = urlencode({"phone": number, "session": session})
        reply = yield self._get(f"/api/contacts/check-exists?{asked}")
        match _object(reply):
            case {"numberExists": True, "chatId": str(chat)} if CHAT.fullmatch(chat):
                to = address(chat)
                return Checked("yes", "" if to == number else to)
            case {"numberExists": bool(there)}:
                return Checked("yes" if there else "no")
        return self._trouble(reply)

    def presence(self, session: str, *, online: bool) -> Talk[Trouble | None]:
        shown = {"presence": "online" if online else "offline"}
        return self._done((yield self._post(f"/api/{session}/presence", shown)))

    def text(self, session: str, to: str, text: str, key: str) -> Request:
        said = {"session": session, "chatId": _chat(to), "id": id_of(key), "text": text}
        return self._post("/api/sendText", {**said, "linkPreview": False})

    def file(self, session: str, to: str, file: File, caption: str, key: str) -> Request:
        """As its kind says. WAHA gets it in base64, or fetches it where it has a link."""
        call, more = _HOW.get(file.kind, _HOW["document"])
        content = {"url": file.link} if file.link else {"data": file}
        said: dict[str, Any] = {
            "session": session,
            "chatId": _chat(to),
            "id": id_of(key),
            "file": {"mimetype": _media_type(file), "filename": file.name, **content},
            **more,
        }
        if caption:
            said["caption"] = caption
        return self._post(f"/api/{call}", said)

    def read_sent(self, reply: Reply) -> Outcome:
        if 200 <= reply.status <= 299 and (id_ := waha_events.message_id(reply.object())):
            return Sent(id_)
        trouble = self._trouble(reply)
        if _TOO_LARGE in trouble.reason:
            return Rejected(trouble.reason)
        if trouble.kind == "unlinked" and "expected" not in reply.object():
            return by_status(reply, trouble.reason)  # some other fault of the request
        return not_sent(trouble, reply)

    def media(self, url: str) -> Request:
        """From this server, whatever host `url` names: WAHA is told its own name, which need not be ours for it."""
        return self._get("/" + url.lstrip("/"))

    # -- what it tells

    def authentic(self, headers: Mapping[str, str], body: bytes, secret: str, now_s: float) -> bool:
        """By the raw body, which holds when it was written; no header is signed.

        https://waha.devlike.pro/docs/how-to/events/#hmac-authentication
        """
        wanted = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
        if not same(headers.get("x-webhook-hmac", "").lower(), wanted):
            return False
        at = seconds(parsed(body).get("timestamp"), 0.001)
        return at is not None and abs(now_s - at.timestamp()) <= WINDOW_S

    def session_of(self, body: bytes) -> str:
        return waha_events.session_of(body)

    def links(self, body: bytes) -> Sequence[Link]:
        return waha_events.links(body)

    def receipts(self, body: bytes) -> list[Receipt]:
        return waha_events.receipts(body)

    def incoming(self, body: bytes) -> list[Incoming]:
        return waha_events.incoming(body)

    # -- reading

    def _link(self, reply: Reply | NoReply) -> Link | Trouble:
        match _object(reply):
            case {"status": str(status), **told} if status in STATES:
                return Link(STATES[status], *waha_events.me(told.get("me"), self.key))
        return self._trouble(reply)

    def _done(self, reply: Reply | NoReply) -> Trouble | None:
        return None if is_done(reply) else self._trouble(reply)

    def _trouble(self, reply: Reply | NoReply) -> Trouble:
        """404: no such session, or one that does not run; 422: not in this state; 500: what its engine has thrown."""
        if isinstance(reply, NoReply):
            return Trouble("away", reply.reason)
        reason = _reason(reply, self.key)
        if LIMITED.search(reason):
            return Trouble("limited", reason)
        if reply.status == 404:
            return Trouble("missing", reason)
        if reply.status in {409, 422}:
            return Trouble("unlinked", reason)
        return trouble_of(reply, reason)

    # -- calling

    def _get(self, path: str) -> Request:
        return self._call("GET", path)

    def _post(self, path: str, said: Mapping[str, Any] | None = None) -> Request:
        return self._call("POST", path, said)

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


def _media_type(file: File) -> str:
    """A voice message is played only if it is said to be Opus."""
    return "audio/ogg; codecs=opus" if file.kind == "voice" else file.media_type


def _webhook(hook: Hook) -> dict[str, Any]:
    return {
        "url": hook.url,
        "events": list(EVENTS),
        "hmac": {"key": hook.secret},
        "retries": {"policy": "exponential", "delaySeconds": 2, "attempts": 10},
    }


def _hooks(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = config.get("webhooks")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _has_hook(config: Mapping[str, Any], hook: Hook) -> bool:
    for one in _hooks(config):
        match one:
            case {"url": hook.url, "hmac": {"key": hook.secret}, "events": list(events)}:
                return set(EVENTS) == {event for event in events if isinstance(event, str)}
    return False


def _hooked(config: Mapping[str, Any], hook: Hook) -> dict[str, Any]:
    """`config` with our webhook; others that it has, stay."""
    others = [one for one in _hooks(config) if one.get("url") != hook.url]
    return {**config, "webhooks": [*others, _webhook(hook)]}


def _object(reply: Reply | NoReply) -> dict[str, Any]:
    """What a good answer says; {} for any other."""
    return reply.object() if isinstance(reply, Reply) and 200 <= reply.status <= 299 else {}


def _reason(reply: Reply, secret: str) -> str:
    """Nest's `message` tells more than its `error`, which is the status in words."""
    said: list[object] = []
    match reply.object():
        case {"exception": {"message": str(why)}}:
            said = [why]
        case {"message": [*whys]}:
            said = list(whys)
        case {"message": str(why)} | {"error": str(why)} | {"error": {"message": str(why)}}:
            said = [why]
    status = reply.object().get("status")
    state = f"({words(status)})" if isinstance(status, str) and "expected" in reply.object() else ""
    found = words(" ".join([*(one for one in said if isinstance(one, str)), state]), secret)
    return found or f"HTTP {reply.status}"


def _chat(to: str) -> str:
    """WAHA's way to write an address."""
    return to.replace("@s.whatsapp.net", "@c.us") if "@" in to else f"{to}@c.us"
