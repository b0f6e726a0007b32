"""Files while they come: written part by part, and gone again unless they are given a name to stay under."""

import errno
import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import IO

from postrider import sealed
from postrider.errors import Unavailable
from postrider.ring import sync_folder
from postrider.vault import Vault

NAME_LIMIT = 150
"""Characters of a file's name; some file systems have 255 bytes."""
DRAFT = "incoming-"
"""Begins the name of what is being written, where that needs one."""
ROOM_AGAIN_S = 60
"""When who found no room may try again: some files may be gone by then."""


class Arriving:
    """A file that is being written: gone when it is closed without having been linked.

    When this process dies, too: at once, or in a day where the file system has only files with names.
    """

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
        fd, name = mkstemp(dir=folder, prefix=DRAFT)
        self._named = Path(name)
        return os.fdopen(fd, "w+b")

    def write(self, part: bytes) -> int:
        """Appends. Raises Unavailable when the disk is full, OSError."""
        with room_needed():
            if self._writer is None:
                self.file.write(part)
            else:
                self._writer.write(part)
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
        """Makes it stay as `path`, also where there is a file already. Raises as `write` does."""
        draft = path.with_name(DRAFT + secrets.token_hex(8))
        self.link(draft)
        with room_needed():
            draft.replace(path)
            sync_folder(path.parent)

    def link(self, path: Path) -> None:
        """Makes it stay, as `path`; for good once the folder is synced. Raises as `write` does."""
        with room_needed():
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


@contextmanager
def room_needed() -> Iterator[None]:
    """Raises Unavailable when the disk is full, whatever of the writing finds that out."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        why = "there is no room for it on the disk"
        raise Unavailable(why, retry_after_s=ROOM_AGAIN_S) from error


def clean_name(name: str) -> str:
    """A name without a path, control characters or anything that has a meaning in a header; never empty."""
    name = unicodedata.normalize("NFC", name.encode(errors="replace").decode())
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c if c.isprintable() and c not in '"<>:|?*;' else "_" for c in name).strip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > NAME_LIMIT and dot and len(suffix) <= 10:
        name = stem[: NAME_LIMIT - len(suffix) - 1] + "." + suffix
    return name[:NAME_LIMIT] or "file"
