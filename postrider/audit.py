"""Who did what when, from where, with what result. Never a body, never a secret.

Three streams, each with a limit of its own, so that many of one kind push out none of another: what was accepted for
sending, what was refused to somebody, and every other change.
"""

import base64
import heapq
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import redis

from postrider.errors import InvalidRequest, Unavailable
from postrider.scripts import unavailable_when_redis_is

log = logging.getLogger("postrider.audit")

Kind = Literal["sent", "refused", "changed"]
KINDS: tuple[Kind, ...] = ("changed", "refused", "sent")
LOOKED_AT = 10_000
"""Entries that one page looks at: behind a filter it may be short, and `next` goes on."""
CHUNK = 500
LONGEST = 200
"""Characters of one field: the route of a request is as long as its sender likes."""
Id = tuple[int, int, int]
"""Time (ms), number within it, kind: in this order entries stand."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that somebody did, or was not let do.

    `actor`: the client's id, '' for the user of the settings or nobody; `name`: what it is called. `action`: method and
    route, `login`, or a command. `what`: which one; `result`: the HTTP status, or `ok`.
    """

    id: str
    at: datetime
    actor: str
    name: str
    action: str
    what: str
    address: str
    result: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries to list; None: all."""

    actor: str | None = None
    """A client's id or name."""
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Up to, not with."""

    def takes(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether an entry with these fields is one of them."""
        who = {fields.get(b"actor", b"").decode(), fields.get(b"name", b"").decode()}
        return (self.actor is None or self.actor in who) and (
            self.action is None or fields.get(b"action", b"").decode() == self.action
        )


class Audit:
    """The log in one Redis. `kept`: entries of each kind."""

    def __init__(self, client: redis.Redis, kept: int) -> None:
        self._redis: Any = client
        self._kept = kept

    def write(
        self,
        kind: Kind,
        *,
        actor: str,
        name: str,
        action: str,
        what: str,
        address: str,
        result: str,
    ) -> None:
        """Adds an entry. What Redis cannot take is logged instead: what was done is done."""
        fields = {
            "actor": actor,
            "name": name,
            "action": action,
            "what": what,
            "address": address,
            "result": result,
        }
        told = {
            name: value[:LONGEST].encode("utf-8", "replace")
            for name, value in fields.items()
            if value
        }
        try:
            self._add(kind, told)
        except Unavailable as error:
            log.warning("audit: %s: not kept: %s", error, fields)

    @unavailable_when_redis_is
    def _add(self, kind: Kind, fields: Mapping[str, bytes]) -> None:
        words = itertools.chain.from_iterable(fields.items())
        # redis-py's own `xadd` takes as long to look at its arguments as Redis takes to answer.
        self._redis.execute_command(
            "XADD", f"pr:audit:{kind}", "MAXLEN", "~", self._kept, "*", *words
        )

    def page(
        self, wanted: Wanted, limit: int, cursor: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """The newest entries, or those behind `cursor`; and the cursor of the page after. Raises InvalidRequest."""
        behind = _read_cursor(cursor) if cursor is not None else None
        found: list[Entry] = []
        streams = [self._newest_first(n, wanted, behind) for n in range(len(KINDS))]
        looked_at = 0
        last: Id = (0, 0, 0)
        for id_, fields in heapq.merge(*streams, key=lambda row: row[0], reverse=True):
            if len(found) == limit or looked_at == LOOKED_AT:  # there is one more
                return found, _cursor(last)
            looked_at, last = looked_at + 1, id_
            if wanted.takes(fields):
                found.append(_entry(id_, fields))
        return found, None

    def _newest_first(
        self, kind: int, wanted: Wanted, behind: Id | None
    ) -> Iterator[tuple[Id, Mapping[bytes, bytes]]]:
        newest = f"({_ms(wanted.until)}-0" if wanted.until else "+"
        oldest = f"{_ms(wanted.since)}-0" if wanted.since else "-"
        if behind is not None:
            at = f"{behind[0]}-{behind[1]}"
            from_cursor = at if kind < behind[2] else f"({at}"
            if wanted.until is None or behind[0] < _ms(wanted.until):
                newest = from_cursor
        while rows := self._read(f"pr:audit:{KINDS[kind]}", newest, oldest):
            for raw, fields in rows:
                ms, _, number = raw.decode().partition("-")
                yield (int(ms), int(number), kind), fields
            if len(rows) < CHUNK:
                return
            newest = f"({rows[-1][0].decode()}"

    @unavailable_when_redis_is
    def _read(self, key: str, newest: str, oldest: str) -> Any:
        return self._redis.xrevrange(key, newest, oldest, count=CHUNK)


def _entry(id_: Id, raw: Mapping[bytes, bytes]) -> Entry:
    of = {name.decode(): value.decode() for name, value in raw.items()}
    return Entry(
        id=f"{id_[0]}-{id_[1]}{KINDS[id_[2]][0]}",
        at=datetime.fromtimestamp(id_[0] / 1000, UTC),
        **{
            name: of.get(name, "")
            for name in ("actor", "name", "action", "what", "address", "result")
        },
    )


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _cursor(id_: Id) -> str:
    return base64.urlsafe_b64encode("-".join(map(str, id_)).encode()).decode().rstrip("=")


def _read_cursor(given: str) -> Id:
    try:
        padded = given + "=" * (-len(given) % 4)
        ms, number, kind = base64.b64decode(padded, altchars=b"-_", validate=True).split(b"-")
        found = int(ms), int(number), int(kind)
    except ValueError:
        raise InvalidRequest("cursor", "is not one that this service gave") from None
    if not (0 <= found[0] < 2**63 and 0 <= found[1] < 2**63 and 0 <= found[2] < len(KINDS)):
        raise InvalidRequest("cursor", "is not one that this service gave")
    return found
