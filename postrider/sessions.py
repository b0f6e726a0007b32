"""Sessions of linked phones, as they are kept: whose each is, whether it is to run, how it stood when it was last looked at.

Redis
  pr:session:<session>        hash    its fields (see `Session`), and `v`: how often it was changed
  pr:sessions                 zset    session -> 0: in order of their ids
  pr:sessions:of:<owner>      zset    the same, of one client
  pr:sessions:due             zset    session -> when it is looked at (s)
  pr:sessions:asked           set     those that somebody asked for since they were last taken
  pr:sessions:turn            string  how often any of them was changed
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal

import redis

from postrider import records
from postrider.errors import InvalidRequest
from postrider.scripts import Scripts, unavailable_when_redis_is

NAME = r"[A-Za-z0-9][A-Za-z0-9-]{0,31}"
"""What a session may be called; `_` parts its name from its owner's id."""
MOST = 1_000
"""Sessions at most; each may have its deliveries looked for at every claim."""
CHANGES = 10
"""Tries to change one that others change meanwhile."""
MADE_WITHIN_S = 10.0
"""Seconds that whoever adds one has to make it at its sidecar, before somebody else does."""
_ID = re.compile(rf"{NAME}(_[A-Za-z0-9]{{1,32}})?")

SessionState = Literal["starting", "scan", "passkey", "linked", "dropped", "unlinked", "stopped"]
"""`scan`, `passkey`: waits for its user; `dropped`: its phone is linked, but not there; `unlinked`: it has none, and nobody
is about to change that."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session. `id` is its account, and its name at the sidecar; times are aware UTC.

    `wanted`: whether it is to run. `number`: of the linked phone, `last`: of the one that was linked last; `linked_at`: when
    that was first linked. `tries`: how often it was brought back, or asked in vain, since it stood well; `tried_at`: when
    something was last done for it. `code`: a digest of the QR code that was last shown, '' when there is none.
    `pairs_until`: until when somebody may type a pairing code, where each QR code would end that.
    """

    id: str
    name: str
    owner: str
    created_at: datetime
    since: datetime
    state: SessionState = "starting"
    wanted: bool = True
    shared: bool = False
    linked_at: datetime | None = None
    number: str = ""
    last: str = ""
    phone: str = ""
    reason: str = ""
    tries: int = 0
    tried_at: datetime | None = None
    code: str = ""
    pairs_until: datetime | None = None
    v: int = 0


def session_id(name: str, owner: str) -> str:
    """What a session of this owner's is called everywhere but to the owner."""
    return f"{name}_{owner}" if owner else name


def owner_of(id_: str) -> str:
    """Whose session this is: a client's id, or ''."""
    return id_.partition("_")[2]


_TIMES = {"created_at", "since", "linked_at", "tried_at", "pairs_until"}
_FLAGS = {"wanted", "shared"}
_NUMBERS = {"tries", "v"}


class Sessions:
    """Sessions in one Redis."""

    def __init__(
        self,
        client: redis.Redis,
        tells: Callable[[Session, Session | None], str] = lambda _before, _after: "",
    ) -> None:
        """`tells`: what callbacks are told of a change; None instead of a session: it is deleted."""
        self.redis = client
        self.scripts = Scripts(client)
        self._tells = tells

    @unavailable_when_redis_is
    def add(self, name: str, owner: str, now: datetime, *, shared: bool = False) -> Session | None:
        """A new one, looked at soon if nobody has that done earlier; None when its owner has one of that name. Raises InvalidRequest."""
        if not re.fullmatch(NAME, name):
            raise InvalidRequest("name", "has 1 to 32 letters, digits and -")
        new = Session(session_id(name, owner), name, owner, now, now, shared=shared)
        fields_ = _flat(asdict(new))
        told = self.scripts.run("session_add", new.id, owner, MOST, MADE_WITHIN_S, *fields_)
        if told == b"full":
            raise InvalidRequest("name", f"cannot be added: there are {MOST} sessions already")
        return new if told == b"ok" else None

    @unavailable_when_redis_is
    def get(self, id_: str) -> Session | None:
        """The one with this id."""
        client: Any = self.redis
        told = client.hgetall(f"pr:session:{id_}") if _ID.fullmatch(id_) else None
        return _session(told) if told else None

    @unavailable_when_redis_is
    def every(self) -> list[Session]:
        """All there are: `MOST` at most."""
        client: Any = self.redis
        return self._read(client.zrange("pr:sessions", 0, -1))

    def _read(self, ids: Sequence[bytes]) -> list[Session]:
        pipe: Any = self.redis.pipeline(transaction=False)
        for id_ in ids:
            pipe.hgetall(f"pr:session:{id_.decode()}")
        return [_session(told) for told in pipe.execute() if told]

    @unavailable_when_redis_is
    def page(
        self, owner: str | None, limit: int, cursor: str | None = None
    ) -> tuple[list[Session], str | None]:
        """Those of `owner`'s (None: everybody's) in order of their ids, and the cursor of the next page."""
        if cursor is not None and not _ID.fullmatch(cursor):
            raise InvalidRequest("cursor", "is not one that this service gave")
        client: Any = self.redis
        key = "pr:sessions" if owner is None else f"pr:sessions:of:{owner}"
        ids = client.zrange(
            key, f"({cursor}" if cursor else "-", "+", bylex=True, offset=0, num=limit + 1
        )
        return self._read(ids[:limit]), ids[limit - 1].decode() if len(ids) > limit else None

    @unavailable_when_redis_is
    def change(self, session: Session, **new: Any) -> Session | None:
        """`session` with other fields; None when it was changed, or deleted, since it was read."""
        given = {name: value for name, value in new.items() if getattr(session, name) != value}
        if not given:
            return session
        changed = replace(session, **given, v=session.v + 1)
        event = self._tells(session, changed)
        told = self.scripts.run("session_change", session.id, session.v, event, *_flat(given))
        return changed if told else None

    @unavailable_when_redis_is
    def delete(self, session: Session) -> bool:
        """Forgets it; False when it was gone."""
        event = self._tells(session, None)
        return bool(self.scripts.run("session_drop", session.id, session.owner, event))

    # -- when to look at them

    @unavailable_when_redis_is
    def look_now(self, id_: str) -> None:
        """Has it looked at as soon as somebody can."""
        self.scripts.run("session_due", id_, "now")

    @unavailable_when_redis_is
    def look_in(self, id_: str, seconds: float | None) -> None:
        """Has it looked at in so many seconds, unless it was asked for meanwhile; None: when it is asked for."""
        self.scripts.run("session_due", id_, "" if seconds is None else seconds)

    @unavailable_when_redis_is
    def overdue_s(self, id_: str) -> float:
        """For how many seconds it has waited to be looked at; 0 when it does not."""
        client: Any = self.redis
        due = client.zscore("pr:sessions:due", id_)
        return 0.0 if due is None else records.moment_of(client).timestamp() - due

    @unavailable_when_redis_is
    def take_due(self, most: int, lease_s: float) -> list[str]:
        """Those to be looked at now, each given to one caller; to another when that has not settled it within the lease."""
        return [id_.decode() for id_ in self.scripts.run("sessions_take", most, lease_s)]

    @unavailable_when_redis_is
    def goes(self, account: str) -> None:
        """Has what waits for `account` go at once: what its sidecar asked for while its phone was away counts no more."""
        self.scripts.run("session_goes", account)

    @unavailable_when_redis_is
    def turn(self) -> bytes:
        """Changes whenever any session does."""
        client: Any = self.redis
        return client.get("pr:sessions:turn") or b""


def _flat(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if name != "v":
            yield name
            yield _written(value)


def _written(value: Any) -> str:
    if isinstance(value, datetime):
        return records.seconds(value.timestamp())
    if isinstance(value, bool):
        return "1" if value else ""
    return "" if value is None else str(value)


def _session(told: Mapping[bytes, bytes]) -> Session:
    text = {name.decode(): value.decode() for name, value in told.items()}
    known: dict[str, Any] = {}
    for one in fields(Session):
        value = text.get(one.name, "")
        if one.name in _TIMES:
            known[one.name] = records.moment(float(value)) if value else None
        elif one.name in _FLAGS:
            known[one.name] = bool(value)
        elif one.name in _NUMBERS:
            known[one.name] = int(value or 0)
        else:
            known[one.name] = value
    return Session(**known)
