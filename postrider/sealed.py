"""Files encrypted on the disk: in chunks, so that any part can be read alone; and so that none can be changed, moved or cut off.

A head (form, key's id, salt), then chunks of AES-256-GCM under a key of the file's own. A chunk's nonce is its number and
whether it is the last one.
"""

import io
from typing import IO, BinaryIO, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from postrider.vault import SALT, Vault

FORM = b"PRS1"
CHUNK, TAG = 65_536, 16
HEAD = len(FORM) + 8 + SALT
_USE = b"postrider file"


class Damaged(OSError):
    """What lies on the disk is not what was written there."""


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class Writer:
    """Writes a file that way, from its beginning."""

    def __init__(self, file: IO[bytes], vault: Vault) -> None:
        kid, salt, key = vault.fresh(_USE)
        self._file, self._cipher, self._head = file, AESGCM(key), FORM + kid + salt
        self._left, self._number, self._ended = bytearray(), 0, False
        file.write(self._head)

    def write(self, part: bytes) -> None:
        """Appends."""
        self._left += part
        while len(self._left) > CHUNK:  # of a full one nobody knows yet whether it is the last
            self._put(bytes(self._left[:CHUNK]), last=False)
            del self._left[:CHUNK]

    def end(self) -> None:
        """Writes the last chunk; doing it twice is no harm."""
        if not self._ended:
            self._put(bytes(self._left), last=True)
            self._ended = True
        self._file.flush()

    def _put(self, chunk: bytes, *, last: bool) -> None:
        nonce = _nonce(self._number, last=last)
        self._file.write(self._cipher.encrypt(nonce, chunk, self._head))
        self._number += 1


class Reader(io.RawIOBase):
    """What such a file holds; reads and seeks as a plain one does. Raises Damaged, and at first Unreadable."""

    def __init__(self, file: IO[bytes], vault: Vault, *, closes: bool = True) -> None:
        super().__init__()
        self._file, self._closes = file, closes
        whole = file.seek(0, 2)
        file.seek(0)
        self._head = file.read(HEAD)
        if len(self._head) != HEAD or not self._head.startswith(FORM) or whole < HEAD + TAG:
            raise Damaged("this file is not whole")
        kid, salt = self._head[len(FORM) :][:8], self._head[-SALT:]
        self._cipher = AESGCM(vault.derived(kid, salt, _USE))
        self._count = -(-(whole - HEAD) // (CHUNK + TAG))
        self._size = whole - HEAD - self._count * TAG
        self._at, self._number, self._chunk = 0, -1, b""
        self._load(self._count - 1)  # proves the length, too

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        self._file.seek(HEAD + number * (CHUNK + TAG))
        raw, nonce = self._file.read(CHUNK + TAG), _nonce(number, last=number == self._count - 1)
        try:
            self._chunk = self._cipher.decrypt(nonce, raw, self._head)
        except InvalidTag:
            raise Damaged("this file was changed on the disk, or is not whole") from None
        self._number = number

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError("there is nothing before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override]
        if self._at >= self._size:
            return 0
        self._load(self._at // CHUNK)
        part = self._chunk[self._at % CHUNK :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        if self._closes and not self.closed:
            self._file.close()
        super().close()


def key_id(file: IO[bytes]) -> bytes:
    """Under which kept key a file is, that is at its beginning."""
    return file.read(HEAD)[len(FORM) : -SALT]


def reading(file: IO[bytes], vault: Vault, *, closes: bool = True) -> BinaryIO:
    """What such a file holds, from its beginning. Raises Damaged, Unreadable; with `closes` it is closed then."""
    try:
        return cast(BinaryIO, io.BufferedReader(Reader(file, vault, closes=closes), CHUNK))
    except BaseException:
        if closes:
            file.close()
        raise
