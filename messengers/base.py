"""What an adapter takes and gives: plain values, no I/O.

An adapter turns an `Outbound` into a `Request` and a `Reply` into an `Outcome`. It opens no socket, never sleeps and
knows no queue, so it can be tested with literals and carried by any HTTP client.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, Self

from messengers.reading import parsed


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
