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

import errno
import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, BinaryIO, NamedTuple

import redis

from messengers.base import File
from postrider import records, sealed, sniffing
from postrider.errors import (
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from postrider.model import Attachment
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.signing import Links
from postrider.vault import KEYLESS, Vault

UNUSED_KEPT_S = 86_400.0
NAME_LIMIT = 150
"""Characters of a file's name; some file systems have 255 bytes."""
ID_BYTES = 16
SEALED = ".sealed"
"""Behind the name of what is encrypted on the disk."""
LINKED_WITHIN_S = 60.0
"""From when a file gets its id until it is kept: for the disk."""
ROOM_AGAIN_S = 60
"""When a client over its bytes may try again: some of its files may be gone by then."""
_ID = re.compile(r"[\w-]{22}")


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

    # -- keeping

    def incoming(self) -> "Incoming":
        """A new file, to be written and then kept."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Incoming(self.folder, self.vault if self.vault.seals else None)

    def keep(self, incoming: "Incoming", name: str, owner: str, now: datetime) -> Stored:
        """Keeps what was written, under a new id. Raises as `keep_all` does."""
        return self.keep_all([(incoming, name)], owner, now)[0]

    @unavailable_when_redis_is
    def keep_all(
        self, arrived: Sequence[tuple["Incoming", str]], owner: str, now: datetime
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
            told = self._write(found, owner, now, kept_until)
            _refuse(told)
        except BaseException:
            if told != "ok":
                self.forget([stored.file.id for stored in found], now)
            raise
        return found

    def _seen(
        self, incoming: "Incoming", name: str, owner: str, now: datetime, kept_until: datetime
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

    def resolve(self, attachments: Sequence[Attachment], owner: str | None) -> tuple[File, ...]:
        """The files that a client of `owner`'s names. Raises InvalidRequest."""
        return tuple(
            self.resolved(f"attachments[{n}]", asked, owner) for n, asked in enumerate(attachments)
        )

    def resolved(self, field: str, asked: Attachment, owner: str | None) -> File:
        """One of them; `field` is where it stands."""
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
        return replace(file, open=partial(self.open, file.id), link=link)

    def open(self, id_: str) -> BinaryIO:
        """What a file holds, from its beginning. Raises OSError."""
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
        """Deletes what nobody has needed for long enough, and what did not get here whole."""
        at = records.seconds(now.timestamp())
        while self.scripts.run("files_delete", at, most, ""):
            pass
        self._clear(most)

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


class Incoming:
    """A file that is being written: gone when it is closed without having been linked, also when this process dies."""

    def __init__(self, folder: Path, vault: Vault | None = None) -> None:
        """`vault`: it is encrypted on the disk."""
        self._named: Path | None = None
        self.size = 0
        self._digest = hashlib.sha256()
        self.file = self._new(folder)
        self._vault = vault
        self._writer = sealed.Writer(self.file, vault) if vault else None

    def _new(self, folder: Path) -> IO[bytes]:
        if hasattr(os, "O_TMPFILE"):
            with suppress(OSError):  # some file systems cannot
                fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
                return os.fdopen(fd, "w+b")
        named = NamedTemporaryFile(dir=folder, prefix="incoming-", delete=False)  # noqa: SIM115 - closed by close()
        self._named = Path(named.name)
        return named.file

    def write(self, part: bytes) -> int:
        """Appends. Raises Unavailable when the disk is full, OSError."""
        try:
            if self._writer is None:
                self.file.write(part)
            else:
                self._writer.write(part)
        except OSError as error:
            raise _no_room(error) from error
        self._digest.update(part)
        self.size += len(part)
        return len(part)

    @property
    def sealed(self) -> bool:
        """Whether it is encrypted on the disk."""
        return self._writer is not None

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """What was written, from its beginning. An encrypted one cannot be written any further."""
        if self._writer is None or self._vault is None:
            self.file.seek(0)
            yield self.file
        else:
            self._writer.end()
            with sealed.reading(self.file, self._vault, closes=False) as file:
                yield file
        self.file.seek(0, 2)

    @property
    def sha256(self) -> str:
        """The digest of what was written, in hexadecimal digits."""
        return self._digest.hexdigest()

    def replace(self, path: Path) -> None:
        """Makes it stay as `path`, also where there is a file already."""
        draft = path.with_name(f"incoming-{secrets.token_hex(8)}")
        self.link(draft)
        draft.replace(path)

    def link(self, path: Path) -> None:
        """Makes it stay, as `path`."""
        try:
            if self._writer is not None:
                self._writer.end()
            self.file.flush()
        except OSError as error:
            raise _no_room(error) from error
        os.fsync(self.file.fileno())
        if self._named:
            self._named.rename(path)
            self._named = None
        else:
            # The folder's descriptor counts for nothing here, but has Python call linkat(), which alone follows this link.
            fd = self.file.fileno()
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)

    def close(self) -> None:
        """Ends the writing."""
        self.file.close()
        if self._named:
            self._named.unlink(missing_ok=True)


def _no_room(error: OSError) -> Exception:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Unavailable("there is no room for it on the disk", retry_after_s=ROOM_AGAIN_S)
    return error


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


def clean_name(name: str) -> str:
    """A name without a path, control characters or anything that has a meaning in a header; never empty."""
    name = unicodedata.normalize("NFC", name.encode(errors="replace").decode())
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c if c.isprintable() and c not in '"<>:|?*;' else "_" for c in name).strip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > NAME_LIMIT and dot and len(suffix) <= 10:
        name = stem[: NAME_LIMIT - len(suffix) - 1] + "." + suffix
    return name[:NAME_LIMIT] or "file"
