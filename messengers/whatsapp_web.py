"""WhatsApp by a linked phone, through a sidecar that holds its session. One instance is one session.

WhatsApp forbids unofficial clients, and locks accounts that write to strangers: docs/linked-phones.md tells the risk.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Self

from messengers import phone_files
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
    Steps,
    Taken,
    Unclear,
    unanswered,
    utf16,
)
from messengers.gowa import Gowa
from messengers.inward import Incoming, Receipt
from messengers.message_ids import part_key
from messengers.phones import Driver, Hook, Link, Trouble
from messengers.waha import Waha

DRIVERS: Mapping[str, type[Waha] | type[Gowa]] = {"waha": Waha, "gowa": Gowa}
"""WHATSAPP_WEB_DRIVER -> who speaks to that sidecar."""
_PHONE = re.compile(r"\+?[0-9]{5,15}")
# A person by number, a person who hides it, a group.
_CHAT = re.compile(r"[0-9]{5,20}@(s\.whatsapp\.net|c\.us|lid)|[0-9-]{5,40}@g\.us")


@dataclass(frozen=True, slots=True)
class WhatsAppWeb:
    """One linked phone. `session` is its name at the sidecar, and that of its account."""

    name: ClassVar[str] = "whatsapp-web"
    needs: ClassVar[tuple[str, ...]] = ("WAHA_URL or GOWA_URL",)
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = True
    slower: ClassVar[Mapping[str, float]] = {}
    TEXT_LIMIT: ClassVar[int] = 4096
    """In UTF-16 units, as the Cloud API's: what an app shows of a longer one hangs on its version."""
    takes_links: ClassVar[bool] = False
    """The sidecar would fetch from where it stands, which is within our own network."""
    reuses_s: ClassVar[float] = 0.0

    driver: Driver
    session: str = "default"
    secret: str = field(default="", repr=False)
    """What the sidecar signs its calls to us with."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """What the settings say of the sidecar; which sessions there are, they do not."""
        driver = DRIVERS[env.get("WHATSAPP_WEB_DRIVER") or "waha"].from_env(env)
        return cls(driver, secret=env.get("WHATSAPP_WEB_SECRET", "").strip()) if driver else None

    def of_session(self, session: str) -> Self:
        """The same for another session."""
        return replace(self, session=session)

    def check_recipient(self, uuid: str) -> str | None:
        if _PHONE.fullmatch(uuid) or _CHAT.fullmatch(uuid):
            return None
        return "must be a number with country code, 5 to 15 digits with or without +, or a chat's id such as 375291234567@s.whatsapp.net"

    def check_text(self, text: str) -> str | None:
        length = utf16(text)
        if not length:
            return "is empty"
        if length > self.TEXT_LIMIT:
            return f"has {length} characters (UTF-16); whatsapp-web takes {self.TEXT_LIMIT}"
        return None

    def request(self, out: Outbound) -> Request:
        return self.driver.text(self.session, out.to.removeprefix("+"), out.text, out.key)

    def read(self, reply: Reply) -> Outcome:
        return self.driver.read_sent(reply)

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        for index, file in enumerate(files):
            if reason := phone_files.unsendable(self.driver, file):
                return index, reason
        return None

    def notices(self, files: Sequence[File]) -> list[str]:
        return [notice for file in files if (notice := phone_files.notice(self.driver, file))]

    def pieces(self, out: Outbound) -> list[Piece]:
        return phone_files.pieces_of(self.driver, out.files, out.text)

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        """The call that sends a file with its caption, or the text.

        The last one bears the key of the whole: that it has arrived says most of the rest.
        """
        pieces = self.pieces(out)
        nth = pieces.index(piece) + 1
        key = out.key if nth == len(pieces) else part_key(out.key, nth)
        to = out.to.removeprefix("+")
        if piece.files:
            file = out.files[piece.files[0]]
            shown, _ = phone_files.shown_as(self.driver, file)
            caption = out.text if piece.text else ""
            file = replace(file, kind=shown)
            request = self.driver.file(self.session, to, file, caption, key)
        else:
            request = self.driver.text(self.session, to, out.text, key)
        reply = yield request
        return Taken(unanswered(reply) if isinstance(reply, NoReply) else self.read(reply))

    def whoami(self) -> Request:
        return next(self.driver.look(self.session))

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        talk = self.driver.look(self.session)
        next(talk)
        found: Link | Trouble = Link("scan")  # what has to ask further waits for its user
        try:
            talk.send(reply)
        except StopIteration as stop:
            found = stop.value
        match found:
            case Link("linked", number, name):
                return Identity(f"{name} (+{number})".lstrip() if number else name or self.session)
            case Link(state, reason=reason):
                return Rejected(reason or f"is not linked, but {state}")
            case Trouble("later", reason):
                return Retry(reason)
            case Trouble("away", reason):
                return Unclear(reason)
            case Trouble(_, reason):
                return Rejected(reason)

    def hook(self, base_url: str) -> Hook:
        """Where the sidecar is to post what happens in this session; `base_url`: how it reaches us."""
        return Hook(f"{base_url.rstrip('/')}/hooks/{self.name}/{self.session}", self.secret)

    def webhook_lacks(self) -> tuple[str, ...]:
        return () if self.secret else ("WHATSAPP_WEB_SECRET",)

    def authentic(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        """Whether the sidecar signed `body`, lately, and it is about this session."""
        return (
            bool(self.secret)
            and self.driver.authentic(headers, body, self.secret, now.timestamp())
            and self.driver.session_of(body) == self.session
        )

    def receipts(self, body: bytes) -> list[Receipt]:
        return self.driver.receipts(body)

    def incoming(self, body: bytes) -> list[Incoming]:
        return self.driver.incoming(body)

    def links(self, body: bytes) -> Sequence[Link]:
        """What the sidecar tells of how the session stands."""
        return self.driver.links(body)
