"""Files: what clients upload, kept in `DATA_DIR` until no delivery needs it; what is known of each stands in Redis.

Redis
  pr:file:<file>        hash   name, media_type, size, sha256, kind, width, height, owner, at (s)
  pr:file:<file>:of     set    messages that need it, and schedules
  pr:files              zset   all files, by when they came (s); pr:files:o:<owner> the same for each owner
  pr:files:bytes        hash   owner -> bytes of all its files
  pr:files:arriving     zset   file that is about to be kept -> when nobody waits for that any more (s)
  pr:files:unused       zset   file that none needs -> when it is deleted (s)
  pr:files:deleted      set    files that are forgotten, while what they held may still lie on the disk
"""

import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import redis

from messengers.base import File
from postrider import records, sealed, sniffing
from postrider.arriving import DRAFT, ROOM_AGAIN_S, Arriving, clean_name, room_needed
from postrider.errors import (
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unavailable,
    Unreadable,
)
from postrider.model import Attachment
from postrider.ring import sync_folder
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.signing import Links
from postrider.vault import KEYLESS, Vault

UNUSED_KEPT_S = 86_400.0
ID_BYTES = 16
DRAFT_KEPT_S = 86_400.0
"""Seconds without a write after which nobody writes it any more."""
LOOK_S = 3_600.0
"""Seconds between two looks for such that are left over, in one process."""
SEALED = ".sealed"
"""Behind the name of what is encrypted on the disk."""
LINKED_WITHIN_S = 60.0
"""From when a file gets its id until it is kept: for the disk."""
_ID = re.compile(r"[\w-]{22}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that we have."""

    file: File
    sha256: str
    owner: str
    at: datetime
    unused_until: datetime | None = None
    """When it is deleted, unless something needs it until then; None while something does."""


class Left(NamedTuple):
    """Bytes that a client may still have kept, and how many it may in all."""

    left: int
    most: int


class Files:
    """What is kept in one folder and one Redis."""

    def __init__(
        self,
        client: redis.Redis,
        folder: Path,
        vault: Vault = KEYLESS,
        links: Links | None = None,
    ) -> None:
        self.redis = client
        self.scripts = Scripts(client)
        self.folder = folder
        self.vault = vault
        self.links = links
        self._drafts_looked_at = -math.inf

    # -- keeping

    def incoming(self) -> Arriving:
        """A new file, to be written and then kept. Raises Unavailable when the disk is full, OSError."""
        with room_needed():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Arriving(self.folder, self.vault if self.vault.seals else None)

    def keep(self, incoming: Arriving, name: str, owner: str, now: datetime) -> Stored:
        """Keeps what was written, under a new id. Raises as `keep_all` does."""
        return self.keep_all([(incoming, name)], owner, now)[0]

    @unavailable_when_redis_is
    def keep_all(
        self, arrived: Sequence[tuple[Arriving, str]], owner: str, now: datetime
    ) -> list[Stored]:
        """Keeps files with their names, all of them or none. Raises TooManyRequests, Unavailable.

        Whoever dies in between leaves a line in `arriving`, by which the sweep finds what is on the disk.
        """
        kept_until = now.timestamp() + UNUSED_KEPT_S
        found = [self._seen(*one, owner, now, records.moment(kept_until)) for one in arrived]
        client: Any = self.redis
        if found:
            until = now.timestamp() + LINKED_WITHIN_S
            client.zadd("pr:files:arriving", {stored.file.id: until for stored in found})
        told = ""
        try:
            for (incoming, _), stored in zip(arrived, found, strict=True):
                incoming.link(self.path(stored.file.id, sealed=incoming.sealed))
            with room_needed():
                sync_folder(self.folder)
            told = self._write(found, owner, now, kept_until)
            _refuse(told)
        except BaseException:
            if told != "ok":
                self.forget([stored.file.id for stored in found], now)
            raise
        return found

    def _seen(
        self, incoming: Arriving, name: str, owner: str, now: datetime, kept_until: datetime
    ) -> Stored:
        name = clean_name(name)
        with incoming.reading() as content:
            seen = sniffing.look(content, name)
        file = File(
            name=name,
            media_type=seen.media_type,
            size=incoming.size,
            kind=seen.kind,
            id=secrets.token_urlsafe(ID_BYTES),
            width=seen.width,
            height=seen.height,
        )
        return Stored(file, incoming.sha256, owner, now, kept_until)

    def _write(self, found: Sequence[Stored], owner: str, now: datetime, kept_until: float) -> str:
        rows: list[str] = []
        for stored in found:
            fields = _fields(stored)
            rows += [stored.file.id, str(len(fields)), *fields]
        size = sum(stored.file.size for stored in found)
        at, until = records.seconds(now.timestamp()), records.seconds(kept_until)
        told: bytes = self.scripts.run("files_keep", owner, size, at, until, *rows)
        return told.decode()

    @unavailable_when_redis_is
    def left(self, owner: str) -> "Left | None":
        """Bytes that `owner` may still have kept; None: as many as there is room for."""
        client: Any = self.redis
        pipe = client.pipeline(transaction=False)
        pipe.hget(f"pr:client:{owner}", "file_bytes")
        pipe.hget("pr:files:bytes", owner)
        most, kept = pipe.execute()
        return None if most is None else Left(int(most) - int(kept or 0), int(most))

    # -- finding

    @unavailable_when_redis_is
    def get(self, id_: str, owner: str | None) -> Stored:
        """A file of `owner`'s; None: of anybody's. Raises NotFound."""
        told: dict[bytes, bytes] = {}
        until: float | None = None
        if _ID.fullmatch(id_):
            pipe: Any = self.redis.pipeline(transaction=False)
            pipe.hgetall(f"pr:file:{id_}")
            pipe.zscore("pr:files:unused", id_)
            told, until = pipe.execute()
        if not told or (owner is not None and told[b"owner"].decode() != owner):
            raise NotFound("there is no such file")
        return _stored(id_, told, until)

    @unavailable_when_redis_is
    def page(
        self, owner: str | None, limit: int, cursor: str | None = None
    ) -> tuple[list[Stored], str | None]:
        """Files of `owner`'s (None: of everybody's), newest first, and the cursor of the next page."""
        at, behind = records.read_cursor(cursor)
        key = "pr:files" if owner is None else f"pr:files:o:{owner}"
        rows = self.scripts.run("files_page", key, limit + 1, at, behind)
        shown = [
            _stored(
                id_.decode(),
                dict(zip(flat[::2], flat[1::2], strict=True)),
                float(until) if until else None,
            )
            for id_, _, until, flat in rows[:limit]
        ]
        if len(rows) <= limit:
            return shown, None
        last, at_s = rows[limit - 1][:2]
        return shown, records.cursor(float(at_s), last.decode())

    def resolved(self, field: str, asked: Attachment, owner: str | None) -> File:
        """The file that a client of `owner`'s names; `field` is where it stands. Raises InvalidRequest."""
        try:
            file = self.get(asked.file, owner).file
        except NotFound:
            raise InvalidRequest(
                f"{field}.file", "there is no such file; upload it first"
            ) from None
        return replace(
            file,
            name=clean_name(asked.name) if asked.name else file.name,
            kind=asked.kind or file.kind,
            inline=asked.inline,
        )

    def opened(self, file: File) -> File:
        """`file` with what it holds, and with a link for a messenger that fetches it, where we can be reached."""
        if not file.id:
            return file
        link = ""
        if self.links:
            with suppress(OSError):  # no key can be made: who needs a link says that there is none
                link = self.links.url(file.id, file.name)
        return replace(file, open=partial(self._open_to_send, file.id), link=link)

    def _open_to_send(self, id_: str) -> BinaryIO:
        """The same as `open`, for who knows no keys. Raises OSError alone."""
        try:
            return self.open(id_)
        except (Unreadable, ValueError) as error:
            raise OSError(str(error)) from error

    def open(self, id_: str) -> BinaryIO:
        """What a file holds, from its beginning. Raises OSError, and Unreadable when its key is not here."""
        try:
            return self.path(id_).open("rb")
        except FileNotFoundError:
            return sealed.reading(self.path(id_, sealed=True).open("rb"), self.vault)

    # -- deleting

    @unavailable_when_redis_is
    def delete(self, id_: str, owner: str | None, now: datetime) -> bool:
        """Deletes a file; False when something needs it still. Raises NotFound."""
        self.get(id_, owner)
        if not self.scripts.run("files_delete", records.seconds(now.timestamp()), 1, id_):
            return False
        self._clear(100)
        return True

    def forget(self, ids: Iterable[str], now: datetime) -> None:
        """Deletes what came for nothing, but for what something needs. Never raises: what cannot be deleted now the sweep
        deletes, within a day."""
        with suppress(redis.RedisError, OSError):
            for id_ in ids:
                self.scripts.run("files_delete", records.seconds(now.timestamp()), 1, id_)
            self._clear(100)

    @unavailable_when_redis_is
    def sweep(self, now: datetime, most: int = 100) -> None:
        """Deletes what nobody has needed for long enough, and what did not get here whole. Raises Unavailable."""
        at = records.seconds(now.timestamp())
        while self.scripts.run("files_delete", at, most, ""):
            pass
        try:
            self._clear(most)
            if time.monotonic() >= self._drafts_looked_at + LOOK_S:
                self._drafts_looked_at = time.monotonic()
                self._clear_drafts()
        except OSError as error:  # which is to end no process that sends
            raise Unavailable(f"files cannot be deleted: {error}") from error

    def _clear_drafts(self) -> None:
        """Deletes what processes died over; seldom, as it reads the whole folder."""
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            drafts = [entry for entry in entries if entry.name.startswith(DRAFT)]
        for entry in drafts:
            with suppress(FileNotFoundError):  # another sweep was faster, or it has got its name
                # By the clock of whoever wrote it, as the file system has no other.
                if time.time() - entry.stat().st_mtime > DRAFT_KEPT_S:
                    Path(entry).unlink()

    def _clear(self, most: int) -> None:
        client: Any = self.redis
        while ids := client.srandmember("pr:files:deleted", most):
            for id_ in ids:
                for is_sealed in (False, True):
                    self.path(id_.decode(), sealed=is_sealed).unlink(missing_ok=True)
            client.srem("pr:files:deleted", *ids)

    @staticmethod
    def is_id(name: str) -> bool:
        """Whether a file could have this id."""
        return bool(_ID.fullmatch(name))

    def path(self, id_: str, *, sealed: bool = False) -> Path:
        """Where a file lies; `sealed`: when it is encrypted. Raises FileNotFoundError."""
        if not _ID.fullmatch(id_):
            raise FileNotFoundError("no file has such an id")
        return self.folder / (id_ + SEALED if sealed else id_)


def _fields(stored: Stored) -> list[str]:
    """What Redis keeps of it: name, value, ..."""
    file = stored.file
    told = {
        "name": file.name,
        "media_type": file.media_type,
        "size": file.size,
        "kind": file.kind,
        "width": file.width,
        "height": file.height,
        "sha256": stored.sha256,
        "owner": stored.owner,
        "at": records.seconds(stored.at.timestamp()),
    }
    return [str(part) for pair in told.items() for part in pair]


def _stored(id_: str, told: Mapping[bytes, bytes], until: float | None) -> Stored:
    text = {name.decode(): value.decode() for name, value in told.items()}
    kind: Any = text["kind"]
    file = File(
        name=text["name"],
        media_type=text["media_type"],
        size=int(text["size"]),
        kind=kind,
        id=id_,
        width=int(text["width"]),
        height=int(text["height"]),
    )
    at = records.moment(float(text["at"]))
    kept_until = None if until is None else records.moment(until)
    return Stored(file, text["sha256"], text["owner"], at, kept_until)


def _refuse(told: str) -> None:
    """Raises what files_keep.lua's answer means, unless that is `ok`."""
    if told == "late":
        raise Unavailable("the disk was too slow to take it; nothing was kept")
    if told != "ok":
        raise over(int(told.partition(" ")[2]))


def over(most: int) -> TooManyRequests:
    """What to raise for a client that may have `most` bytes kept, and would have more."""
    return TooManyRequests(
        f"over this client's limit of {most} bytes of files (file_bytes); delete some",
        retry_after_s=ROOM_AGAIN_S,
    )
