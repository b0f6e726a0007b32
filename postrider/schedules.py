"""Schedules as they are kept: a recurrence, the message it makes, and how far it has come.

Each change is one compare-and-set on the version, so any number of processes may look at a schedule at the same time.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import redis

from postrider import records
from postrider.errors import FileGone
from postrider.recurrence import Occurrence, Recurrence
from postrider.room import Room
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

State = Literal["active", "paused", "ended", "deleted", "gone"]
Missed = Literal["skip", "once", "all"]
"""What becomes of occurrences whose time passed while nothing ran: none is made, one for all of them, or each."""

TAKES = 2_000
"""Bytes that a schedule takes beside its message."""
_ID = re.compile(r"[0-9A-Za-z]{21}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A recurrence that makes messages.

    `next` is the occurrence that is planned and `message` the id of its message; `ready` says that it is accepted. `made`
    counts accepted ones, without what was stopped in time. `drop` is a message to be stopped before anything else, and
    `again` says that it was for the occurrence that is planned now. `trouble`: why its message could not be accepted.
    """

    id: str
    owner: str
    recurrence: Recurrence
    missed: Missed
    state: State
    created_at: datetime
    changed_at: datetime
    made: int = 0
    next: Occurrence | None = None
    message: str = ""
    ready: bool = False
    drop: str = ""
    again: bool = False
    trouble: str = ""
    version: int = field(default=0, compare=False)

    @property
    def left(self) -> int | None:
        """How many more it makes, the planned one included; None: it has no `count`."""
        if self.recurrence.count is None:
            return None
        return max(0, self.recurrence.count - self.made + (1 if self.ready else 0))


_FIELDS = (
    *("v", "owner", "repeat", "missed", "state", "created", "changed", "made", "next", "local"),
    *("message", "ready", "drop", "again", "trouble"),
)


def _written(s: Schedule) -> list[str]:
    told = {
        "owner": s.owner,
        "repeat": json.dumps(s.recurrence.to_fields()),
        "missed": s.missed,
        "state": s.state,
        "created": records.seconds(s.created_at.timestamp()),
        "changed": records.seconds(s.changed_at.timestamp()),
        "made": str(s.made),
        "next": records.seconds(s.next.at.timestamp()) if s.next else "",
        "local": s.next.local.isoformat() if s.next else "",
        "message": s.message,
        "ready": "1" if s.ready else "0",
        "drop": s.drop,
        "again": "1" if s.again else "0",
        "trouble": s.trouble,
    }
    return [part for pair in told.items() for part in pair]


def _read(id_: str, values: Sequence[bytes | None]) -> Schedule | None:
    if values[0] is None:
        return None
    f = {name: (value or b"").decode() for name, value in zip(_FIELDS, values, strict=True)}
    planned = None
    if f["next"]:
        planned = Occurrence(records.moment(float(f["next"])), datetime.fromisoformat(f["local"]))
    missed: Any = f["missed"]
    state: Any = f["state"]
    return Schedule(
        id=id_,
        owner=f["owner"],
        recurrence=Recurrence.from_fields(json.loads(f["repeat"])),
        missed=missed,
        state=state,
        created_at=records.moment(float(f["created"])),
        changed_at=records.moment(float(f["changed"])),
        made=int(f["made"]),
        next=planned,
        message=f["message"],
        ready=f["ready"] == "1",
        drop=f["drop"],
        again=f["again"] == "1",
        trouble=f["trouble"],
        version=int(f["v"]),
    )


def body_of(id_: str) -> str:
    """Where a schedule's message is kept, as the vault knows it."""
    return f"pr:s:{id_} body"


class Schedules:
    """The schedules in one Redis."""

    def __init__(self, client: redis.Redis, room: Room, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)
        self.room = room

    @unavailable_when_redis_is
    def put(
        self, schedule: Schedule, look_at: datetime | None, body: dict[str, Any] | None = None
    ) -> bool:
        """Writes it, to be looked at again at that moment; False when it has changed since it was read. Raises FileGone.

        `body`: its message as the client gave it; None leaves it as it is.
        """
        more: list[str | bytes] = []
        if body is not None:
            text = self.vault.seal_json(body, body_of(schedule.id))
            self.room.demand(len(text) + TAKES)
            ids = (told["file"] for told in body.get("attachments", ()) if told.get("file"))
            more = ["body", text, "file_ids", " ".join(dict.fromkeys(ids))]
        at = records.seconds(look_at.timestamp()) if look_at else ""
        told = _written(schedule)
        done = self.scripts.run(
            "schedule_put", schedule.id, schedule.version, at, schedule.owner, *told, *more
        )
        if done == b"gone":
            raise FileGone
        return bool(done)

    @unavailable_when_redis_is
    def get(self, id_: str) -> Schedule | None:
        """It, without its message."""
        if not _ID.fullmatch(id_):
            return None
        client: Any = self.redis
        return _read(id_, client.hmget(f"pr:s:{id_}", _FIELDS))

    @unavailable_when_redis_is
    def body(self, id_: str) -> dict[str, Any]:
        """Its message as the client gave it; empty when it is gone."""
        client: Any = self.redis
        kept = client.hget(f"pr:s:{id_}", "body") or b"{}"
        found: dict[str, Any] = json.loads(self.vault.open(kept, body_of(id_)))
        return found

    @unavailable_when_redis_is
    def due(self, now: datetime, most: int, hold_s: float) -> list[str]:
        """The schedules to look at now; nobody else is given them for `hold_s` seconds."""
        found = self.scripts.run(
            "schedule_due", records.seconds(now.timestamp()), most, records.seconds(hold_s)
        )
        return [id_.decode() for id_ in found]

    @unavailable_when_redis_is
    def page(self, owner: str | None, limit: int, behind: str | None) -> list[Schedule]:
        """`owner`'s schedules (None: everybody's), newest first, from behind that id on."""
        key = "pr:schedules" if owner is None else f"pr:schedules:of:{owner}"
        client: Any = self.redis
        start = f"({behind}" if behind else "+"
        return self._read_all(
            client.zrange(key, start, "-", desc=True, bylex=True, offset=0, num=limit)
        )

    def _read_all(self, ids: Sequence[bytes]) -> list[Schedule]:
        client: Any = self.redis
        pipe = client.pipeline(transaction=False)
        for id_ in ids:
            pipe.hmget(b"pr:s:" + id_, _FIELDS)
        read = (_read(id_.decode(), row) for id_, row in zip(ids, pipe.execute(), strict=True))
        return [schedule for schedule in read if schedule]

    @unavailable_when_redis_is
    def began_before(self, message_id: str, moment: datetime) -> bool:
        """Whether the message was on its way before then. One that is forgotten was."""
        client: Any = self.redis
        if attempts := records.attempts(client.hget(f"pr:a:{message_id}:0", "0")):
            return attempts[0].started_at < moment
        return not client.exists(f"pr:m:{message_id}")
