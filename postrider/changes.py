"""What people do to deliveries that have not gone, or have ended: stop, pause, resume, move, send again; and stop accounts.

Small ones happen at once; of a large message a part at a time: a note in Redis tells the sweep to go on when whoever began
has died.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import redis

from postrider import records
from postrider.errors import InvalidRequest
from postrider.model import STATES, State
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

CHUNK = 1_000
Change = Literal["cancel", "pause", "resume", "move", "expire", "retry"]


@dataclass(slots=True)
class Changed:
    """How many deliveries a change met, by the state in which they were: those it changed, and those it came too late for."""

    changed: dict[State, int] = field(default_factory=dict)
    unchanged: dict[State, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many were changed."""
        return sum(self.changed.values())

    def merge(self, other: "Changed") -> None:
        """Adds what another change met."""
        for mine, theirs in ((self.changed, other.changed), (self.unchanged, other.unchanged)):
            for state, n in theirs.items():
                mine[state] = mine.get(state, 0) + n

    def add(self, told: Sequence[Any]) -> None:
        """Adds what change.lua tells of one part."""
        counts = self.changed
        flat = iter(told)
        for letter in flat:
            if letter == b"":
                counts = self.unchanged
                continue
            state = STATES[letter.decode()]
            counts[state] = counts.get(state, 0) + int(next(flat))


class Changes:
    """Changes what is kept in one Redis."""

    def __init__(self, client: redis.Redis, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def message(self, what: Change, message_id: str, due_at: datetime | None = None) -> Changed:
        """Changes all of a message. Raises Unavailable; what was begun is ended by the sweep."""
        self._end_earlier(message_id)
        done = Changed()
        self._go_on(what, message_id, _due(due_at), 0, done)
        return done

    def _end_earlier(self, message_id: str) -> bool:
        """Ends a change that was left half way, if any: a message has one note, and the next change takes its place."""
        client: Any = self.redis
        note = client.hget(f"pr:m:{message_id}", "change")
        if note:
            what, due, first = json.loads(note)
            self._go_on(what, message_id, due, int(first), Changed())
        return bool(note)

    def _go_on(self, what: str, message_id: str, due: str, first: int, done: Changed) -> None:
        index: int | None = first
        while index is not None:
            _, further, *told = self.scripts.run("change", what, due, message_id, index, CHUNK)
            done.add(told)
            index = int(further) if further != b"" else None

    @unavailable_when_redis_is
    def deliveries(
        self, what: Change, ids: Sequence[str], due_at: datetime | None = None
    ) -> Changed:
        """Changes these, in parts: each part whole or not at all."""
        done = Changed()
        for first in range(0, len(ids), CHUNK):
            _, _, *told = self.scripts.run(
                "change", what, _due(due_at), "", *ids[first : first + CHUNK]
            )
            done.add(told)
        return done

    @unavailable_when_redis_is
    def rewrite(self, message_id: str, body: str) -> Changed:
        """Gives what waits of a message another text; where none does, nothing. Raises InvalidRequest when it was too often."""
        kept = self.vault.seal(body, records.body_of(message_id))
        told = self.scripts.run("rewrite", message_id, kept)
        if told == b"often":
            raise InvalidRequest(
                "body",
                "was changed too often since a part of it went; stop the rest, and send that anew",
            )
        done = Changed()
        done.add(told)
        return done

    @unavailable_when_redis_is
    def sweep(self, now: datetime, most: int = 10) -> None:
        """Ends changes that were left half way, lets expire what has expired, and arms what may go on again."""
        client: Any = self.redis
        at = records.seconds(now.timestamp())
        for mid in client.zrangebyscore("pr:changing", "-inf", at, 0, most):
            if not self._end_earlier(mid.decode()):
                client.zrem("pr:changing", mid)
        for mid in client.zrangebyscore("pr:expiring", "-inf", at, 0, most):
            self.message("expire", mid.decode())
            client.zrem("pr:expiring", mid)
        while self.scripts.run("go_on", CHUNK):
            pass

    # -- stopping what sends

    @unavailable_when_redis_is
    def stop(self, name: str, by: str, now: datetime) -> None:
        """Lets nothing of `name` leave: `all`, `service telegram`, `account telegram/shop`, `client <id>`."""
        client: Any = self.redis
        client.hset("pr:stops", name, json.dumps({"at": now.timestamp(), "by": by}))

    @unavailable_when_redis_is
    def go_on(self, name: str) -> bool:
        """Undoes `stop`; False when it was not stopped."""
        client: Any = self.redis
        if not client.hdel("pr:stops", name):
            return False
        client.publish("pr:wake", "0")
        while self.scripts.run("go_on", CHUNK):
            pass
        return True

    @unavailable_when_redis_is
    def stops(self) -> dict[str, tuple[datetime, str]]:
        """What is stopped: since when, and by whom."""
        client: Any = self.redis
        found = {}
        for name, told in client.hgetall("pr:stops").items():
            note = json.loads(told)
            found[name.decode()] = (records.moment(note["at"]), note["by"])
        return found


def _due(due_at: datetime | None) -> str:
    return "" if due_at is None else records.seconds(due_at.timestamp())
