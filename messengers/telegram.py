"""Telegram Bot API: texts and files from one bot to chats, groups and channels.

https://core.telegram.org/bots/api
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Self

from messengers import telegram_files
from messengers.base import (
    File,
    Identity,
    NoReply,
    Outbound,
    Outcome,
    Person,
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
    utf16,
)
from messengers.inward import Incoming, Kind, Receipt, said, same
from messengers.reading import moment, parsed, words

_CHAT_ID = re.compile(r"0|-?[1-9][0-9]{0,15}")
# Names of four characters are sold, longer ones are free. https://core.telegram.org/method/account.checkUsername
_USERNAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")

# The recipient or the request is at fault, whatever code comes with it.
_FOR_GOOD = re.compile(
    r"chat not found|user not found|PEER_ID_INVALID|bot was blocked by the user|user is deactivated"
    r"|can't initiate conversation|bot was kicked|bot is not a member|chat was deleted"
    r"|can't send messages to bots|not enough rights"
    r"|message text is empty|is too long|can't parse entities|Wrong HTTP URL specified"
    r"|Failed to get HTTP URL content|file is too big|wrong file_id",
    re.IGNORECASE,
)

# Nobody is there any more, or wants us: until they write again, nothing can reach them.
_DEAD = re.compile(
    r"bot was blocked by the user|user is deactivated|chat was deleted", re.IGNORECASE
)

_KINDS: dict[str, Kind] = {
    "text": "text",
    "photo": "image",
    **dict.fromkeys(("video", "animation", "video_note"), "video"),
    **dict.fromkeys(("voice", "audio"), "audio"),
    "document": "file",
    "sticker": "sticker",
    **dict.fromkeys(("location", "venue"), "location"),
    "contact": "contact",
}
"""What a message holds -> its kind. https://core.telegram.org/bots/api#message"""

_BEGINNINGS = {
    "Too Many Requests": 429,
    "Unauthorized": 401,
    "Misdirected Request": 401,  # an own server that does not serve this token
    "Logged out": 401,  # comes with 400: the bot was moved to another server
    "Bad Request: logged out": 401,
    "Not Found": 404,
    "Conflict": 409,
    "Bad Request": 400,
    "Forbidden": 403,
    "Request Entity Too Large": 413,
    "Internal Server Error": 500,
}
"""How a description begins -> the code it stands for; the server itself changes codes on the way.

https://github.com/tdlib/telegram-bot-api, Client.cpp: fail_query_with_error, get_closing_error; ClientManager.cpp: send
"""


@dataclass(frozen=True, slots=True)
class Telegram:
    """One bot. Sent is final: a bot is told of no delivery."""

    name: ClassVar[str] = "telegram"
    needs: ClassVar[tuple[str, ...]] = ("TELEGRAM_BOT_TOKEN",)
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = False
    slower: ClassVar[Mapping[str, float]] = {"-": 20 / 60}
    """A group's id is negative. https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this"""
    TEXT_LIMIT: ClassVar[int] = 4096
    """https://core.telegram.org/bots/api#sendmessage

    In UTF-16 units, as Telegram counts entities: the strictest reading of «characters», so never refused late. Somebody
    measured whole characters: https://github.com/FerroxLabs/wayland/issues/934
    """
    ID_BITS: ClassVar[int] = 52
    """https://core.telegram.org/bots/api#chat"""
    UPDATES_LIMIT: ClassVar[int] = 100
    """https://core.telegram.org/bots/api#getupdates"""
    UPDATES: ClassVar[tuple[str, ...]] = ("message", "channel_post", "my_chat_member")
    """What we have told; the rest is of no use here. https://core.telegram.org/bots/api#update"""

    UPLOAD_MB: ClassVar[int] = 50
    """https://core.telegram.org/bots/api#sending-files"""
    takes_links: ClassVar[bool] = True
    reuses_s: ClassVar[float] = 30 * 86_400
    """A file_id has no stated end. https://core.telegram.org/bots/api#sending-files"""

    token: str = field(repr=False)
    base_url: str = "https://api.telegram.org"
    secret: str = field(default="", repr=False)
    """Comes back with each call of Telegram's to us."""
    upload_mb: int = UPLOAD_MB
    """What a file may have: an own server in its local mode takes 2000. https://core.telegram.org/bots/api#using-a-local-bot-api-server"""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        token = env.get("TELEGRAM_BOT_TOKEN", "").strip()
        base_url = env.get("TELEGRAM_API_URL", "").strip().rstrip("/")
        secret = env.get("TELEGRAM_WEBHOOK_SECRET", "").strip()
        base_url = base_url or "https://api.telegram.org"
        upload_mb = int(env.get("TELEGRAM_UPLOAD_MB", "").strip() or cls.UPLOAD_MB)
        return cls(token, base_url, secret, upload_mb) if token else None

    def check_recipient(self, uuid: str) -> str | None:
        if _USERNAME.fullmatch(uuid):
            return None
        if _CHAT_ID.fullmatch(uuid) and int(uuid).bit_length() <= self.ID_BITS:
            return None
        return f"must be a chat id (an integer of at most {self.ID_BITS} bits) or @name"

    def check_text(self, text: str) -> str | None:
        length = utf16(text)
        if not length:
            return f"is empty; telegram takes 1 to {self.TEXT_LIMIT} characters"
        if length > self.TEXT_LIMIT:
            return f"has {length} characters (UTF-16); telegram takes {self.TEXT_LIMIT}"
        return None

    def request(self, out: Outbound) -> Request:
        return self._call("sendMessage", chat_id=_chat(out), text=out.text)

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        for index, file in enumerate(files):
            if reason := telegram_files.unsendable(file, self._upload_bytes):
                return index, reason
        return None

    def notices(self, files: Sequence[File]) -> list[str]:
        changed = ((file, *telegram_files.shown_as(file)) for file in files)
        return [f"{file.name} goes as a {kind}: {why}" for file, kind, why in changed if why]

    def pieces(self, out: Outbound) -> list[Piece]:
        return telegram_files.pieces_of(out.files, out.text, self._upload_bytes)

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        reply = yield self._piece_request(out, piece)
        if isinstance(reply, NoReply):
            return Taken(unanswered(reply))
        outcome = self.read(reply)
        files = {index: out.files[index] for index in piece.files}
        if isinstance(outcome, Sent):
            made = reply.object().get("result")
            made = made if isinstance(made, list) else [made]
            pairs = zip(files.items(), made, strict=False)
            ids = {
                i: telegram_files.file_id(file, result) for (i, file), result in pairs if file.id
            }
            return Taken(outcome, {i: id_ for i, id_ in ids.items() if id_})
        stale = [index for index, file in files.items() if file.known]
        if stale and isinstance(outcome, Rejected) and telegram_files.refuses_id(outcome.reason):
            return Taken(Retry(outcome.reason, pauses="nobody"), dict.fromkeys(stale, ""))
        return Taken(outcome)

    def _piece_request(self, out: Outbound, piece: Piece) -> Request:
        if not piece.files:
            return self.request(out)
        files, caption = [out.files[index] for index in piece.files], out.text if piece.text else ""
        made = telegram_files.album if len(files) > 1 else telegram_files.single
        method, params, uploads = made(files, caption)
        params = {"chat_id": _chat(out), **params}
        if not uploads:
            return self._call(method, **params)
        form = telegram_files.form(params, uploads)
        return Request("POST", self._url(method), form=form)

    @property
    def _upload_bytes(self) -> int:
        return self.upload_mb * telegram_files.MB

    def read(self, reply: Reply) -> Outcome:
        answer = reply.object()
        if 200 <= reply.status <= 299:
            match answer:
                # True is an int, too; 0 stands for a message that Telegram sends a little later
                case {"ok": True, "result": {"message_id": int(n)}} if (
                    type(n) is int and 0 <= n < 2**63
                ):
                    return Sent(str(n))
                case {"ok": True, "result": [{"message_id": int(n)}, *_]} if (  # an album
                    type(n) is int and 0 <= n < 2**63
                ):
                    return Sent(str(n))
                case {"ok": True}:
                    return Unclear("ok, but without a message_id")
        return self._read_refusal(reply, answer)

    def whoami(self) -> Request | None:
        return self._call("getMe")

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """https://core.telegram.org/bots/api#getme"""
        match reply.object():
            case {"ok": True, "result": {"is_bot": True, **who}} if 200 <= reply.status <= 299:
                return Identity(self._called(who) or "a bot without a name")
        return not_sent(self.read(reply))

    def people_request(self) -> Request:
        """Asks who has written lately.

        An offset would drop updates and allowed_updates would stay set, so neither is given.
        """
        return self._call("getUpdates", limit=self.UPDATES_LIMIT, timeout=0)

    def read_people(self, reply: Reply) -> list[Person]:
        """Every chat, and everybody but bots, in the answer to `people_request`, each once.

        [] also when it cannot be asked: with a webhook set, updates go there and this is a 409.
        """
        answer = reply.object()
        updates = answer.get("result") if answer.get("ok") is True else None
        found: dict[str, str] = {}
        for update in updates if isinstance(updates, list) else []:
            for event in map(_dict, _dict(update).values()):
                pressed = _dict(event.get("message"))  # the message whose button was pressed
                chats, users = (event.get("chat"), pressed.get("chat")), ("from", "user")
                for who in map(_dict, (*chats, *map(event.get, users))):
                    to = self._address(who.get("id"))
                    if to and who.get("is_bot") is not True:
                        found[to] = self._called(who) or to
        return [Person(to, name) for to, name in found.items()]

    def webhook_lacks(self) -> tuple[str, ...]:
        return () if self.secret else ("TELEGRAM_WEBHOOK_SECRET",)

    def webhook_request(self, url: str) -> Request:
        """https://core.telegram.org/bots/api#setwebhook"""
        return self._call(
            "setWebhook", url=url, secret_token=self.secret, allowed_updates=list(self.UPDATES)
        )

    def read_webhook(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """What Telegram says to `webhook_request`."""
        answer = reply.object()
        if answer.get("ok") is True and 200 <= reply.status <= 299:
            return Identity(", ".join(self.UPDATES))
        return not_sent(self._read_refusal(reply, answer))

    def authentic(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:  # noqa: ARG002
        """Whether the caller knows our secret. Telegram signs neither body nor time, so neither can help.

        https://core.telegram.org/bots/api#setwebhook
        """
        return same(headers.get("x-telegram-bot-api-secret-token", ""), self.secret)

    def receipts(self, body: bytes) -> list[Receipt]:  # noqa: ARG002
        """None: Telegram tells no bot what became of a message."""
        return []

    def incoming(self, body: bytes) -> list[Incoming]:
        """One message or post, or that somebody blocks us, or no longer does.

        https://core.telegram.org/bots/api#update
        """
        update = parsed(body)
        id_ = update.get("update_id")
        if type(id_) is not int or not 0 <= id_ < 2**63:
            return []
        for event in (update.get("message"), update.get("channel_post")):
            if found := self._incoming(str(id_), _dict(event)):
                return [found]
        event = _dict(update.get("my_chat_member"))
        found = self._incoming(str(id_), event)
        match _dict(event.get("new_chat_member")).get("status"):
            case "member" | "administrator" | "restricted" if found:
                return [replace(found, kind="joined", text="")]
            case "kicked" | "left" if found:
                return [replace(found, kind="left", text="")]
        return []

    def _incoming(self, id_: str, event: dict[str, Any]) -> Incoming | None:
        chat, who = _dict(event.get("chat")), _dict(event.get("from"))
        to = self._address(chat.get("id"))
        if to is None:
            return None
        return Incoming(
            id=id_,
            at=moment(event.get("date")),
            sender=to,
            name=self._called(who) or self._called(chat) or to,
            text=said(event.get("text") or event.get("caption")),
            kind=next((kind for key, kind in _KINDS.items() if key in event), "other"),
            group=chat.get("type") != "private",
        )

    def _call(self, method: str, **params: Any) -> Request:
        return Request("POST", self._url(method), json=params)

    def _url(self, method: str) -> str:
        return f"{self.base_url}/bot{self.token}/{method}"

    def _read_refusal(self, reply: Reply, answer: dict[str, Any]) -> Outcome:
        """By description first, then by code, then by HTTP status.

        https://core.telegram.org/bots/api#responseparameters
        """
        description, code = answer.get("description"), answer.get("error_code")
        why = self._clean(description)
        hints = _dict(answer.get("parameters"))
        if moved_to := self._address(hints.get("migrate_to_chat_id")):
            return Retry(why or "the group is a supergroup now", after_s=0, moved_to=moved_to)
        if _FOR_GOOD.search(why):
            return Rejected(why, dead=bool(_DEAD.search(why)))
        if type(code) is not int or not 400 <= code <= 599:
            code = reply.status
        code = next((n for begins, n in _BEGINNINGS.items() if why.startswith(begins)), code)
        if code == 429:
            wait_s = hints.get("retry_after")
            if type(wait_s) is not int or not 0 <= wait_s < 10**9:
                wait_s = reply.retry_after_s()
            return Retry(why or "HTTP 429", after_s=wait_s, pauses="account")
        # The token is a part of the path: a wrong one may be just «not found».
        if code in {401, 404}:
            return Retry(why or f"HTTP {code}", pauses="account", refused=True)
        if code == 409:  # getUpdates against a webhook: of no concern to a send
            return Retry(why or "HTTP 409")
        return by_status(replace(reply, status=code), why)

    def _address(self, id_: object) -> str | None:
        """`id_` as a recipient's `uuid`, when it is a chat id at all."""
        return str(id_) if type(id_) is int and not self.check_recipient(str(id_)) else None

    def _called(self, who: Mapping[Any, Any]) -> str:
        """A group's title, or `@name (Full Name)`; "" when there is neither."""
        title, username, first, last = (
            self._clean(who.get(key)) for key in ("title", "username", "first_name", "last_name")
        )
        full = f"{first} {last}".strip()
        if username:
            full = f"@{username} ({full})" if full else f"@{username}"
        return words(title or full)

    def _clean(self, said: object) -> str:
        """A proxy may quote our URL, and with it the token, its colon perhaps as %3A."""
        return words(said, self.token.rpartition(":")[2] or self.token)


def _chat(out: Outbound) -> str | int:
    return out.to if out.to.startswith("@") else int(out.to)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
