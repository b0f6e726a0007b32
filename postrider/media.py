"""Files that come in with messages: which are to be fetched, by whom just now, and what became of each.

Redis
  pr:media:<id>             hash   what (JSON: where it lies, what is told of it), event (for callbacks, once it is here), account,
                                   tries; the id is its message's
  pr:media:due              zset   id -> when it is fetched, or until when somebody does (s)
  pr:incoming:files         hash   id -> JSON: state (waits, kept, missing), id (our file), name, media_type, size, reason
  pr:incoming:files:order   zset   id -> when its message came (ms)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

import redis

from messengers.inward import Media
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

WAITING = 10_000
"""Files that wait to be fetched, at most; of what comes beyond them only the message is kept."""
LOOKED_AT = 200
FORGOTTEN = 500
PLACE = "pr:media"
"""Where it is kept what is to be fetched, as the vault knows it."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A file that came in with a message. `id` is our file's, once it is `kept`; `reason`: why it is missing."""

    state: Literal["waits", "kept", "missing"]
    id: str = ""
    name: str = ""
    media_type: str = "application/octet-stream"
    size: int = 0
    reason: str = ""

    @classmethod
    def read(cls, kept: bytes) -> Self:
        """What Redis has of it."""
        return cls(**json.loads(kept))

    def line(self) -> str:
        """As Redis has it."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Due:
    """A file that is ours to fetch. `tries`: how often it was given to somebody, us included."""

    id: str
    account: str
    tries: int
    media: Media
    event: str = field(default="", repr=False)


def waits(media: Media) -> Attached:
    """What is known of a file before it is here."""
    return Attached("waits", name=media.name, media_type=media.media_type, size=media.size)


def what(media: Media, vault: Vault) -> bytes:
    """Where it lies, as Redis keeps it."""
    return vault.seal_json(asdict(media), PLACE)


class Awaited:
    """All of them, in one Redis."""

    def __init__(self, client: redis.Redis, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def take(self, most: int, of_one: int, busy: Mapping[str, int], lease_s: float) -> list[Due]:
        """Some to be fetched now, `of_one` account so many at once; given to another when they are not settled within the lease.

        `busy`: how many of an account are under way here.
        """
        rows = self.scripts.run("media_take", most, of_one, json.dumps(busy), lease_s, LOOKED_AT)
        return [
            Due(
                id_.decode(),
                account.decode(),
                tries,
                Media(**json.loads(self.vault.open(kept, PLACE))),
                event.decode(),
            )
            for id_, kept, event, tries, account in rows
        ]

    @unavailable_when_redis_is
    def end(self, due: Due, became: Attached, event: str = "") -> bool:
        """Writes down what became of it, and has callbacks told `event`; False when our file is gone meanwhile."""
        told = self.scripts.run("media_end", due.id, due.tries, became.line(), became.id, event)
        return bool(told != b"gone")

    @unavailable_when_redis_is
    def again(self, due: Due, in_s: float) -> None:
        """Has it fetched once more, in so many seconds."""
        self.scripts.run("media_again", due.id, due.tries, in_s)

    @unavailable_when_redis_is
    def forget(self) -> None:
        """Lets go of the files of messages that are no longer kept."""
        while self.scripts.run("media_forget", FORGOTTEN) == FORGOTTEN:
            pass
