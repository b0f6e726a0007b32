"""The words of the service as values: State and MOVES, what a client asks for, what was accepted, what happened."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from zoneinfo import ZoneInfo

from messengers.base import File, FileKind, Heading, Template
from postrider.windows import Window

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 21
QUEUED = "queued"
"""Shown for what is due and not yet claimed; never stored."""
BUCKET = 100
"""Deliveries of one message whose records share one Redis hash; the Lua scripts know it too."""


class State(StrEnum):
    """Where a delivery stands. `queued` is shown for what is due and not yet claimed, and never stored."""

    SCHEDULED = "scheduled"
    SENDING = "sending"
    RETRYING = "retrying"
    PAUSED = "paused"
    UNKNOWN = "unknown"
    SENT = "sent"
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


_S = State
MOVES: Mapping[State, frozenset[State]] = {
    state: frozenset(to)
    for state, to in {
        # what waits
        _S.SCHEDULED: {_S.SENDING, _S.PAUSED, _S.CANCELLED, _S.EXPIRED, _S.SUPPRESSED},
        _S.RETRYING: {_S.SENDING, _S.PAUSED, _S.CANCELLED, _S.EXPIRED, _S.SUPPRESSED},
        _S.PAUSED: {_S.SCHEDULED, _S.RETRYING, _S.CANCELLED, _S.EXPIRED, _S.SUPPRESSED},
        # SCHEDULED, RETRYING: also handed back, nothing left, no attempt
        # SUPPRESSED, EXPIRED: found out once it is claimed, before anything leaves
        _S.SENDING: {
            *(_S.SENT, _S.RETRYING, _S.FAILED, _S.UNKNOWN, _S.SCHEDULED),
            *(_S.SUPPRESSED, _S.EXPIRED),
        },
        # left, and nobody answered
        _S.UNKNOWN: {
            *(_S.SENDING, _S.SENT, _S.DELIVERED, _S.READ, _S.FAILED, _S.CANCELLED, _S.EXPIRED)
        },
        # from here on only receipts move it
        _S.SENT: {_S.DELIVERED, _S.READ, _S.FAILED},
        _S.DELIVERED: {_S.READ},
        _S.READ: set(),
        # only when asked to retry
        _S.FAILED: {_S.SCHEDULED},
        _S.CANCELLED: {_S.SCHEDULED},
        _S.EXPIRED: {_S.SCHEDULED},
        _S.SUPPRESSED: {_S.SCHEDULED},
    }.items()
}
"""The one table of moves. The Lua scripts carry out single edges of it; a test holds them against it."""

LETTERS: Mapping[State, str] = {
    _S.SCHEDULED: "s",
    _S.SENDING: "g",
    _S.RETRYING: "r",
    _S.PAUSED: "p",
    _S.UNKNOWN: "u",
    _S.SENT: "t",
    _S.DELIVERED: "d",
    _S.READ: "e",
    _S.FAILED: "f",
    _S.CANCELLED: "c",
    _S.EXPIRED: "x",
    _S.SUPPRESSED: "z",
}
"""How a record spells a state, in one byte."""
STATES: Mapping[str, State] = {letter: state for state, letter in LETTERS.items()}

Priority = Literal["high", "normal", "low"]
QUEUES: Mapping[Priority, str] = {"high": "high", "normal": "default", "low": "low"}
"""Priority -> the RQ queue that carries it."""


MessageState = Literal[
    "scheduled", "sending", "delivered", "partially_delivered", "cancelled", "failed"
]


def message_state(counts: Mapping[State, int], *, partial: bool = False) -> MessageState:
    """A message's own state, out of how many of its deliveries stand where; `partial`: one that failed has gone in part."""
    total = sum(counts.values())
    gone = sum(counts.get(state, 0) for state in (_S.SENT, _S.DELIVERED, _S.READ))
    untouched = sum(counts.get(state, 0) for state in (_S.SCHEDULED, _S.PAUSED))
    moving = sum(counts.get(state, 0) for state in (_S.SENDING, _S.RETRYING, _S.UNKNOWN))
    cancelled = counts.get(_S.CANCELLED, 0)
    if untouched and untouched + cancelled == total:
        return "scheduled"
    if untouched or moving:
        return "sending"
    if gone or (partial and counts.get(_S.FAILED)):
        return "delivered" if gone == total else "partially_delivered"
    return "cancelled" if cancelled == total else "failed"


def new_message_id(now: datetime) -> str:
    """21 characters of base 62, in order of time: 45 bits of milliseconds, then 80 random bits.

    Knowing one id gives no other. RQ allows letters, digits, `-` and `_` in a job's id.
    """
    return _message_id(now, secrets.randbits(80))


def first_message_id(at: datetime) -> str:
    """Below the ids of all messages that are accepted from `at` on, above all others."""
    return _message_id(at, 0)


def is_message_id(text: str) -> bool:
    """Whether `text` has the form of one."""
    return len(text) == ID_LENGTH and text.isascii() and text.isalnum()


def is_delivery_id(text: str) -> bool:
    """Whether `text` has the form of one."""
    mid, dash, index = text.partition("-")
    return (
        bool(dash)
        and is_message_id(mid)
        and index.isascii()
        and index.isdigit()
        and len(index) <= 6
    )


def _message_id(at: datetime, low: int) -> str:
    number = min((max(0, int(at.timestamp() * 1000)) << 80) | low, 62**ID_LENGTH - 1)
    digits = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


CallbackFormat = Literal["event", "task"]
"""`event`: signed events, as they come; `task`: `{"task_id", "result"}`, once, when a delivery has ended."""
Format = Literal["plain", "markdown"]
"""How a body is written."""
Role = Literal["viewer", "sender", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "sender", "admin")
"""Each may do what those before it may, and more."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a client may use; None: as much as there is."""

    rate: float | None = None
    """Requests per second."""
    waiting: int | None = None
    """Deliveries that have not ended."""
    recipients: int | None = None
    """Recipients in one message."""
    file_bytes: int | None = None
    """Bytes of all files that are kept."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. `id` owns the messages it sends; the user that the settings name has none: ''."""

    id: str
    name: str
    role: Role
    quota: Quota = Quota()

    def may(self, role: Role) -> bool:
        """Whether this client may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def sees(self, owner: str) -> bool:
        """Whether what `owner` sent is there for this client at all."""
        return self.role == "admin" or self.id == owner


@dataclass(frozen=True, slots=True)
class Recipient:
    """An address on one messenger. `account` is the configured sender there.

    `send_at`: aware UTC, when it is to be sent instead of with the rest of its message. `zone`: where its message's window
    is meant, if that names none.
    """

    uuid: str
    service: str
    account: str = "default"
    send_at: datetime | None = None
    zone: str | None = None


OnUnknown = Literal["resend", "hold"]
COUNTED = 100
"""Deliveries: a larger message keeps counts of their states; the Lua scripts know it too."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what conditions a message is sent: what only the sender of a delivery has to know.

    Nothing leaves from `expires_at` on, nothing for the first time more than `late_s` after it was due, nothing outside
    `window`, which is meant in `zone`. `zoned`: some recipients have zones of their own. `on_unknown`: None for what the
    settings say. `check_first`: nothing leaves for a number that is known not to be on WhatsApp.
    """

    expires_at: datetime | None = None
    late_s: float | None = None
    on_unknown: OnUnknown | None = None
    window: Window | None = None
    zone: str = "UTC"
    zoned: bool = False
    check_first: bool = False

    def opens_at(self, at: datetime, zone: str | None = None) -> datetime:
        """`at`, or when the window next opens after it; `zone`: the recipient's own."""
        if self.window is None:
            return at
        return self.window.opens_at(at, ZoneInfo(zone or self.zone))

    def allow(self, at: datetime, due_at: datetime, attempts: int) -> bool:
        """Whether something may leave at `at`."""
        if self.expires_at is not None and at >= self.expires_at:
            return False
        return self.late_s is None or attempts > 0 or (at - due_at).total_seconds() <= self.late_s


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a client names as a file of a message: an uploaded one by its id, or a URL.

    What is behind `url` is fetched by us, or with `link` by the messenger itself. `name`, `kind`: instead of the file's own.
    """

    file: str = ""
    url: str = field(default="", repr=False)
    link: bool = False
    name: str = ""
    kind: FileKind | None = None
    inline: bool = False


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What a client asks to send. `send_at` is aware UTC, `send_in_s` counts from acceptance; both None: at once.

    `attachments` are what is asked for, `files` what was found there.
    """

    body: str = field(repr=False)
    recipients: tuple[Recipient, ...]
    send_at: datetime | None = None
    send_in_s: float | None = None
    template: Template | None = field(default=None, repr=False)
    priority: Priority = "normal"
    owner: str = ""
    """Id of the client that sends it; '' for the user of the settings."""
    reference: str = ""
    tags: tuple[str, ...] = ()
    terms: Terms = Terms()
    dedupe_within_s: float | None = None
    callback_url: str | None = field(default=None, repr=False)
    callback_format: CallbackFormat = "event"
    attachments: tuple[Attachment, ...] = ()
    files: tuple[File, ...] = ()
    format: Format = "plain"
    heading: Heading | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted message. `due_at` is `send_at`, or `accepted_at` when it was to go at once."""

    id: str
    body: str = field(repr=False)
    accepted_at: datetime
    due_at: datetime
    timed: bool
    total: int
    template: Template | None = field(default=None, repr=False)
    terms: Terms = Terms()
    owner: str = ""
    reference: str = ""
    tags: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    format: Format = "plain"
    heading: Heading | None = field(default=None, repr=False)
    partial: bool = False
    """Of one of its deliveries some files have gone, and others were refused."""
    unreadable: str = ""
    """Why its text, which is then left out, cannot be read."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one recipient; the thing with a state. `id` is its message's, `-`, its index."""

    id: str
    state: State
    recipient: Recipient
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one piece of a delivery: `outcome` as of an attempt, with the provider's id or the reason."""

    outcome: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Number:
    """What is known of the number that a delivery goes to, where it is to be on WhatsApp.

    `found`: '' while its session is to be asked; then `wait_s` is None, or says in how many seconds it may be. `to`: the
    address to write to, where that is another. `asked`: found out in this attempt.
    """

    digits: str
    found: Literal["yes", "no", "unknown", ""] = ""
    to: str = ""
    wait_s: float | None = None
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours to send, until its lease runs out.

    `job_id` names this claim and no other: the delivery's id, and from the second alarm on `-` and the alarm's number.
    `to` is the recipient's uuid, or where the messenger says it has moved to. `at` is Redis's time, not this host's.
    `how`: `probe` finds out whether a paused account may send again, `alone` goes by itself because a worker died with it,
    `suppressed` goes nowhere;
    `deaths` counts the lone attempts that ended so, too, and is None for one that no worker died with. `held_at`: when it,
    or what shares its account, was last kept waiting by a rate or a pause (s), or 0. `files`: its message's, ready to be
    sent; `waits`: somebody else uploads one of them now. `parts`: what earlier attempts did with each piece. `number`: what is
    known of its recipient's, where its message asks for that.
    """

    job_id: str
    at: datetime
    recipient: Recipient
    to: str
    attempts: int
    message: Message
    zone: str | None = None
    how: Literal["", "probe", "alone", "suppressed"] = ""
    deaths: int | None = None
    held_at: float = 0.0
    files: tuple[File, ...] = ()
    waits: bool = False
    parts: tuple[Part | None, ...] = ()
    number: Number | None = None

    @property
    def alarm(self) -> int:
        """How often this delivery was armed before: 0 the first time."""
        return int(self.job_id.rpartition("-")[2]) if self.job_id.count("-") > 1 else 0

    @property
    def delivery_id(self) -> str:
        """The delivery's id: the same for every claim of it."""
        return self.job_id.rpartition("-")[0] if self.job_id.count("-") > 1 else self.job_id


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a delivery, as it is kept: when, how it ended, the messenger's own words."""

    started_at: datetime
    ended_at: datetime
    outcome: str
    reason: str = ""
    provider_id: str = ""
    parts: tuple[Part | None, ...] = ()
    """What has become of each piece so far, where there are several."""


class Signal(StrEnum):
    """What an account learns from the end of a claim. `lua/record.lua` knows the letters.

    `NOT_USED`: handed back, and what it was given of its account's day with it; not for what goes out with others.
    """

    NOTHING = ""
    ANSWERS = "y"
    FAILS = "n"
    PAUSES = "a"
    REFUSED = "x"
    RECIPIENT_PAUSES = "r"
    HANDED_BACK = "b"
    NOT_USED = "w"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a claim.

    `state` is where it moves to. `due_in_s`: seconds until its next alarm; None: it is not armed again. `counts`:
    whether the attempt uses up one of the retries. `attempt` is None when nothing was tried. `signal` is what its account
    learns, `pause_s` for how long it is to wait (None: as long as we see fit). `deaths`: it is to be sent alone.
    `mark`: what its receipts will be known by (records.mark); empty where there are none. `dead`: nothing is to be sent to
    its address any more. `kind`: how the attempt ended, in one of a few words, for counting; '' for none. `known`: a file's
    index -> the messenger's id for it, where that is news.
    """

    claim: Claim
    state: State
    attempt: Attempt | None = None
    due_in_s: float | None = None
    counts: bool = False
    moved_to: str | None = None
    signal: Signal = Signal.NOTHING
    pause_s: float | None = None
    deaths: int | None = None
    kind: str = ""
    mark: bytes = b""
    dead: bool = False
    known: Mapping[int, str] | None = None


@dataclass(frozen=True, slots=True)
class ReceiptKept:
    """What a messenger said later, as it is kept with the delivery."""

    at: datetime
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that nothing is sent to: since when, and why."""

    service: str
    uuid: str
    at: datetime
    why: Literal["opted_out", "dead", "manual"]
    reason: str = ""
