"""A linked phone: what is asked of the program that holds its session, its sidecar, and what that tells. No I/O.

A `Driver` knows one such program. A session is one linked phone there.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar

from messengers.base import File, FileKind, NoReply, Outcome, Reply, Request
from messengers.inward import Incoming, Receipt

T = TypeVar("T")
Talk = Generator[Request, Reply | NoReply, T]
"""A conversation with the sidecar: yields each request, is sent what came back, returns what all of it means."""

LinkState = Literal["missing", "stopped", "starting", "scan", "passkey", "linked", "failed"]
"""How a session stands there. `missing`: there is none; `scan`, `passkey`: it waits for its user."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a session stands. `number`: the linked phone's, in digits; `reason`: the sidecar's words for what is not well."""

    state: LinkState
    number: str = ""
    name: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """The QR code that links a phone to a session now: whoever scans it, is in.

    `text` is what it says, '' where the sidecar shows no more than the picture. `lives_s`: seconds for which it can be
    scanned, as far as the sidecar says; None: it does not.
    """

    png: bytes = field(repr=False)
    text: str = field(default="", repr=False)
    lives_s: float | None = None


@dataclass(frozen=True, slots=True)
class Passkey:
    """What a phone with a passkey asks for besides: a WebAuthn `challenge` to be answered, or a `code` to be compared with its screen.

    Which of them it is, is told by what is not empty.
    """

    challenge: Mapping[str, object] = field(default_factory=dict, repr=False)
    code: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a number is on WhatsApp. `to`: the address to write to, where it is not the number itself."""

    found: Literal["yes", "no", "unknown"]
    to: str = ""
    reason: str = ""


TroubleKind = Literal["missing", "unlinked", "later", "limited", "refused", "away"]
"""`missing`: no such session; `unlinked`: not in a state for that; `later`: try again; `limited`: WhatsApp restricts the
account; `refused`: our key, or the request; `away`: no answer, or none that could be read."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be had, in the sidecar's words."""

    kind: TroubleKind
    reason: str


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the sidecar is to post what happens in a session, and what it signs that with."""

    url: str
    secret: str = field(repr=False)


class Driver(Protocol):
    """One program that holds sessions. `session` is a name of 1 to 64 letters, digits, `-` and `_`."""

    name: ClassVar[str]
    CAPTION_LIMIT: ClassVar[int]
    """Characters (UTF-16) of the text that a file can have."""
    SHOWS: ClassVar[Mapping[FileKind, frozenset[str]]]
    """The media types that it sends as each kind; whatever else is to be shown so, goes as a document."""
    DOCUMENT_BYTES: ClassVar[int]
    """The most that it takes of one file."""
    remakes_codes: ClassVar[bool]
    """Whether each `code` is a new one, which ends any that was given before, a pairing code too."""

    def create(self, session: str, hook: Hook) -> Talk[Link | Trouble]:
        """Makes the session, or gives the one there is this hook, and starts it."""

    def start(self, session: str) -> Talk[Link | Trouble]:
        """Starts it; one that runs is left alone."""

    def stop(self, session: str) -> Talk[Trouble | None]:
        """Stops it; its phone stays linked."""

    def restart(self, session: str) -> Talk[Link | Trouble]:
        """Stops and starts it."""

    def logout(self, session: str) -> Talk[Trouble | None]:
        """Unlinks its phone."""

    def delete(self, session: str) -> Talk[Trouble | None]:
        """Unlinks its phone and forgets the session; one that is not there is no trouble."""

    def look(self, session: str) -> Talk[Link | Trouble]:
        """How it stands."""

    def code(self, session: str) -> Talk[Code | Trouble]:
        """The QR code that is to be scanned now."""

    def pair(self, session: str, phone: str) -> Talk[str | Trouble]:
        """A code to type on the phone with this number, instead of scanning."""

    def passkey(self, session: str) -> Talk[Passkey | Trouble]:
        """What a phone that has a passkey asks for."""

    def answer_passkey(self, session: str, assertion: Mapping[str, object]) -> Talk[Trouble | None]:
        """Hands over what an authenticator made of the challenge (`PublicKeyCredential.toJSON()`)."""

    def confirm_passkey(self, session: str) -> Talk[Trouble | None]:
        """Says that the code on the phone was the same."""

    def check(self, session: str, number: str) -> Talk[Checked | Trouble]:
        """Whether a number (digits, with country code) is on WhatsApp."""

    def presence(self, session: str, *, online: bool) -> Talk[Trouble | None]:
        """Shows the phone's user as online, or not."""

    def text(self, session: str, to: str, text: str, key: str) -> Request:
        """The call that sends a text. `to`: a number in digits, or WhatsApp's own id of a chat. `key`: its own, the same each time."""

    def file(self, session: str, to: str, file: File, caption: str, key: str) -> Request:
        """The call that sends a file."""

    def read_sent(self, reply: Reply) -> Outcome:
        """What `reply` to either means. Total."""

    def media(self, url: str) -> Request:
        """The call that fetches what came in with a message (`Media.url`)."""

    def authentic(self, headers: Mapping[str, str], body: bytes, secret: str, now_s: float) -> bool:
        """Whether the sidecar signed these raw bytes with `secret`, lately. Names are lower case."""

    def session_of(self, body: bytes) -> str:
        """The session that a call to our hook is about; ''."""

    def links(self, body: bytes) -> Sequence[Link]:
        """What it tells of how its session stands. Total: [] for anything else."""

    def receipts(self, body: bytes) -> list[Receipt]:
        """What became of what we sent. Total."""

    def incoming(self, body: bytes) -> list[Incoming]:
        """What people sent. Total."""
