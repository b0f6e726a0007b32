"""The same again: a POST that is repeated with its key, a text that goes twice to one recipient."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import redis

from messengers.base import File
from postrider import records
from postrider.errors import IdempotencyConflict
from postrider.scripts import Scripts, unavailable_when_redis_is

CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Once:
    """A client's idempotency key, and what was asked with it: the bytes of the body, and the route."""

    key: str
    asked: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class First:
    """What the first call with a key has accepted, when, and with which files."""

    message: str
    at: datetime
    files: tuple[File, ...] = ()


class Repeats:
    """Knows what was asked and said before, in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def begin(
        self, owner: str, once: Once, message_id: str, now: datetime, *, runs_s: float, kept_s: int
    ) -> tuple[str, datetime] | None:
        """Takes the key for `message_id`; or gives the message that was accepted with it, and when.

        Raises IdempotencyConflict when it belongs to another body, or while the first call still runs.
        """
        until = records.seconds((now + timedelta(seconds=runs_s)).timestamp())
        accepted = records.seconds(now.timestamp())
        words = (_key(owner, once), _fingerprint(once), message_id, accepted, until, kept_s)
        match self.scripts.run("once", *words):
            case [b"new"]:
                return None
            case [b"done", bytes(mid), bytes(at)]:
                return mid.decode(), records.moment(at)
            case [b"runs", bytes(wait_s)]:
                raise IdempotencyConflict(
                    f"the first call with this Idempotency-Key still runs; ask again in {math.ceil(float(wait_s))} s",
                    runs=True,
                )
        raise IdempotencyConflict(
            "this Idempotency-Key came with another body, or to another path, before; use a new one"
        )

    @unavailable_when_redis_is
    def accepted(self, owner: str, once: Once) -> First | None:
        """What was accepted with this key and body, or None."""
        client: Any = self.redis
        names = ("for", "message", "accepted", "done", "files")
        asked, mid, at, done, kept = client.hmget(f"pr:once:{_key(owner, once)}", names)
        if asked is None or asked.decode() != _fingerprint(once):
            return None
        committed, files = client.hmget(b"pr:m:" + mid, "committed", "files")
        if not done and not committed:
            return None
        return First(mid.decode(), records.moment(at), records.read_files(files or kept))

    @unavailable_when_redis_is
    def end(
        self,
        owner: str,
        once: Once,
        message_id: str,
        *,
        accepted: bool,
        files: Sequence[File] = (),
    ) -> None:
        """Keeps the key for what was accepted, with its `files`, also when that is forgotten; frees it when nothing was.

        Nothing, when another call has taken it since: this one ran for too long.
        """
        kept = records.files_line(files) if files else ""
        self.scripts.run("once_end", _key(owner, once), message_id, int(accepted), kept)

    @unavailable_when_redis_is
    def say(self, message_id: str, said: Sequence[str], within_s: float) -> int | None:
        """Notes all of `said`: who gets what. Gives the index of one that was said less than `within_s` ago; then none is noted."""
        digests = [hashlib.blake2b(text.encode(), digest_size=15).hexdigest() for text in said]
        for first in range(0, len(digests), CHUNK):
            part = digests[first : first + CHUNK]
            found = int(self.scripts.run("said", message_id, within_s, *part))
            if found >= 0:
                self.unsay(digests[:first])
                return first + found
        return None

    def unsay(self, digests: Sequence[str]) -> None:
        """Takes notes back."""
        client: Any = self.redis
        for first in range(0, len(digests), CHUNK):
            client.unlink(*(f"pr:said:{digest}" for digest in digests[first : first + CHUNK]))


def _fingerprint(once: Once) -> str:
    return hashlib.sha256(once.asked).hexdigest()


def _key(owner: str, once: Once) -> str:
    return hashlib.sha256(f"{owner}\0{once.key}".encode()).hexdigest()
