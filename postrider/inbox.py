"""The sandbox's inbox, and who has written to the accounts."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis

from messengers.base import Person
from postrider import records
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

PEOPLE_KEPT = 1_000
NOTES_KEPT = 10_000


def note_of(key: str) -> str:
    """Where a note is kept, as the vault knows it."""
    return f"pr:inbox {key}"


class Inbox:
    """Notes and people in one Redis."""

    def __init__(self, client: redis.Redis, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def keep_note(self, key: str, note: dict[str, str]) -> None:
        """Keeps a note of the sandbox, once per key."""
        self.scripts.run("inbox", key, self.vault.seal_json(note, note_of(key)), NOTES_KEPT)

    @unavailable_when_redis_is
    def notes(
        self, limit: int, after: float | None = None
    ) -> list[tuple[datetime, dict[str, str]]]:
        """The newest notes, or the first that came later than `after` (s); oldest first, with when they came.

        A note is what was kept, and its `key`.
        """
        client: Any = self.redis
        if after is None:
            order = client.zrange("pr:inbox:order", 0, limit - 1, desc=True, withscores=True)[::-1]
        else:
            order = client.zrangebyscore(
                "pr:inbox:order", f"({records.seconds(after)}", "+inf", 0, limit, withscores=True
            )
        if not order:
            return []
        texts = client.hmget("pr:inbox", [key for key, _ in order])
        return [
            (
                records.moment(at),
                {
                    "key": key.decode(),
                    **json.loads(self.vault.open(text, note_of(key.decode()))),
                },
            )
            for (key, at), text in zip(order, texts, strict=True)
            if text is not None
        ]

    @unavailable_when_redis_is
    def remember_people(self, account: str, people: Sequence[Person]) -> None:
        """Keeps who has written to `account` (service/name); the first so many."""
        client: Any = self.redis
        key = f"pr:people:{account}"
        if people and client.hlen(key) < PEOPLE_KEPT:
            client.hset(key, mapping={p.to: p.name for p in people})

    @unavailable_when_redis_is
    def people(self, account: str) -> list[Person]:
        """Who has written to `account`."""
        client: Any = self.redis
        found = client.hgetall(f"pr:people:{account}")
        return [Person(to.decode(), name.decode()) for to, name in sorted(found.items())]
