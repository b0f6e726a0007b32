"""What people send to our accounts: kept for a while, each once, and obeyed where it says stop."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import redis

from messengers.inward import Incoming, Kind
from postrider import media, records
from postrider.errors import InvalidRequest
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

KEPT_S = 30 * 86_400
"""Seconds for which an incoming message is kept."""
KNOWN_S = 8 * 86_400
"""Seconds for which a repeat is known as one: Meta repeats for 7 days, the others for less."""
CHUNK = 500
PLACE = "pr:incoming"
"""Where texts are kept, as the vault knows it."""
LOOKED_AT = 10_000
"""Messages that a filter looks at for one page: where few match, a page is short, and the next one goes on."""
_CURSOR = re.compile(r"(?!0+-0+$)[0-9]{1,15}-[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Heard:
    """An incoming message as it is kept. `id` is ours; `provider_id` the messenger's; `at` is when it was sent."""

    id: str
    provider_id: str
    service: str
    account: str
    uuid: str
    name: str
    text: str
    kind: Kind
    at: datetime
    received_at: datetime
    file: media.Attached | None = None


@dataclass(frozen=True, slots=True)
class HeardPage:
    """A part of the list, and the cursor of the next part or None."""

    rows: list[Heard]
    next: str | None


def plain(text: str) -> str:
    """`text` without case, spaces, punctuation and marks of style: what is left to tell one word from another."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")


def plain_words(setting: str) -> frozenset[str]:
    """The words that a setting lists between commas."""
    return frozenset(filter(None, map(plain, setting.split(","))))


def wish(message: Incoming, opt_out: frozenset[str], opt_in: frozenset[str]) -> str:
    """What the sender asks for, as incoming.lua spells it: `o` no more, `i` again, `l` nothing, but is alive, or ''.

    In a group nobody speaks for all.
    """
    if message.kind == "left":
        return "o" if not message.group else ""
    if message.group:
        return "l"
    if message.kind == "joined":
        return "i"
    word = plain(message.text) if message.kind in {"text", "button"} else ""
    if word in opt_out:
        return "o"
    return "i" if word in opt_in else "l"


class Arrivals:
    """Incoming messages in one Redis: `pr:incoming`, the newest so many; `pr:incoming:o:<client>`: the ids of a client's."""

    def __init__(self, client: redis.Redis, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def take(
        self,
        service: str,
        account: str,
        messages: Sequence[Incoming],
        *,
        kept: int,
        opt_out: frozenset[str],
        opt_in: frozenset[str],
        told_at: datetime | None = None,
        owner: str = "",
        place: str = "",
    ) -> list[Incoming]:
        """Keeps these, does what they ask for, and gives those back that are new. Taking them again changes nothing.

        `told_at`: callbacks tell of those that are new, as of then; None: they do not. `owner`: the client whose account it
        is, if any. `place`: an address that callbacks go to instead of WEBHOOK_URL.
        """
        key = records.account_key(service, account)
        new: list[Incoming] = []
        for first in range(0, len(messages), CHUNK):
            chunk = messages[first : first + CHUNK]
            args: list[str | bytes] = []
            for m in chunk:
                tos = (m.sender, *m.also)
                asks = wish(m, opt_out, opt_in)
                text = _text(service, account, m, self.vault if asks != "o" else KEYLESS)
                event = _event(told_at, service, account, m, place) if told_at else ""
                args += (_mark(key, m), text, asks, event)
                if m.media:
                    args += (media.what(m.media, self.vault), media.waits(m.media).line())
                else:
                    args += ("", "")
                args += (str(len(tos)), *tos)
            limits = (kept, KEPT_S, KNOWN_S, key, owner, media.WAITING)
            found = self.scripts.run("incoming", *limits, *args)
            new += (m for m, is_new in zip(chunk, found, strict=True) if is_new)
        return new

    @unavailable_when_redis_is
    def page(
        self,
        limit: int,
        cursor: str | None = None,
        *,
        service: str | None = None,
        account: str | None = None,
        uuid: str | None = None,
        owner: str | None = None,
    ) -> HeardPage:
        """The newest of them, or those behind `cursor`; only of this messenger, account, sender, where given.

        `owner`: only what came to accounts of this client; None: to anybody's.
        """
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise InvalidRequest("cursor", "is not one that this service gave")
        wanted = {"service": service, "account": account, "uuid": uuid and uuid.removeprefix("+")}
        rows: list[Heard] = []
        looked = 0
        newest = self._newest(cursor, max(limit + 1, CHUNK), owner)
        for looked, (id_, told) in enumerate(newest, 1):
            if len(rows) == limit or looked > LOOKED_AT + limit:
                return HeardPage(self._with_files(rows), cursor)
            cursor = id_
            uuids = {told["uuid"].removeprefix("+"), *told["also"]}
            if all(
                value is None or (value in uuids if name == "uuid" else told[name] == value)
                for name, value in wanted.items()
            ):
                rows.append(_heard(id_, told, self.vault))
        return HeardPage(self._with_files(rows), None)

    def _newest(
        self, cursor: str | None, part: int, owner: str | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        client: Any = self.redis
        end = f"({cursor}" if cursor else "+"
        key = "pr:incoming" if owner is None else f"pr:incoming:o:{owner}"
        while found := client.xrevrange(key, end, "-", count=part):
            end = f"({found[-1][0].decode()}"
            if owner is not None:
                found = self._kept([id_ for id_, _ in found])
            for id_, fields in found:
                yield id_.decode(), json.loads(fields[b"j"])

    def _kept(self, ids: Sequence[bytes]) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The messages with these ids, as far as they are still kept."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for id_ in ids:
            pipe.xrange("pr:incoming", id_, id_)
        return [entry for entries in pipe.execute() for entry in entries]

    def _with_files(self, rows: list[Heard]) -> list[Heard]:
        """`rows` with what is known of their files."""
        if not rows:
            return rows
        client: Any = self.redis
        known = client.hmget("pr:incoming:files", [row.id for row in rows])
        return [
            replace(row, file=media.Attached.read(told)) if told else row
            for row, told in zip(rows, known, strict=True)
        ]


def _mark(account: str, message: Incoming) -> bytes:
    """Told from a receipt's mark by what stands before it."""
    told = f"in {account} {message.id}".encode(errors="replace")
    return hashlib.blake2b(told, digest_size=10).digest()


def _text(service: str, account: str, m: Incoming, vault: Vault) -> str:
    fields: dict[str, object] = {
        "id": m.id,
        "service": service,
        "account": account,
        "uuid": m.sender,
        "also": m.also,
        "name": m.name,
        "text": vault.seal_word(m.text, PLACE),
        "kind": m.kind,
        "at": m.at.timestamp() if m.at else None,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _event(at: datetime, service: str, account: str, m: Incoming, place: str) -> str:
    data: dict[str, Any] = {
        "service": service,
        "account": account,
        "uuid": m.sender,
        "name": m.name,
        "text": m.text,
        "kind": m.kind,
        "provider_id": m.id,
        "at": m.at.isoformat().replace("+00:00", "Z") if m.at else None,
    }
    if not place:
        return records.event_line("message.received", data, at)
    data |= {"session": account, "file": None}
    return records.event_line("message.received", data, at, url=place, alone=True)


def _heard(id_: str, told: dict[str, Any], vault: Vault) -> Heard:
    received_at = records.moment(int(id_.partition("-")[0]) / 1000)
    return Heard(
        id=id_,
        provider_id=told["id"],
        service=told["service"],
        account=told["account"],
        uuid=told["uuid"],
        name=told["name"],
        text=vault.open_word(told["text"], PLACE),
        kind=told["kind"],
        at=received_at if told["at"] is None else records.moment(told["at"]),
        received_at=received_at,
    )
