"""What an adapter takes and gives: plain values, no I/O.

An adapter turns an `Outbound` into a `Request` and a `Reply` into an `Outcome`. It opens no socket, never sleeps and
knows no queue, so it can be tested with literals and carried by any HTTP client.
"""

import hmac
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic_core import from_json

REASON_LIMIT = 300
"""Characters of a messenger's words that are kept."""


@dataclass(frozen=True, slots=True)
class Template:
    """A pre-approved WhatsApp template; `components` goes out as the client gave it."""

    name: str
    language: str
    components: tuple[Mapping[str, Any], ...] = ()


UNSEEN = "application/octet-stream"
"""The type of what nobody has looked into."""
FileKind = Literal["image", "video", "audio", "voice", "animation", "document", "sticker"]
"""As what a file is shown, where a messenger tells that apart."""


def _nowhere() -> BinaryIO:
    raise FileNotFoundError("this file was not opened for sending")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a message.

    `size` in bytes, `width` and `height` in pixels (0: not known, or no picture). `inline`: shown within the text, where
    that can be. `link`: where anybody may fetch it; '' where nobody may. `known`: the messenger's own id for it, from an
    earlier upload by the same account, or ''. `open`: its content from the beginning, for a caller who closes it.
    """

    name: str
    media_type: str
    size: int
    kind: FileKind = "document"
    id: str = ""
    width: int = 0
    height: int = 0
    inline: bool = False
    link: str = field(default="", repr=False)
    known: str = field(default="", repr=False)
    open: Callable[[], BinaryIO] = field(default=_nowhere, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a mail's text. `sender`: one of an account's, by name or address; '': its first.

    Addresses stand alone or as `Name <address>`. `bulk`: the message goes to several.
    """

    subject: str = ""
    sender: str = ""
    reply_to: str = ""
    cc: tuple[str, ...] = field(default=(), repr=False)
    bcc: tuple[str, ...] = field(default=(), repr=False)
    unsubscribe_url: str = field(default="", repr=False)
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Outbound:
    """One message to one address. `key` is the same every time; `nth` counts the times, from 1."""

    to: str
    text: str = field(repr=False)
    key: str
    nth: int = 1
    template: Template | None = field(default=None, repr=False)
    files: tuple[File, ...] = ()
    heading: Heading | None = field(default=None, repr=False)
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP call. URL and headers may hold a token, the body somebody's words: none of them is shown."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    form: Sequence[tuple[str, str | File]] = field(default=(), repr=False)
    """Instead: multipart/form-data, a name and a text or a file each. Files are read as they are sent."""


@dataclass(frozen=True, slots=True)
class Note:
    """One entry for the sandbox's own inbox; no network is involved."""

    to: str
    text: str = field(repr=False)
    key: str
    nth: int = 1
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Errand:
    """What is carried otherwise than by HTTP: a subclass for each way, and `postrider/errands.py` knows who carries it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Header names are lower case; `at` is when it came, aware UTC."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def object(self) -> dict[str, Any]:
        """The body as a JSON object; {} when it is anything else."""
        return parsed(self.body)

    def retry_after_s(self) -> float | None:
        """Seconds named by the Retry-After header, given as seconds or as an HTTP date.

        https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit() and len(value) < 10:
            return float(value)
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - self.at).total_seconds())


@dataclass(frozen=True, slots=True)
class NoReply:
    """No answer. `left` is False when nothing can have left (no connection), True when it may have arrived."""

    left: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The messenger took it. `provider_id` is the messenger's own id, as text: some pass 2**53.

    `reason`: what it refused of it nevertheless.
    """

    provider_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now. `after_s` is a wait that the messenger named; `pauses` says what else has to wait.

    `pauses="account"`: everything of this account (429, refused token); `"recipient"`: this pair only; `"nobody"`: it may
    go again at once. Each way the delivery waits without using up an attempt. `moved_to`: the address to use from now on.
    `refused`: the account itself is, by its token or its standing, until somebody mends it; `stops`: it must not even be
    tried again before somebody has looked.
    """

    reason: str
    after_s: float | None = None
    pauses: Literal["account", "recipient", "nobody"] | None = None
    moved_to: str | None = None
    refused: bool = False
    stops: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A permanent no: sending the same again cannot help. `dead`: nor anything else, to this address."""

    reason: str
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Unclear:
    """An answer that proves nothing. Counts as no answer."""

    reason: str


Outcome = Sent | Retry | Rejected | Unclear


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a message leaves by one call: files by their index, and whether its text goes with them."""

    files: tuple[int, ...] = ()
    text: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """How sending a piece ended. `known`: a file's index -> the messenger's id for it, where that is news; '': it is gone."""

    outcome: Outcome
    known: Mapping[int, str] = field(default_factory=dict)


Steps = Generator[Request | Note | Errand, Reply | NoReply, Taken]


def utf16(text: str) -> int:
    """Its length in UTF-16 units: the strictest reading of a limit in «characters»."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def with_text(pieces: Sequence[Piece], text: str, *, captioned: bool) -> list[Piece]:
    """`pieces` of files, the text with the first if that can be `captioned` with it, else ahead of them."""
    if not text:
        return [*pieces]
    if pieces and captioned:
        return [replace(pieces[0], text=True), *pieces[1:]]
    return [Piece(text=True), *pieces]


def not_sent(outcome: Outcome) -> Retry | Rejected | Unclear:
    """`outcome` of a call that sends nothing: an answer as to a message is one to something else."""
    return Unclear("an answer to another question") if isinstance(outcome, Sent) else outcome


def unanswered(none: NoReply) -> Retry | Unclear:
    """What no answer means for what was to be sent."""
    return Unclear(none.reason) if none.left else Retry(none.reason)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an account is, in the messenger's own words."""

    name: str


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has written to an account, so that can be written to. `to` is the recipient's `uuid`."""

    to: str
    name: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the messenger says later of something that it took.

    `provider_id` is the id that `Sent` gave, or one that we never saw; `key` is `Outbound.key`, where the messenger quotes
    it. `to`: whom it is about, where one id stands for many. `sent` is news only of what got no answer. `dead`: nothing at
    all can reach this address.
    """

    provider_id: str
    state: Literal["sent", "delivered", "read", "failed"]
    at: datetime | None = None
    reason: str = field(default="", repr=False)
    to: str = ""
    key: str = ""
    dead: bool = False


Kind = Literal[
    "text",
    "button",
    "image",
    "video",
    "audio",
    "file",
    "sticker",
    "location",
    "contact",
    "reaction",
    "joined",
    "left",
    "other",
]
"""What came in. `joined`, `left`: no message, but word that this address may be written to, or no longer."""


@dataclass(frozen=True, slots=True)
class Media:
    """A file that came in with a message, where it can be fetched. `size` in bytes, 0: not known."""

    url: str = field(repr=False)
    media_type: str = "application/octet-stream"
    name: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Incoming:
    """What somebody sent to an account. `id` is the messenger's own, the same each time it is told.

    `sender` is the `uuid` to answer to; `also` are further ones of the same person. `group`: that many read there, so that
    nobody speaks for all.
    """

    id: str
    at: datetime | None
    sender: str
    name: str
    text: str = field(default="", repr=False)
    kind: Kind = "text"
    also: tuple[str, ...] = ()
    group: bool = False
    media: Media | None = field(default=None, repr=False)


TEXT_KEPT = 10_000
"""Characters of an incoming text that are kept; every messenger's own limit is lower."""


def said(text: object) -> str:
    """What a person wrote, as it is, but for what cannot be stored, and bounded."""
    if not isinstance(text, str):
        return ""
    return text[:TEXT_KEPT].replace("\0", "").encode(errors="replace").decode()


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object; {} when `body` is anything else."""
    try:
        value = from_json(body)  # a quarter of the time; but it takes no half characters
    except ValueError:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def entries(value: object) -> list[dict[str, Any]]:
    """The objects in a list; [] when `value` is none."""
    found = value if isinstance(value, list) else []
    return [entry for entry in found if isinstance(entry, dict)]


def moment(value: object, unit_s: float = 1.0) -> datetime | None:
    """A number of `unit_s` since the epoch, perhaps written as text, as a time; None when it cannot be one."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if type(value) is not int or not 0 < value * unit_s < 4e9:
        return None
    return datetime.fromtimestamp(value * unit_s, UTC)


def same(given: str, wanted: str) -> bool:
    """Whether two signatures are equal, told in constant time; never for an empty one.

    As bytes: compare_digest raises on text that is not ASCII.
    """
    return bool(wanted) and hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def words(said: object, secret: str = "") -> str:
    """What a messenger said, as one line fit for logs, stores and terminals: bounded, printable, without `secret`."""
    if not isinstance(said, str):
        return ""
    # Masked before it is cut, so that no part of the secret is left at the edge.
    text = said.replace(secret, "***") if secret else said
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:REASON_LIMIT]


def by_status(reply: Reply, why: str = "") -> Retry | Rejected | Unclear:
    """The outcome when only the HTTP status is left to judge by.

    429 pauses the account, 5xx is tried again, any other 4xx is final. A 2xx that nobody could make out is no proof of
    sending.
    """
    reason = why or f"HTTP {reply.status}"
    if reply.status == 429:
        return Retry(reason, after_s=reply.retry_after_s(), pauses="account")
    if 500 <= reply.status <= 599:
        return Retry(reason, after_s=reply.retry_after_s())
    if 400 <= reply.status <= 499:
        return Rejected(reason)
    return Unclear(why or f"HTTP {reply.status} with an answer that could not be read")


class Messenger(Protocol):
    """An outside network. One instance is one account on it."""

    name: ClassVar[str]
    """The word on the wire: `service`."""
    needs: ClassVar[tuple[str, ...]]
    """Settings without which it is not offered."""
    idempotent: ClassVar[bool]
    """True when the provider drops a second request with the same key."""
    has_receipts: ClassVar[bool]
    """True when the provider reports delivery later; an unknown outcome may then still be settled."""
    slower: ClassVar[Mapping[str, float]]
    """Messages per second to those recipients whose address begins so, where that is less than to others."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """The account that `env` describes, or None when something in `needs` is missing."""

    def check_recipient(self, uuid: str) -> str | None:
        """What is wrong with this address, or None."""

    def check_text(self, text: str) -> str | None:
        """Why this text cannot be sent here, or None."""

    def request(self, out: Outbound) -> Request | Note | Errand:
        """The call that sends `out`."""

    def read(self, reply: Reply) -> Outcome:
        """What `reply` means. Total: any status with any body gives an outcome."""

    def whoami(self) -> Request | Errand | None:
        """A call that changes nothing and proves the settings, or None when there is nothing to ask."""

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """What `reply` to `whoami` says."""


@runtime_checkable
class Templates(Protocol):
    """What an adapter has besides when its messenger takes templates instead of a text."""

    def check_template(self, template: Template) -> str | None:
        """What is wrong with it, or None."""


@runtime_checkable
class Headed(Protocol):
    """What an adapter has besides when its messages have a heading, and may be written in Markdown."""

    def check_letter(
        self, heading: Heading, text: str, html: str, files: Sequence[File]
    ) -> tuple[str, str] | None:
        """The first field that is wrong, and why; or None. `html`: what was made of a `text` in Markdown, else ''."""


@runtime_checkable
class TakesFiles(Protocol):
    """What an adapter has besides when its messenger takes files."""

    takes_links: ClassVar[bool]
    """Whether its messenger fetches by itself: files may then have a `link` and no `id`, and nobody knows their size."""

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:
        """The first of `files` that cannot be sent with `text`, and why; or None."""

    def notices(self, files: Sequence[File]) -> list[str]:
        """What whoever sends them should know: which goes otherwise than asked for."""


@runtime_checkable
class Pieces(TakesFiles, Protocol):
    """What an adapter has besides when a message with files leaves by several calls, or needs more than one for a file."""

    reuses_s: ClassVar[float]
    """Seconds for which the messenger's id of an uploaded file can be sent instead of it; 0: it gives none."""

    def pieces(self, out: Outbound) -> list[Piece]:
        """Its files and its text, cut into calls, in order; always the same for the same message."""

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        """The calls that send one piece, one after the other; the last of them sends."""


@runtime_checkable
class Places(Protocol):
    """What an adapter has besides when a delivery goes to several places, which each take it or not."""

    def several(self) -> int:
        """How many places a delivery goes to."""

    def request_to(self, out: Outbound, which: Sequence[int]) -> Request | Note | Errand:
        """The call that sends `out` to these of its places."""

    def read_each(self, reply: Reply | NoReply, which: Sequence[int]) -> list[Outcome]:
        """What became of each of them. Total."""


@runtime_checkable
class Targets(Protocol):
    """What an adapter has besides when each of its recipients is an account, with a pace and a pause of its own."""

    AT_ONCE: ClassVar[int]
    """Sends under way at once to each, in one worker, unless its settings say otherwise."""

    def single(self) -> Mapping[str, Messenger]:
        """Each, by its name, as an account of its own."""

    def account_of(self, uuid: str) -> str:
        """The account that sends to this address; '' when there is no such address."""

    def described(self) -> str:
        """What this account reaches, without secrets."""


@runtime_checkable
class Broadcast(Protocol):
    """What an adapter has besides when one call reaches many recipients with one text."""

    BROADCAST_LIMIT: ClassVar[int]
    """Recipients of one call."""

    def most_receivers(self, text: str, tos: Sequence[str]) -> int:
        """How many of `tos` one call with this text can have; 1: it must not be broadcast."""

    def broadcast(self, outs: Sequence[Outbound]) -> Request:
        """The call that sends the same text to all of `outs`."""

    def read_broadcast(self, reply: Reply, outs: Sequence[Outbound]) -> list[Outcome] | None:
        """What `reply` means for each. None: this account may not broadcast, and nobody got anything."""


@runtime_checkable
class Webhook(Protocol):
    """What an adapter has besides when its messenger calls us."""

    def webhook_lacks(self) -> tuple[str, ...]:
        """Settings that are missing, without which its calls could not be told from forged ones."""

    def authentic(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        """Whether the messenger signed these raw bytes, lately. A malformed header is False. Names are lower case."""

    def receipts(self, body: bytes) -> list[Receipt]:
        """What became of what we sent. Total: [] for anything else."""

    def incoming(self, body: bytes) -> list[Incoming]:
        """What people sent. Total: [] for anything else."""


@runtime_checkable
class SetsWebhook(Protocol):
    """What an adapter has besides when its messenger is told by a call where to reach us."""

    def webhook_request(self, url: str) -> Request:
        """The call that makes the messenger post to `url`."""

    def read_webhook(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        """Whether it will."""


@runtime_checkable
class Challenge(Protocol):
    """What an adapter has besides when its messenger first asks by GET whether the webhook is ours."""

    def challenge(self, query: Mapping[str, str]) -> str | None:
        """What to answer to this query; None: it is not for us."""
