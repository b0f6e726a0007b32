"""What messengers tell us: receipts of what was sent, and what people write; and what an adapter has besides for that."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from messengers.base import Identity, Rejected, Reply, Request, Retry, Unclear


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


def same(given: str, wanted: str) -> bool:
    """Whether two signatures are equal, told in constant time; never for an empty one.

    As bytes: compare_digest raises on text that is not ASCII.
    """
    return bool(wanted) and hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


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
