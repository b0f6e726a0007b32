"""go-whatsapp-web-multidevice, "gowa", a sidecar that holds WhatsApp sessions, which it calls devices.

https://github.com/aldinokemal/go-whatsapp-web-multidevice
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

from messengers import gowa_events
from messengers.base import File, FileKind, NoReply, Outcome, Reply, Request, Sent
from messengers.gowa_events import EVENTS
from messengers.inward import Incoming, Receipt, same
from messengers.phones import Checked, Code, Hook, Link, LinkState, Passkey, Talk, Trouble
from messengers.reading import words
from messengers.sidecars import (
    IMAGES,
    LIMITED,
    MESSAGE_ID,
    VIDEOS,
    VOICES,
    is_done,
    not_sent,
    number_of,
    path_of,
    trouble_of,
)

CODES = 6
"""QR codes that are shown of one start: as many as WhatsApp itself would show."""
FORGOTTEN_S = 300.0
"""Seconds after its end for which a code counts as one of the last start's."""
_STATES: Mapping[str, LinkState] = {
    "disconnected": "stopped",
    "connecting": "starting",
    "connected": "scan",
    "logged_in": "linked",
}
_NO_DEVICE = re.compile(r"device .* not found")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A code that was fetched, the `nth` of its start, and until when it is good."""

    png: bytes = field(repr=False)
    until: datetime
    nth: int


@dataclass(frozen=True, slots=True)
class Gowa:
    """One gowa server.

    It tells a QR code as a picture only, and draws a new one whenever it is asked, which ends the last: so the last is kept
    here, in memory, for as long as it is good. It picks the ids of messages itself, so a send without an answer stays
    unknown. It cannot rest a device: one that is stopped stays connected, and is not used.
    """

    name: ClassVar[str] = "gowa"
    CAPTION_LIMIT: ClassVar[int] = 1024
    SHOWS: ClassVar[Mapping[FileKind, frozenset[str]]] = {
        "image": IMAGES,
        "video": VIDEOS,
        "animation": VIDEOS,
        "audio": frozenset(
            {"audio/aac", "audio/amr", "audio/m4a", "audio/mpeg", "audio/ogg", "audio/wav"}
            | {"audio/x-wav"}
        ),
        "voice": VOICES & {"audio/ogg"},
        "sticker": IMAGES | {"image/webp"},
    }
    """What its `src/validations/send_validation.go` lets pass, as far as phones can show it."""
    DOCUMENT_BYTES: ClassVar[int] = 50_000_000
    """WHATSAPP_SETTING_MAX_FILE_SIZE, if nobody has changed it: `src/config/settings.go`."""
    remakes_codes: ClassVar[bool] = True

    base_url: str
    user: str = ""
    password: str = field(default="", repr=False)
    _codes: dict[str, _Shown] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        url = env.get("GOWA_URL", "").strip().rstrip("/")
        user, password = (env.get(name, "").strip() for name in ("GOWA_USER", "GOWA_PASSWORD"))
        return cls(url, user, password) if url else None

    # -- sessions

    def create(self, session: str, hook: Hook) -> Talk[Link | Trouble]:
        found = self._device((yield self._get(session)))
        if isinstance(found, Trouble) and found.kind != "missing":
            return found
        wanted = _webhook(hook)
        if isinstance(found, Trouble):
            made = yield self._call("POST", "/devices", said={"device_id": session, **wanted})
            # Somebody else may have been faster.
            if (trouble := self._done(made)) and "already exists" not in trouble.reason:
                return trouble
        told = yield self._get(session, "/webhook")
        if (trouble := self._done(told)) is not None:
            return trouble
        if any(_results(told).get(name) != value for name, value in wanted.items()):
            changed = yield self._call("PATCH", f"/devices/{session}/webhook", said=wanted)
            if (trouble := self._done(changed)) is not None:
                return trouble
        return (yield from self.start(session))

    def start(self, session: str) -> Talk[Link | Trouble]:
        """Has it connect again; one without a phone begins to show codes."""
        found = self._device((yield self._get(session)))
        if isinstance(found, Trouble) or found.state != "stopped":
            return found
        return (yield from self._connect(session, found))

    def stop(self, session: str) -> Talk[Trouble | None]:
        """Leaves it as it is: gowa has no word for this."""
        found = self._device((yield self._get(session)))
        return found if isinstance(found, Trouble) else None

    def restart(self, session: str) -> Talk[Link | Trouble]:
        found = self._device((yield self._get(session)))
        return found if isinstance(found, Trouble) else (yield from self._connect(session, found))

    def _connect(self, session: str, found: Link) -> Talk[Link | Trouble]:
        self._codes.pop(session, None)
        if found.number:
            again = yield self._call("POST", f"/devices/{session}/reconnect")
            trouble = self._done(again)
            return trouble or Link("starting", found.number, found.name)
        begun = yield self._get(session, "/login")
        return self._done(begun) or Link("scan")

    def logout(self, session: str) -> Talk[Trouble | None]:
        self._codes.pop(session, None)
        return self._done((yield self._call("POST", f"/devices/{session}/logout")))

    def delete(self, session: str) -> Talk[Trouble | None]:
        self._codes.pop(session, None)
        done = self._done((yield self._call("DELETE", f"/devices/{session}")))
        return None if done is not None and done.kind == "missing" else done

    def look(self, session: str) -> Talk[Link | Trouble]:
        """A device that waits for its user does not tell for what: that is another call."""
        found = self._device((yield self._get(session)))
        if isinstance(found, Trouble):
            if found.kind == "missing":
                return Link("missing", reason=found.reason)
            return found
        if found.state != "scan":
            self._codes.pop(session, None)
            return found
        asked = _results((yield self._call("GET", "/app/passkey", session)))
        return Link("passkey") if str(asked.get("status")).startswith("awaiting") else found

    # -- linking

    def code(self, session: str) -> Talk[Code | Trouble]:
        """The code that was shown last, while it is good, and then a new one: six of them, and none until it is started anew."""
        reply = yield self._get(session)
        found = self._device(reply)
        if isinstance(found, Trouble):
            return found
        if found.state != "scan" or isinstance(reply, NoReply):
            return Trouble("unlinked", f"shows no code: it is {found.state}")
        last = self._codes.get(session)
        if last and last.until + timedelta(seconds=FORGOTTEN_S) < reply.at:
            last = None
        if last and reply.at < last.until:
            return Code(last.png, lives_s=(last.until - reply.at).total_seconds())
        if last and last.nth >= CODES:
            return Trouble("unlinked", "no phone was linked in time; start it again")
        return (yield from self._new_code(session, last.nth + 1 if last else 1))

    def _new_code(self, session: str, nth: int) -> Talk[Code | Trouble]:
        reply = yield self._get(session, "/login")
        told = _results(reply)
        link, lives_s = told.get("qr_link"), told.get("qr_duration")
        if isinstance(reply, NoReply) or not (path := path_of(link, "statics/")):
            return self._trouble(reply)
        picture = yield self._call("GET", f"/{path}")
        if isinstance(picture, NoReply):
            return self._trouble(picture)
        if not picture.body.startswith(_PNG):
            return Trouble("later", "the picture of the code could not be fetched")
        good_s = float(lives_s) if type(lives_s) is int and 0 < lives_s <= 600 else 20.0
        self._codes[session] = _Shown(picture.body, reply.at + timedelta(seconds=good_s), nth)
        return Code(picture.body, lives_s=good_s)

    def pair(self, session: str, phone: str) -> Talk[str | Trouble]:
        asked = urlencode({"phone": phone})
        reply = yield self._call("POST", f"/devices/{session}/login/code?{asked}")
        match _results(reply):
            case {"pair_code": str(code)} if code:
                return words(code)
        return self._trouble(reply)

    def passkey(self, session: str) -> Talk[Passkey | Trouble]:
        reply = yield self._call("GET", "/app/passkey", session)
        match _results(reply):
            case {"status": "awaiting_response", "challenge": {**challenge}} if challenge:
                return Passkey({str(name): value for name, value in challenge.items()})
            case {"status": "awaiting_confirmation", "code": str(code)} if code:
                return Passkey(code=words(code))
            case {"status": str(status)}:
                return Trouble("unlinked", f"no passkey is asked for ({words(status)})")
        return self._trouble(reply)

    def answer_passkey(self, session: str, assertion: Mapping[str, object]) -> Talk[Trouble | None]:
        return self._done((yield self._call("POST", "/app/passkey/response", session, assertion)))

    def confirm_passkey(self, session: str) -> Talk[Trouble | None]:
        return self._done((yield self._call("POST", "/app/passkey/confirm", session)))

    # -- what a session does

    def check(self, session: str, number: str) -> Talk[Checked | Trouble]:
        """gowa says no also when WhatsApp did not answer it: a no counts only while it finds the session's own number.

        `IsOnWhatsapp` in its `src/pkg/utils/whatsapp.go`.
        """
        reply = yield self._check(session, number)
        match _results(reply):
            case {"is_on_whatsapp": True}:
                return Checked("yes")
            case {"is_on_whatsapp": False}:
                pass
            case _:
                return self._trouble(reply)
        own = self._device((yield self._get(session)))
        if isinstance(own, Trouble):
            return own
        if own.number == number:
            return Checked("yes")
        if own.number:
            reply = yield self._check(session, own.number)
            if _results(reply).get("is_on_whatsapp") is True:
                return Checked("no")
        return Checked("unknown", reason="WhatsApp does not answer gowa's questions now")

    def _check(self, session: str, number: str) -> Request:
        return self._call("GET", f"/user/check?{urlencode({'phone': number})}", session)

    def presence(self, session: str, *, online: bool) -> Talk[Trouble | None]:
        shown = {"type": "available" if online else "unavailable"}
        return self._done((yield self._call("POST", "/send/presence", session, shown)))

    def text(self, session: str, to: str, text: str, key: str) -> Request:  # noqa: ARG002 - gowa picks the id
        said = {"phone": _chat(to), "message": text}
        return self._call("POST", "/send/message", session, said)

    def file(self, session: str, to: str, file: File, caption: str, key: str) -> Request:  # noqa: ARG002
        """As its kind says. gowa gets it in a form, or fetches it where it has a link."""
        call, name, more = _HOW[file.kind]
        content: tuple[str, str | File] = (f"{name}_url", file.link) if file.link else (name, file)
        form = [("phone", _chat(to)), *more, content]
        if caption:
            form.append(("caption", caption))
        return Request("POST", f"{self.base_url}/send/{call}", self._headers(session), form=form)

    def read_sent(self, reply: Reply) -> Outcome:
        match _results(reply):
            case {"message_id": str(id_)} if MESSAGE_ID.fullmatch(id_):
                return Sent(id_)
        return not_sent(self._trouble(reply), reply)

    def media(self, url: str) -> Request:
        return self._call("GET", "/" + url.lstrip("/"))

    # -- what it tells

    def authentic(self, headers: Mapping[str, str], body: bytes, secret: str, now_s: float) -> bool:  # noqa: ARG002
        """Whenever it was signed: gowa signs no time of its own. What it repeats is told apart by its id.

        https://github.com/aldinokemal/go-whatsapp-web-multidevice/blob/main/docs/webhook-payload.md#security
        """
        wanted = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return same(headers.get("x-hub-signature-256", "").lower(), wanted)

    def session_of(self, body: bytes) -> str:
        return gowa_events.session_of(body)

    def links(self, body: bytes) -> Sequence[Link]:  # noqa: ARG002 - it posts nothing of that
        return []

    def receipts(self, body: bytes) -> list[Receipt]:
        return gowa_events.receipts(body)

    def incoming(self, body: bytes) -> list[Incoming]:
        return gowa_events.incoming(body)

    # -- reading

    def _device(self, reply: Reply | NoReply) -> Link | Trouble:
        """A device that has a phone, but is not logged in, is on its way there."""
        match _results(reply):
            case {"state": str(state), **told} if state in _STATES:
                number = number_of(told.get("jid")) or number_of(told.get("phone_number"))
                found = _STATES[state]
                if number and found == "scan":
                    found = "starting"
                return Link(found, number, words(told.get("display_name")))
        return self._trouble(reply)

    def _done(self, reply: Reply | NoReply) -> Trouble | None:
        return None if is_done(reply) else self._trouble(reply)

    def _trouble(self, reply: Reply | NoReply) -> Trouble:
        """By its `code`: what it could not do for lack of a device comes as a 500 in words, and as a 401 what needs a phone."""
        if isinstance(reply, NoReply):
            return Trouble("away", reply.reason)
        told = reply.object()
        code, message = words(told.get("code")), words(told.get("message"), self.password)
        reason = message or f"HTTP {reply.status}"
        if code == "WA_REACHOUT_TIMELOCK" or LIMITED.search(reason):
            return Trouble("limited", reason)
        if reply.status == 404 or _NO_DEVICE.fullmatch(reason):
            return Trouble("missing", reason)
        if code in {"AUTHENTICATION_ERROR", "INVALID_WA_CLI", "ALREADY_LOGGED_IN"}:
            return Trouble("unlinked", reason)
        if any(word in reason for word in ("not initialized", "is not logged in", "no pending")):
            return Trouble("unlinked", reason)
        return trouble_of(reply, reason)

    # -- calling

    def _headers(self, session: str = "") -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if session:
            headers["X-Device-Id"] = session
        if self.user or self.password:
            told = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {told}"
        return headers

    def _get(self, session: str, of: str = "") -> Request:
        return self._call("GET", f"/devices/{session}{of}")

    def _call(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        session: str = "",
        said: Mapping[str, Any] | None = None,
    ) -> Request:
        url = self.base_url + quote(path, safe="/?=&%@:+,;~")
        return Request(method, url, self._headers(session), said)


_HOW: Mapping[FileKind, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "image": ("image", "image", ()),
    "video": ("video", "video", ()),
    "animation": ("video", "video", (("gif_playback", "true"),)),
    "audio": ("audio", "audio", ()),
    "voice": ("audio", "audio", (("ptt", "true"),)),
    "sticker": ("sticker", "sticker", ()),
    "document": ("file", "file", ()),
}
"""The call for each kind, what it calls the file, and what else it is told."""


def _webhook(hook: Hook) -> dict[str, Any]:
    return {
        "webhook_url": hook.url,
        "webhook_secret": hook.secret,
        "webhook_events": ",".join(EVENTS),
    }


def _results(reply: Reply | NoReply) -> dict[str, Any]:
    """What a good answer holds; {} for any other."""
    if isinstance(reply, NoReply) or not 200 <= reply.status <= 299:
        return {}
    found = reply.object().get("results")
    return found if isinstance(found, dict) else {}


def _chat(to: str) -> str:
    """gowa's way to write an address."""
    return to.replace("@c.us", "@s.whatsapp.net") if "@" in to else f"{to}@s.whatsapp.net"
