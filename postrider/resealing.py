"""Encrypting anew what is kept, under the newest key: a part at a time, while everything runs."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from postrider import records, sealed
from postrider.arriving import Arriving
from postrider.errors import Unreadable
from postrider.files import SEALED, Files
from postrider.inbox import note_of
from postrider.schedules import body_of
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import Vault

CHUNK = 500
PART = 1 << 20
Field = tuple[bytes, bytes, str]
"""A hash, one of its fields, and that place as the vault knows it."""


log = logging.getLogger("postrider.resealing")


@dataclass(slots=True)
class Resealed:
    """How many texts and files were encrypted anew, and how many stayed as they are because nobody can read them."""

    texts: int = 0
    files: int = 0
    unreadable: int = 0

    def leave(self, what: str, error: Exception) -> None:
        """Counts one that cannot be read, and names it in the log."""
        self.unreadable += 1
        log.warning("%s stays as it is: %s", what, error)


class Resealing:
    """Does it for one Redis and one folder. What is current stays as it is, so that it may be begun again at any time."""

    def __init__(self, client: redis.Redis, files: Files, vault: Vault) -> None:
        self.redis = client
        self.scripts = Scripts(client)
        self.files = files
        self.vault = vault

    def run(self, told: Callable[[Resealed], None] = lambda _: None) -> Resealed:
        """All of it; `told` hears after each part how far it is."""
        done = Resealed()
        for part in self._parts():
            done.texts += self._texts(part, done)
            told(done)
        for id_, is_sealed in self._kept():
            try:
                done.files += self._file(id_, is_sealed=is_sealed)
            except (Unreadable, sealed.Damaged) as error:
                done.leave(f"file {id_}", error)
            told(done)
        return done

    # -- texts

    def _parts(self) -> Iterator[list[Field]]:
        client: Any = self.redis
        cursor: int | None = None
        while cursor != 0:
            cursor, keys = client.scan(cursor or 0, match="pr:[ms]:*", count=CHUNK)
            yield [
                field
                for key, earlier in zip(keys, self._earlier(keys), strict=True)
                for field in _fields(key, earlier)
            ]
        cursor = None
        while cursor != 0:
            cursor, notes = client.hscan("pr:inbox", cursor or 0, count=CHUNK)
            yield [(b"pr:inbox", key, note_of(key.decode())) for key in notes]

    @unavailable_when_redis_is
    def _earlier(self, keys: Sequence[bytes]) -> list[int]:
        """How many earlier texts each of these holds."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.hget(key, "earlier")
        found = pipe.execute(raise_on_error=False)  # some are no hashes
        return [int(n) if isinstance(n, bytes) else 0 for n in found]

    @unavailable_when_redis_is
    def _texts(self, fields: list[Field], done: Resealed) -> int:
        pipe: Any = self.redis.pipeline(transaction=False)
        for key, name, _ in fields:
            pipe.hget(key, name)
        args: list[bytes] = []
        for (key, name, place), kept in zip(fields, pipe.execute(), strict=True):
            if not kept or self.vault.is_current(kept):
                continue
            try:
                args += (key, name, kept, self.vault.seal(self.vault.open(kept, place), place))
            except Unreadable as error:
                done.leave(place, error)
        return int(self.scripts.run("reseal", *args)) if args else 0

    # -- files

    def _kept(self) -> Iterator[tuple[str, bool]]:
        if not self.files.folder.is_dir():
            return
        for entry in os.scandir(self.files.folder):
            name = entry.name.removesuffix(SEALED)
            if self.files.is_id(name):
                yield name, entry.name.endswith(SEALED)

    @unavailable_when_redis_is
    def _file(self, id_: str, *, is_sealed: bool) -> int:
        """1 if it was encrypted anew. Who reads it meanwhile reads what it was; it is the same."""
        path = self.files.path(id_, sealed=is_sealed)
        new: Arriving | None = None
        try:
            if is_sealed:
                with path.open("rb") as raw:
                    if sealed.key_id(raw) == self.vault.newest_id():
                        return 0
            with self.files.open(id_) as old:
                new = self.files.incoming()
                while part := old.read(PART):
                    new.write(part)
            new.replace(self.files.path(id_, sealed=True))
        except FileNotFoundError:
            return 0  # it was deleted meanwhile
        finally:
            if new:
                new.close()
        if not is_sealed:
            path.unlink(missing_ok=True)
        pipe: Any = (
            self.redis.pipeline()
        )  # both at the same moment: when it is kept, the one becomes the other
        pipe.exists(f"pr:file:{id_}")
        pipe.zscore("pr:files:arriving", id_)
        known, arrives = pipe.execute()
        if not known and arrives is None:  # deleted meanwhile: it must not come back
            self.files.path(id_, sealed=True).unlink(missing_ok=True)
        return 1


def _fields(key: bytes, earlier: int) -> Iterator[Field]:
    kind, _, id_ = key.decode().removeprefix("pr:").partition(":")
    if ":" in id_:
        return
    if kind == "m":
        for name in (b"body", *(b"body:%d" % n for n in range(1, earlier + 1))):
            yield key, name, records.body_of(id_)
        yield key, b"template", records.template_of(id_)
    else:
        yield key, b"body", body_of(id_)
