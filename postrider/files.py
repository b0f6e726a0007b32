"""Files: what clients upload, kept in `DATA_DIR` until no delivery needs it; what is known of each stands in Redis.

Redis
  pr:file:<file>        hash   name, media_type, size, sha256, kind, width, height, owner, at (s)
  pr:file:<file>:of     set    messages that need it, and schedules
  pr:files:unused       zset   file that none needs -> when it is deleted (s)
  pr:files:deleted      set    files that are forgotten, while what they held may still lie on the disk
"""

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, BinaryIO

import redis

from messengers.base import File
from postrider import records, sealed, sniffing
from postrider.errors import InvalidRequest, NotFound
from postrider.model import Attachment
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

UNUSED_KEPT_S = 86_400.0
NAME_LIMIT = 150
"""Characters of a file's name; some file systems have 255 bytes."""
ID_BYTES = 16
SEALED = ".sealed"
"""Behind the name of what is encrypted on the disk."""
_ID = re.compile(r"[\w-]{22}")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that we have."""

    file: File
    sha256: str
    owner: str
    at: datetime


class Files:
    """What is kept in one folder and one Redis."""

    def __init__(self, client: redis.Redis, folder: Path, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.scripts = Scripts(client)
        self.folder = folder
        self.vault = vault

    # -- keeping

    def incoming(self) -> "Incoming":
        """A new file, to be written and then kept."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Incoming(self.folder, self.vault if self.vault.seals else None)

    @unavailable_when_redis_is
    def keep(self, incoming: "Incoming", name: str, owner: str, now: datetime) -> Stored:
        """Keeps what was written, under a new id."""
        id_ = secrets.token_urlsafe(ID_BYTES)
        name = clean_name(name)
        with incoming.reading() as content:
            seen = sniffing.look(content, name)
        file = File(
            name=name,
            media_type=seen.media_type,
            size=incoming.size,
            kind=seen.kind,
            id=id_,
            width=seen.width,
            height=seen.height,
        )
        fields = {
            "name": name,
            "media_type": file.media_type,
            "size": file.size,
            "kind": file.kind,
            "width": file.width,
            "height": file.height,
            "sha256": incoming.sha256,
            "owner": owner,
            "at": records.seconds(now.timestamp()),
        }
        incoming.link(self.path(id_, sealed=incoming.sealed))
        pipe: Any = self.redis.pipeline()
        pipe.hset(f"pr:file:{id_}", mapping=fields)
        pipe.zadd("pr:files:unused", {id_: now.timestamp() + UNUSED_KEPT_S})
        pipe.execute()
        return Stored(file, incoming.sha256, owner, now)

    # -- finding

    @unavailable_when_redis_is
    def get(self, id_: str, owner: str | None) -> Stored:
        """A file of `owner`'s; None: of anybody's. Raises NotFound."""
        client: Any = self.redis
        told = client.hgetall(f"pr:file:{id_}") if _ID.fullmatch(id_) else None
        if not told or (owner is not None and told[b"owner"].decode() != owner):
            raise NotFound("there is no such file")
        text = {name.decode(): value.decode() for name, value in told.items()}
        file = File(
            name=text["name"],
            media_type=text["media_type"],
            size=int(text["size"]),
            kind=text["kind"],
            id=id_,
            width=int(text["width"]),
            height=int(text["height"]),
        )
        return Stored(file, text["sha256"], text["owner"], records.moment(float(text["at"])))

    def resolve(self, attachments: Sequence[Attachment], owner: str | None) -> tuple[File, ...]:
        """The files that a client of `owner`'s names. Raises InvalidRequest."""
        return tuple(
            self._resolved(f"attachments[{n}]", asked, owner) for n, asked in enumerate(attachments)
        )

    def _resolved(self, field: str, asked: Attachment, owner: str | None) -> File:
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
        """`file` with what it holds."""
        return replace(file, open=partial(self.open, file.id)) if file.id else file

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
        client: Any = self.redis
        if client.exists(f"pr:file:{id_}:of"):
            return False
        client.zadd("pr:files:unused", {id_: 0})
        self.sweep(now)
        return True

    @unavailable_when_redis_is
    def sweep(self, now: datetime, most: int = 100) -> None:
        """Deletes what nobody has needed for long enough."""
        client: Any = self.redis
        at = records.seconds(now.timestamp())
        while self.scripts.run("files_delete", at, most):
            pass
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
        """Appends."""
        self._digest.update(part)
        self.size += len(part)
        if self._writer is None:
            return self.file.write(part)
        self._writer.write(part)
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
        if self._writer is not None:
            self._writer.end()
        self.file.flush()
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


def clean_name(name: str) -> str:
    """A name without a path, control characters or anything that has a meaning in a header; never empty."""
    name = unicodedata.normalize("NFC", name.encode(errors="replace").decode())
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c if c.isprintable() and c not in '"<>:|?*;' else "_" for c in name).strip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > NAME_LIMIT and dot and len(suffix) <= 10:
        name = stem[: NAME_LIMIT - len(suffix) - 1] + "." + suffix
    return name[:NAME_LIMIT] or "file"
