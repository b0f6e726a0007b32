"""The outbox: events that others are to be told, and the callbacks made of them, until each is done or dead.

Scripts that move a delivery put its event in with the move itself: `tell` in `lua/_events.lua`. Keys: `lua/_callbacks.lua`.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from postrider import records
from postrider.callbacks import GIVEN_UP_S, Event, Result, State
from postrider.errors import IllegalTransition, NotFound
from postrider.scripts import Scripts, unavailable_when_redis_is

TAKEN_AT_ONCE = 200
"""Events of which one call makes callbacks at most."""
CHUNK = 1_000
"""Callbacks that one call changes at most."""
KEPT_S: Mapping[State, float] = {"done": 86_400, "dead": 30 * 86_400}
KEPT: Mapping[State, int] = {"done": 100_000, "dead": 1_000_000}
"""How long, and how many, ended ones are kept to be seen and replayed."""
LEFT_ALONE_S = 5.0
"""Seconds between tries at a host that has not answered for some, whatever waits for it; fewer at first."""
OFF_S = 30 * 86_400
"""Seconds after which an address that was turned off is tried again."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A callback that is ours to try, until its lease runs out. `at` is Redis's time, not this host's."""

    id: str
    claim: str
    at: datetime
    url: str = field(repr=False)
    host: str
    tries: int
    line: bytes = field(repr=False)

    @property
    def is_copy(self) -> bool:
        """Whether it goes to WEBHOOK_URL, which always gets events."""
        return self.id.endswith("_all")


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback as it is listed. `at` is its next try, or when it ended; `status` and `reason` are the last answer's."""

    id: str
    type: str
    url: str = field(repr=False)
    owner: str
    state: State
    tries: int
    made_at: datetime
    at: datetime
    answered_at: datetime | None = None
    status: int | None = None
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """As the API and the command show it."""
        at = _shown(self.at)
        return {
            "id": self.id,
            "type": self.type,
            "url": self.url,
            "state": self.state,
            "tries": self.tries,
            "made_at": _shown(self.made_at),
            "next_try_at": at if self.state == "waiting" else None,
            "ended_at": None if self.state == "waiting" else at,
            "answered_at": _shown(self.answered_at) if self.answered_at else None,
            "status": self.status,
            "reason": self.reason,
            "data": self.data,
        }


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Outbox:
    """Events and callbacks in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def tell(
        self, event: str, data: Mapping[str, Any], now: datetime, *, url: str = "", owner: str = ""
    ) -> str:
        """Puts an event in that is no delivery's, such as `message.received`; gives its id.

        It goes to `url`, if there is one, as a callback of `owner`'s, and to WEBHOOK_URL, if that is set.
        """
        line = records.event_line(event, data, now, url=url, owner=owner)
        client: Any = self.redis
        client.rpush("pr:outbox", line)
        return str(json.loads(line)["id"])

    # -- for couriers

    @unavailable_when_redis_is
    def has_something(self, within_s: float) -> bool:
        """Whether there is an event in it, or comes to be within that time; it stays there."""
        client: Any = self.redis
        return client.blmove("pr:outbox", "pr:outbox", within_s, "LEFT", "LEFT") is not None

    @unavailable_when_redis_is
    def waiting(self) -> tuple[int, datetime | None]:
        """How many events no courier has taken yet, and since when the oldest of them waits."""
        pipe: Any = self.redis.pipeline(transaction=False)
        pipe.llen("pr:outbox").lindex("pr:outbox", 0)
        count, oldest = pipe.execute()
        return count, records.moment(json.loads(oldest)["at"]) if oldest else None

    @unavailable_when_redis_is
    def claim(
        self,
        places: int,
        *,
        per_host: int,
        busy: Mapping[str, int],
        lease_s: float,
        webhook_url: str | None,
    ) -> tuple[list[Claimed], float | None]:
        """Makes callbacks of events, and gives what is due, at most `places`; and in how many seconds more is.

        `busy`: how many of a host are under way here, of `per_host` at most.
        """
        claim = secrets.token_hex(8)
        now, next_look, rows = self.scripts.run(
            "callbacks_claim",
            *(places, per_host, json.dumps(busy), lease_s, claim, webhook_url or ""),
            *(TAKEN_AT_ONCE, GIVEN_UP_S),
        )
        at = records.moment(now)
        claimed = [
            Claimed(id_.decode(), claim, at, url.decode(), host.decode(), int(tries), line)
            for id_, url, host, tries, line in rows
        ]
        return claimed, float(next_look) - float(now) if next_look else None

    @unavailable_when_redis_is
    def record(self, ended: Sequence[tuple[Claimed, Result, datetime]]) -> list[bool]:
        """Writes down how tries ended, and when; False for one that came too late."""
        args: list[str] = [str(LEFT_ALONE_S)]
        for claimed, result, at in ended[:CHUNK]:
            answer = {"at": at.timestamp(), "status": result.status, "reason": result.reason}
            args += (
                claimed.id,
                claimed.claim,
                result.state,
                records.seconds(result.wait_s),
                json.dumps(answer, ensure_ascii=False),
                "1" if result.answered else "0",
                "1" if result.off else "0",
            )
        return [bool(one) for one in self.scripts.run("callbacks_record", *args)]

    @unavailable_when_redis_is
    def forget(self) -> int:
        """Forgets what ended long enough ago; how many went sooner, because there were too many."""
        too_many = 0
        for state in KEPT_S:
            forgotten = CHUNK
            while forgotten == CHUNK:
                forgotten, over = self.scripts.run(
                    "callbacks_forget", state, KEPT_S[state], KEPT[state], CHUNK, OFF_S
                )
                too_many += over
        return too_many

    # -- for those who look

    @unavailable_when_redis_is
    def page(
        self, state: State, owner: str | None, limit: int, cursor: str | None = None
    ) -> tuple[list[Callback], int, str | None]:
        """Those of `owner` (None: of everybody), newest first; how many there are; the next page's cursor.

        Raises InvalidRequest.
        """
        client: Any = self.redis
        key = _list(state, owner)
        _, behind = records.read_cursor(cursor)
        start = f"({behind}" if behind else "+"
        total = client.zcard(key)
        ids = client.zrange(key, start, "-", desc=True, bylex=True, offset=0, num=limit + 1)
        found = [callback for callback in self._read(ids[:limit]) if callback]
        return (
            found,
            total,
            records.cursor(0.0, ids[limit - 1].decode()) if len(ids) > limit else None,
        )

    @unavailable_when_redis_is
    def find(self, id_: str, owner: str | None) -> Callback:
        """The one with that id. Raises NotFound, also for another owner's."""
        (found,) = self._read([id_.encode()])
        if found is None or owner not in {None, found.owner}:
            raise NotFound("no such callback")
        return found

    def replay(self, id_: str, owner: str | None) -> Callback:
        """Tries one anew that has ended. Raises NotFound, IllegalTransition."""
        self.find(id_, owner)
        if self._replay([id_.encode()]):
            return self.find(id_, owner)
        raise IllegalTransition("it still waits for its next try")

    @unavailable_when_redis_is
    def replay_dead(self, owner: str | None, most: int = CHUNK) -> tuple[int, int]:
        """Tries the dead ones anew; how many, and how many are left for another call."""
        client: Any = self.redis
        key = _list("dead", owner)
        ids = client.zrange(key, 0, min(most, CHUNK) - 1)
        return self._replay(ids) if ids else 0, client.zcard(key)

    @unavailable_when_redis_is
    def _replay(self, ids: Sequence[bytes]) -> int:
        return sum(self.scripts.run("callbacks_replay", *ids))

    def _read(self, ids: Sequence[bytes]) -> list[Callback | None]:
        pipe: Any = self.redis.pipeline(transaction=False)
        for id_ in ids:
            pipe.hgetall(b"pr:c:" + id_)
        return [_callback(id_, fields) for id_, fields in zip(ids, pipe.execute(), strict=True)]


def _list(state: State, owner: str | None) -> str:
    return f"pr:cb:{state}" if owner is None else f"pr:cb:{state}:{owner}"


def _callback(id_: bytes, fields: Mapping[bytes, bytes]) -> Callback | None:
    if not fields:
        return None
    state: Any = fields[b"state"].decode()
    answer = json.loads(fields.get(b"answer", b"{}"))
    return Callback(
        id=id_.decode(),
        type=fields[b"type"].decode(),
        url=fields[b"url"].decode(),
        owner=fields[b"owner"].decode(),
        state=state,
        tries=int(fields[b"tries"]),
        made_at=records.moment(fields[b"made"]),
        at=records.moment(fields[b"at"]),
        answered_at=records.moment(answer["at"]) if answer else None,
        status=answer.get("status"),
        reason=answer.get("reason", ""),
        data=_data(fields[b"line"]),
    )


def _data(line: bytes) -> Mapping[str, Any]:
    """What an event tells; nothing where the line is none of ours."""
    try:
        return Event.read(line).data
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
