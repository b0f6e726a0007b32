"""WhatsApp Business Cloud API: texts, templates and files from one business number.

https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self

from messengers import whatsapp_files
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
    Template,
    Unclear,
    by_status,
    not_sent,
    unanswered,
    utf16,
)
from messengers.inward import Incoming, Kind, Receipt, said, same
from messengers.reading import REASON_LIMIT, entries, moment, parsed, words

_PHONE = re.compile(r"\+?[0-9]{1,15}")
# A business-scoped user id, or (`ENT`) one that linked portfolios share.
# https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids/
_BSUID = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")
# Ids have no stated form; what is no short ASCII word could not be stored, nor found again by a receipt.
_WAMID = re.compile(r"[!-~]{1,500}")
# https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/overview
_TEMPLATE_NAME = re.compile(r"[a-z0-9_]{1,512}")
# https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/supported-languages
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?")

_API_URL = "https://graph.facebook.com"
_API_VERSION = "v23.0"

_ACCOUNT = Retry("", pauses="account")
_REFUSED = Retry("", pauses="account", refused=True)
# How long a template is paused the first time; for the limits that name no time it is our guess.
# https://developers.facebook.com/docs/whatsapp/business-management-api/message-templates/template-pausing
_HOURS_S = 3 * 3600

_NOT_FETCHED = 131053
_MEANING: dict[int, Retry | Rejected] = {
    # Over a rate of the app, the account or the number.
    **dict.fromkeys((4, 17, 341, 613, 80007, 130429), _ACCOUNT),
    # Token, permissions, payment, policy, registration: nothing goes until somebody mends it.
    **dict.fromkeys((0, 3, 10, 33, 102, 190, *range(200, 300), 368), _REFUSED),
    **dict.fromkeys((130497, 131005, 131031, 131037, 131042, 131044, 131045), _REFUSED),
    **dict.fromkeys((133010, 133016), _REFUSED),
    # Limits for spam and for template abuse; a template paused for its low quality.
    **dict.fromkeys((131048, 131064, 132015), replace(_ACCOUNT, after_s=_HOURS_S)),
    # One message in about 6 s to one user.
    131056: Retry("", after_s=6, pauses="recipient"),
    # Meta's own trouble.
    **dict.fromkeys((1, 2, 131000, 131016, 135000), Retry("")),
    # Maintenance, as while the number's throughput is raised.
    131057: Retry("", after_s=300),
    # A throttled flow goes out ten times an hour.
    132069: Retry("", after_s=3600),
    # The recipient: not on WhatsApp, in an experiment, ourselves, not on the test list.
    **dict.fromkeys((130472, 131021, 131026, 131030), Rejected("")),
    131047: Rejected("outside the 24-hour window only a template can be sent"),
    131049: Rejected("may be tried again after 24 hours at the earliest"),
    131050: Rejected("has opted out of marketing messages", dead=True),
    # The request. 131053, media that Meta could not fetch, gets a second try in `send_piece`.
    **dict.fromkeys((100, 131008, 131009, 131051, 131052, 131053, 131062, 131063), Rejected("")),
    **dict.fromkeys((*range(132000, 132013), 132016, 132068, 137000), Rejected("")),
}
"""`error.code` -> what it means; a text here is our hint, put behind Meta's words.

Meta asks to judge by code and details, never by title or HTTP status.
https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
The first row also names the throttles that the Graph API has for every app.
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""


_STATES: dict[object, Literal["sent", "delivered", "read", "failed"]] = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "played": "read",
    "failed": "failed",
}
"""`status` -> what it means; *delivered* is left out when the chat is open.

https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status
"""
_KINDS: dict[object, Kind] = {
    "text": "text",
    "button": "button",
    "interactive": "button",
    "image": "image",
    "video": "video",
    "audio": "audio",
    "document": "file",
    "sticker": "sticker",
    "location": "location",
    "contacts": "contact",
    "reaction": "reaction",
}
_OUR_KEY = re.compile(r"[0-9A-Za-z]{21}-[0-9]{1,6}")
_CHALLENGE = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class WhatsApp:
    """One business phone number. Accepted is not delivered: receipts say what became of a message."""

    name: ClassVar[str] = "whatsapp"
    needs: ClassVar[tuple[str, ...]] = ("WHATSAPP_ACCESS_TOKEN", "WHATSAPP_PHONE_NUMBER_ID")
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = True
    slower: ClassVar[Mapping[str, float]] = {}
    TEXT_LIMIT: ClassVar[int] = 4096
    """In UTF-16 units, the strictest reading of Meta's «characters».

    https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/text-messages
    """
    WINDOW: ClassVar[timedelta] = timedelta(days=8)
    """How old a callback may be: Meta repeats one for 7 days."""

    takes_links: ClassVar[bool] = True
    reuses_s: ClassVar[float] = 29 * 86_400
    """A media id lives 30 days.

    https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media/
    """

    token: str = field(repr=False)
    phone_number_id: str
    base_url: str = _API_URL
    version: str = _API_VERSION
    app_secret: str = field(default="", repr=False)
    """Signs what Meta posts to us."""
    verify_token: str = field(default="", repr=False)
    """Shows Meta that the webhook is ours, and us that it is Meta who asks."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        token, number = (env.get(name, "").strip() for name in cls.needs)
        if not (token and number):
            return None
        return cls(
            token,
            number,
            base_url=(env.get("WHATSAPP_API_URL", "").strip() or _API_URL).rstrip("/"),
            version=env.get("WHATSAPP_API_VERSION", "").strip() or _API_VERSION,
            app_secret=env.get("WHATSAPP_APP_SECRET", "").strip(),
            verify_token=env.get("WHATSAPP_VERIFY_TOKEN", "").strip(),
        )

    def check_recipient(self, uuid: str) -> str | None:
        if _PHONE.fullmatch(uuid) or _BSUID.fullmatch(uuid):
            return None
        return (
            "must be 1 to 15 digits, with or without a leading +, or a BSUID such as US.1349120865"
        )

    def check_text(self, text: str) -> str | None:
        length = utf16(text)
        if not length:
            return "is empty"
        if length > self.TEXT_LIMIT:
            return f"has {length} characters (UTF-16); whatsapp takes {self.TEXT_LIMIT}"
        return None

    def check_template(self, template: Template) -> str | None:
        """What Meta is sure to refuse in `template`, or None; whether it exists is Meta's to say."""
        if not _TEMPLATE_NAME.fullmatch(template.name):
            return "name must be 1 to 512 of a-z, 0-9 and _"
        if not _LANGUAGE.fullmatch(template.language):
            return "language must be a code such as en or en_US"
        for index, part in enumerate(template.components):
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                return f"components[{index}] must be an object with a type"
        return None

    def request(self, out: Outbound) -> Request:
        """`out.to` goes into `to`, or a BSUID into `recipient`; `out.key` comes back in every receipt.

        Meta takes at most 512 characters of `biz_opaque_callback_data`; our keys are far shorter.
        """
        if out.template is None:
            return self._message(
                out, {"type": "text", "text": {"body": out.text, "preview_url": False}}
            )
        template = {
            "name": out.template.name,
            "language": {"code": out.template.language},
            "components": [dict(part) for part in out.template.components],
        }
        return self._message(out, {"type": "template", "template": template})

    def _message(self, out: Outbound, said: Mapping[str, Any]) -> Request:
        payload: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to" if _PHONE.fullmatch(out.to) else "recipient": out.to,
            "biz_opaque_callback_data": out.key,
            **said,
        }
        return Request("POST", f"{self._number_url}/messages", self._headers, payload)

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        for index, file in enumerate(files):
            if reason := whatsapp_files.unsendable(file):
                return index, reason
        return None

    def notices(self, files: Sequence[File]) -> list[str]:
        return [notice for file in files if (notice := whatsapp_files.notice(file))]

    def pieces(self, out: Outbound) -> list[Piece]:
        return whatsapp_files.pieces_of(out.files, out.text)

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        """Uploads the file unless Meta has it, then sends it."""
        if not piece.files:
            reply = yield self.request(out)
            return Taken(unanswered(reply) if isinstance(reply, NoReply) else self.read(reply))
        (index,) = piece.files
        file, id_, known = out.files[index], out.files[index].known, dict[int, str]()
        if file.id and not id_:
            reply = yield self._upload(file)
            uploaded = self._read_upload(reply)
            if not isinstance(uploaded, str):
                return Taken(uploaded)
            id_ = known[index] = uploaded
        caption = out.text if piece.text else ""
        reply = yield self._message(out, whatsapp_files.media(file, id_, caption))
        if isinstance(reply, NoReply):
            return Taken(unanswered(reply), known)
        outcome, error = self.read(reply), reply.object().get("error")
        if isinstance(outcome, Rejected) and isinstance(error, dict):
            if file.known and whatsapp_files.refuses_id(error):
                return Taken(Retry(outcome.reason, pauses="nobody"), {index: ""})
            if error.get("code") == _NOT_FETCHED and out.nth == 1:
                return Taken(Retry(outcome.reason), {index: ""} if known else {})
        return Taken(outcome, known)

    def _upload(self, file: File) -> Request:
        form = (("messaging_product", "whatsapp"), ("type", file.media_type), ("file", file))
        return Request("POST", f"{self._number_url}/media", self._headers, form=form)

    def _read_upload(self, reply: Reply | NoReply) -> str | Retry | Rejected:
        """Meta's id of what was uploaded. Nobody gets anything by an upload, so no answer leaves nothing in doubt."""
        if isinstance(reply, NoReply):
            return Retry(f"the upload got no answer: {reply.reason}")
        if 200 <= reply.status <= 299 and (id_ := whatsapp_files.media_id(reply.object())):
            return id_
        outcome = self.read(reply)
        if isinstance(outcome, Sent | Unclear):
            return Retry("the upload was answered without an id")
        return outcome

    def read(self, reply: Reply) -> Outcome:
        match reply.object():
            case {"messages": [{"id": str(wamid)}, *_]} if (
                200 <= reply.status <= 299 and _WAMID.fullmatch(wamid)
            ):
                return Sent(wamid)
            case {"error": dict(error)}:
                return self._read_error(reply, error)
        return by_status(reply)

    def whoami(self) -> Request:
        url = f"{self._number_url}?fields=verified_name,display_phone_number"
        return Request("GET", url, self._headers)

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/phone-numbers"""
        match reply.object():
            case {"verified_name": str(name), "display_phone_number": str(number)} if (
                200 <= reply.status <= 299
            ):
                return Identity(words(f"{name} (+{number.lstrip('+')})", self.token))
        return not_sent(self.read(reply))

    def webhook_lacks(self) -> tuple[str, ...]:
        found = {"WHATSAPP_APP_SECRET": self.app_secret, "WHATSAPP_VERIFY_TOKEN": self.verify_token}
        return tuple(name for name, value in found.items() if not value)

    def webhook_request(self, url: str) -> Request:
        """Has Meta call `url` for this number, whatever address the app names; it asks there at once, by GET.

        https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/override
        """
        webhook = {"override_callback_uri": url, "verify_token": self.verify_token}
        return Request("POST", self._number_url, self._headers, {"webhook_configuration": webhook})

    def read_webhook(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """Whether Meta took the address. What its app subscribes to is set at Meta's, once, by hand."""
        answer = reply.object()
        if answer.get("success") is True and 200 <= reply.status <= 299:
            return Identity(
                "the fields that your app subscribes to at developers.facebook.com: it must be `messages`"
            )
        return not_sent(self.read(reply))

    def challenge(self, query: Mapping[str, str]) -> str | None:
        """https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/create-webhook-endpoint"""
        word = query.get("hub.challenge", "")
        knows = same(query.get("hub.verify_token", ""), self.verify_token)
        asks = query.get("hub.mode") == "subscribe" and _CHALLENGE.fullmatch(word)
        return word if knows and asks else None

    def authentic(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        """Whether Meta signed `body`, and all of what it tells is not too long ago.

        https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/create-webhook-endpoint
        """
        if not self.app_secret:
            return False
        wanted = hmac.new(self.app_secret.encode(), body, hashlib.sha256).hexdigest()
        if not same(headers.get("x-hub-signature-256", ""), f"sha256={wanted}"):
            return False
        told = [
            moment(event.get("timestamp"))
            for value in self._values(body)
            for key in ("statuses", "messages")
            for event in entries(value.get(key))
        ]
        return all(at is None or abs(now - at) <= self.WINDOW for at in told)

    def receipts(self, body: bytes) -> list[Receipt]:
        """Every status in every change of every entry, as far as it is of this number."""
        return [
            receipt
            for value in self._values(body)
            for status in entries(value.get("statuses"))
            if (receipt := self._receipt(status))
        ]

    def _receipt(self, status: dict[str, Any]) -> Receipt | None:
        wamid, state, key = (status.get(k) for k in ("id", "status", "biz_opaque_callback_data"))
        if not (isinstance(wamid, str) and _WAMID.fullmatch(wamid)):
            return None
        if not isinstance(state, str) or state not in _STATES:
            return None
        error = next(iter(entries(status.get("errors"))), None)
        code = error.get("code") if error else None
        meant = _MEANING.get(code) if type(code) is int else None
        return Receipt(
            wamid,
            _STATES[state],
            moment(status.get("timestamp")),
            self._why(error, meant.reason if meant else "") if error else "",
            key=key if isinstance(key, str) and _OUR_KEY.fullmatch(key) else "",
            dead=isinstance(meant, Rejected) and meant.dead,
        )

    def incoming(self, body: bytes) -> list[Incoming]:
        """Every message in every change of every entry, as far as it is to this number."""
        return [
            message
            for value in self._values(body)
            for raw in entries(value.get("messages"))
            if (message := self._incoming(raw, entries(value.get("contacts"))))
        ]

    def _incoming(self, raw: dict[str, Any], contacts: list[dict[str, Any]]) -> Incoming | None:
        """From whom: a number, or where somebody hides it, a BSUID.

        https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids/
        """
        wamid, type_ = raw.get("id"), raw.get("type")
        who = next(
            (c for c in contacts if _wrote(c, raw)), contacts[0] if len(contacts) == 1 else {}
        )
        names = ("wa_id", "user_id", "parent_user_id")
        tos = [
            self._address(raw.get(key)) for key in ("from", "from_user_id", "from_parent_user_id")
        ]
        tos += [self._address(who.get(key)) for key in names]
        tos = list(dict.fromkeys(filter(None, tos)))
        if not tos or not (isinstance(wamid, str) and _WAMID.fullmatch(wamid)):
            return None
        profile = who.get("profile")
        name = words(profile.get("name") if isinstance(profile, dict) else "", self.token)
        return Incoming(
            id=wamid,
            at=moment(raw.get("timestamp")),
            sender=tos[0],
            name=name or tos[0],
            text=said(_text(raw)),
            kind=_KINDS.get(type_, "other") if isinstance(type_, str) else "other",
            also=tuple(tos[1:]),
            group=isinstance(raw.get("group_id"), str),
        )

    def _address(self, value: object) -> str:
        return value if isinstance(value, str) and not self.check_recipient(value) else ""

    def _values(self, body: bytes) -> Iterator[dict[str, Any]]:
        """What Meta tells of this number; its app may serve others, too."""
        for entry in entries(parsed(body).get("entry")):
            for change in entries(entry.get("changes")):
                value = change.get("value")
                if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
                    continue
                if value["metadata"].get("phone_number_id") == self.phone_number_id:
                    yield value

    @property
    def _number_url(self) -> str:
        return f"{self.base_url}/{self.version}/{self.phone_number_id}"

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _read_error(self, reply: Reply, error: dict[str, Any]) -> Outcome:
        code = error.get("code")
        meant = _MEANING.get(code) if type(code) is int else None  # True is an int, too
        if (code, error.get("error_subcode")) == (100, 33):
            # No such phone number id, or not for this token: the setting is wrong, not the message.
            # https://github.com/sajuthankappan/whatsapp-cloud-api-rs/issues/3
            meant = _REFUSED
        elif meant is None and error.get("is_transient") is True and reply.status != 429:
            meant = Retry("")
        why = self._why(error, meant.reason if meant else "")
        match meant:
            case Retry():
                waits = filter(None, (meant.after_s, reply.retry_after_s()))
                return replace(meant, reason=why, after_s=max(waits, default=None))
            case Rejected(dead=dead):
                return Rejected(why, dead)
        return by_status(reply, why)

    def _why(self, error: dict[str, Any], hint: str) -> str:
        """`131047: Re-engagement message / details (hint)`, as far as there is any of it."""
        code, data = error.get("code"), error.get("error_data")
        details = data.get("details") if isinstance(data, dict) else data
        parts = (part for part in (error.get("message"), details) if isinstance(part, str))
        # Meta quotes a malformed token back: github.com/facebookarchive/react-native-fbsdk/issues/220
        said = words(" / ".join(parts), self.token)
        if type(code) is int:
            said = f"{code}: {said.removeprefix(f'(#{code}) ') or 'no reason given'}"
        tail = f" ({hint})" if hint else ""
        return said[: REASON_LIMIT - len(tail)] + tail


def _wrote(contact: dict[str, Any], raw: dict[str, Any]) -> bool:
    ids = (raw.get("from"), raw.get("from_user_id"))
    return any(contact.get(key) in ids for key in ("wa_id", "user_id") if contact.get(key))


def _text(raw: dict[str, Any]) -> object:
    """The words in a message, wherever its kind keeps them."""
    match raw:
        case {"text": {"body": str(text)}} | {"button": {"text": str(text)}}:
            return text
        case {"interactive": {"button_reply": {"title": str(text)}}}:
            return text
        case {"interactive": {"list_reply": {"title": str(text)}}}:
            return text
        case {"reaction": {"emoji": str(text)}} | {"system": {"body": str(text)}}:
            return text
    parts = (raw.get(kind) for kind in ("image", "video", "document"))
    return next(
        (part["caption"] for part in parts if isinstance(part, dict) and "caption" in part), ""
    )
