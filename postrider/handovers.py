"""Handovers: files that a client has uploaded first and says later where to send, and what became of them.

Redis
  pr:handover:<id>              hash    owner, files (JSON: part, name and id of each), message, asked (hashed), ended
  pr:handover:latest:<owner>    string  the client's latest one
  pr:handovers                  zset    handover -> when it is looked at: then it is forgotten, or put off (s)
  pr:handovers:open             set     those whose message has not ended, as far as is known
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from postrider import records
from postrider.scripts import Scripts, unavailable_when_redis_is

ID_BYTES = 16
PART, DROPPED = 500, 50
"""How many are read or noted at once; and forgotten, each with up to a hundred files."""
_ID = re.compile(r"[\w-]{22}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Handed:
    """A file that was handed over: the name of its part in the form, its own name as it was sent, and our id of it."""

    part: str
    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Handover:
    """What one upload brought. `message`: what it has become, and `asked` with what parameters; `ended`: how that ended."""

    id: str
    owner: str
    files: tuple[Handed, ...]
    message: str = ""
    asked: str = ""
    ended: str = ""


class Handovers:
    """What was handed over, in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def put(self, owner: str, files: Sequence[Handed], until: datetime) -> Handover | None:
        """Keeps them under a new id, and as this client's latest; None when one of the files is gone."""
        new = Handover(secrets.token_urlsafe(ID_BYTES), owner, tuple(files))
        told = json.dumps([[file.part, file.name, file.file] for file in files])
        kept = self.scripts.run(
            "handover_put",
            new.id,
            owner,
            _seconds(until),
            told,
            " ".join(file.file for file in files),
        )
        return new if kept else None

    def get(self, id_: str) -> Handover | None:
        """The one with this id."""
        return next(iter(self.get_all([id_])), None) if _ID.fullmatch(id_) else None

    @unavailable_when_redis_is
    def get_all(self, ids: Sequence[str]) -> list[Handover]:
        """Those with these ids; one of which nothing is known stands in no list any more."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for id_ in ids:
            pipe.hgetall(f"pr:handover:{id_}")
        told = dict(zip(ids, pipe.execute(), strict=True))
        if lost := [id_ for id_, fields in told.items() if not fields]:
            pipe.zrem("pr:handovers", *lost)
            pipe.srem("pr:handovers:open", *lost)
            pipe.execute()
        return [_handover(id_, fields) for id_, fields in told.items() if fields]

    @unavailable_when_redis_is
    def latest(self, owner: str) -> Handover | None:
        """The latest one of this client that is still there."""
        client: Any = self.redis
        id_ = client.get(f"pr:handover:latest:{owner}")
        return self.get(id_.decode()) if id_ else None

    @unavailable_when_redis_is
    def sent(self, id_: str, message: str, asked: str, due: datetime) -> bool:
        """Has it become this message; False when it is gone, or has become another."""
        return bool(self.scripts.run("handover_sent", id_, message, asked, _seconds(due)))

    def note(self, id_: str, ended: str, due: datetime) -> bool:
        """Writes down how it ended ('': it has not); False when it is gone."""
        return bool(self.note_all([(id_, ended, due)]))

    @unavailable_when_redis_is
    def note_all(self, ends: Sequence[tuple[str, str, datetime]]) -> int:
        """The same for many; how many are there."""
        noted = 0
        for first in range(0, len(ends), PART):
            part = ends[first : first + PART]
            words = [word for id_, ended, due in part for word in (id_, ended, _seconds(due))]
            noted += self.scripts.run("handover_note", *words)
        return noted

    def drop(self, handover: Handover, due_by: datetime | None = None) -> bool:
        """Forgets it; False when it is gone, or, with `due_by`, not to be looked at by then."""
        return bool(self.drop_all([handover], due_by))

    @unavailable_when_redis_is
    def drop_all(self, handovers: Sequence[Handover], due_by: datetime | None = None) -> int:
        """The same for many; how many."""
        due, dropped = "+inf" if due_by is None else _seconds(due_by), 0
        for first in range(0, len(handovers), DROPPED):
            words: list[str] = []
            for one in handovers[first : first + DROPPED]:
                words += (one.id, " ".join(file.file for file in one.files))
            dropped += self.scripts.run("handover_drop", due, *words)
        return dropped

    @unavailable_when_redis_is
    def due(self, now: datetime, most: int) -> list[Handover]:
        """Those to be looked at by now, the longest due first."""
        client: Any = self.redis
        while ids := client.zrangebyscore("pr:handovers", "-inf", _seconds(now), 0, most):
            if found := self.get_all([id_.decode() for id_ in ids]):
                return found
        return []

    def open(self) -> Iterator[list[Handover]]:
        """All whose message has not ended, as far as is known, in parts."""
        cursor: int | None = None
        while cursor != 0:
            cursor, ids = self._some_open(cursor or 0)
            yield self.get_all(ids)

    @unavailable_when_redis_is
    def _some_open(self, cursor: int) -> tuple[int, list[str]]:
        client: Any = self.redis
        found, ids = client.sscan("pr:handovers:open", cursor, count=PART)
        return found, [id_.decode() for id_ in ids]


def _handover(id_: str, told: Mapping[bytes, bytes]) -> Handover:
    text = {name.decode(): value.decode() for name, value in told.items()}
    files = tuple(Handed(*names) for names in json.loads(text.pop("files")))
    return Handover(id_, files=files, **text)


def _seconds(at: datetime) -> str:
    return records.seconds(at.timestamp())
