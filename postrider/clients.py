"""Who may come in, besides the user of the settings: API keys and users, in Redis.

Both are clients with an id, a name and a role. A key is found by its hash, a user by the name; neither secret is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

import redis

from postrider import credentials, records
from postrider.errors import InvalidRequest, NotFound
from postrider.model import Client, Quota, Role
from postrider.scripts import Scripts, unavailable_when_redis_is

Kind = Literal["key", "user"]
MOST = 10_000
"""Keys, and users: each is a few hundred bytes that no purge frees."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key or a user as it is kept. `by`: who made it; `used_at`: when it last came in, to the minute."""

    id: str
    kind: Kind
    name: str
    role: Role
    created_at: datetime
    by: str
    used_at: datetime | None
    disabled_at: datetime | None
    quota: Quota
    secret: str = field(repr=False)
    """SHA-256 of the key, or scrypt of the password."""

    @property
    def client(self) -> Client:
        """Who asks, when it is this one."""
        return Client(self.id, self.name, self.role, self.quota)


class Clients:
    """Keys and users in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    # -- changing

    def add_key(self, name: str, role: Role, by: str, quota: Quota) -> tuple[Known, str]:
        """A new key: as it is kept, and the key itself, which nobody can say again."""
        key = credentials.new_key()
        return self._add("key", name, role, credentials.key_digest(key), by=by, quota=quota), key

    def add_user(self, name: str, role: Role, by: str, quota: Quota, password: str) -> Known:
        """A new user."""
        return self._add(
            "user", name, role, credentials.password_hash(password), by=by, quota=quota
        )

    @unavailable_when_redis_is
    def _add(
        self, kind: Kind, name: str, role: Role, secret: str, *, by: str, quota: Quota
    ) -> Known:
        id_ = credentials.new_id()
        fields = _quota_fields(quota)
        told = self.scripts.run(
            "client_add", kind, id_, name, secret, MOST, "role", role, "by", by, *fields
        )
        if told == b"taken":
            raise InvalidRequest("name", f"is taken: there is a {kind} called {name}")
        if told == b"full":
            raise InvalidRequest(
                "name", f"cannot be added: there are {MOST} {kind}s already; delete some"
            )
        return self.get(kind, id_)

    @unavailable_when_redis_is
    def change(
        self,
        kind: Kind,
        id_: str,
        *,
        role: Role | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
        password: str | None = None,
    ) -> Known:
        """Changes what is given, for every process within a second. Raises NotFound."""
        fields: list[str] = []
        if role is not None:
            fields += ("role", role)
        if disabled is not None:
            fields += ("disabled", "now" if disabled else "")
        if quota is not None:
            fields += _quota_fields(quota)
        if password is not None:
            fields += ("secret", credentials.password_hash(password))
        if not self.scripts.run("client_change", kind, id_, *fields):
            raise NotFound(f"no such {kind}")
        return self.get(kind, id_)

    @unavailable_when_redis_is
    def delete(self, kind: Kind, id_: str) -> None:
        """Takes the key or user away, for every process within a second. Raises NotFound.

        What it sent stays, and goes out; only an admin sees it from then on.
        """
        if not self.scripts.run("client_drop", kind, id_):
            raise NotFound(f"no such {kind}")

    @unavailable_when_redis_is
    def note_use(self, id_: str) -> None:
        """Keeps that a client is there now."""
        self.scripts.run("client_used", id_)

    # -- reading

    @unavailable_when_redis_is
    def generation(self) -> int:
        """A number that is another one after each change of a key or a user."""
        client: Any = self.redis
        return int(client.get("pr:clients:turn") or 0)

    def get(self, kind: Kind, id_: str) -> Known:
        """That key or user. Raises NotFound."""
        found = self.find(id_)
        if found is None or found.kind != kind:
            raise NotFound(f"no such {kind}")
        return found

    @unavailable_when_redis_is
    def find(self, id_: str) -> Known | None:
        """The key or user of that id."""
        return self._read([id_])[0]

    @unavailable_when_redis_is
    def of_key(self, key: str) -> Known | None:
        """Whose key this is."""
        client: Any = self.redis
        id_ = client.hget("pr:clients:digests", credentials.key_digest(key))
        return self._read([id_.decode()])[0] if id_ else None

    @unavailable_when_redis_is
    def whose(self, given: str) -> str:
        """The id of the key or user that has this id or name; of one that was deleted, too, while anything that it sent is kept.

        Raises InvalidRequest for what is none.
        """
        if self.find(given):
            return given
        found = [known.id for kind in get_args(Kind) if (known := self.named(kind, given))]
        if len(found) > 1:
            raise InvalidRequest("client", "is the name of a key and of a user; give its id")
        if found:
            return str(found[0])
        if not self.redis.exists(f"pr:messages:o:{given}"):
            raise InvalidRequest("client", "is neither the id nor the name of an API key or user")
        return given

    @unavailable_when_redis_is
    def named(self, kind: Kind, name: str) -> Known | None:
        """The key or user of that name."""
        client: Any = self.redis
        id_ = client.hget(f"pr:clients:names:{kind}", name)
        return self._read([id_.decode()])[0] if id_ else None

    @unavailable_when_redis_is
    def password_of(self, name: str) -> tuple[str, str | None]:
        """Id of that user, and what is stored of the password; None where there is none.

        No more is read, so that it is the same work whether there is such a user: nobody shall learn that by the clock.
        """
        client: Any = self.redis
        found = client.hget("pr:clients:names:user", name.encode("utf-8", "surrogatepass"))
        id_ = (found or b"nobodyatall.").decode()
        secret = client.hget(f"pr:client:{id_}", "secret")
        return id_, secret.decode() if secret else None

    @unavailable_when_redis_is
    def page(
        self, kind: Kind, limit: int, cursor: str | None = None
    ) -> tuple[list[Known], str | None]:
        """Keys or users in the order in which they were made, and the cursor of the next page."""
        client: Any = self.redis
        at, behind = records.read_cursor(cursor)
        rows = client.zrange(
            f"pr:clients:{kind}",
            at or "-inf",
            "+inf",
            byscore=True,
            withscores=True,
            offset=0,
            num=limit + 1 + (1 if at else 0),
        )
        found = [
            (float(score), id_.decode())
            for id_, score in rows
            if not at or (float(score), id_.decode()) > (float(at), behind)
        ][: limit + 1]
        shown = found[:limit]
        listed = [row for row in self._read([id_ for _, id_ in shown]) if row]
        return listed, records.cursor(*shown[-1]) if len(found) > limit else None

    def _read(self, ids: list[str]) -> list[Known | None]:
        pipe: Any = self.redis.pipeline(transaction=False)
        for id_ in ids:
            pipe.hgetall(f"pr:client:{id_}")
            pipe.hget("pr:clients:used", id_)
        found = pipe.execute() if ids else []
        return [
            _known(id_, fields, used) if fields else None
            for id_, fields, used in zip(ids, found[::2], found[1::2], strict=True)
        ]


def _quota_fields(quota: Quota) -> list[str]:
    """Name, value, ...: '' for no limit."""
    fields = []
    for name in ("rate", "waiting", "recipients", "file_bytes"):
        most = getattr(quota, name)
        fields += [name, "" if most is None else str(most)]
    return fields


def _known(id_: str, raw: Mapping[bytes, bytes], used: bytes | None) -> Known:
    of = {name.decode(): value.decode() for name, value in raw.items()}
    role: Any = of["role"]
    kind: Any = of["kind"]
    return Known(
        id=id_,
        kind=kind,
        name=of["name"],
        role=role,
        created_at=records.moment(float(of["created"])),
        by=of["by"],
        used_at=records.moment(float(used)) if used else None,
        disabled_at=records.moment(float(of["disabled"])) if "disabled" in of else None,
        quota=Quota(
            rate=float(of["rate"]) if "rate" in of else None,
            waiting=int(of["waiting"]) if "waiting" in of else None,
            recipients=int(of["recipients"]) if "recipients" in of else None,
            file_bytes=int(of["file_bytes"]) if "file_bytes" in of else None,
        ),
        secret=of["secret"],
    )
