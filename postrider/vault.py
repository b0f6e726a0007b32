"""What is kept encrypted (`ENCRYPT_AT_REST`): texts in Redis, and the keys of files on the disk.

Each text and each file has a key of its own, made from one of the kept ones and a salt: so any number of them can be encrypted
before keys must change, and a nonce cannot come twice.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from postrider.errors import Unreadable
from postrider.ring import Ring

MARK = b"\0\1"
"""Begins an encrypted text, in this form; no text of a client's has a NUL."""
KID, SALT, NONCE = 8, 16, 12
_USE = b"postrider text"


@dataclass(frozen=True, slots=True)
class _Key:
    kid: bytes
    secret: bytes = field(repr=False)


def _read(secret: bytes) -> _Key:
    if len(secret) != 32:
        raise ValueError("a key has 32 bytes")
    return _Key(hashlib.sha256(b"postrider kid" + secret).digest()[:KID], secret)


class Vault:
    """Encrypts and decrypts by the keys in one folder. `seals`: what is new is encrypted; what is reads in any case."""

    def __init__(self, folder: Path, *, seals: bool = False) -> None:
        self.seals = seals
        self.ring = Ring(folder, ".key", lambda: secrets.token_bytes(32), _read)

    # -- keys

    def newest_id(self) -> bytes:
        """Which key encrypts what is new."""
        return self.ring.newest().kid

    def ids(self) -> list[str]:
        """The keys that there are, the newest first."""
        return [key.kid.hex() for key in self.ring.every()]

    def rotate(self) -> str:
        """Makes a new key, for what is new from now on."""
        return self.ring.add().kid.hex()

    def fresh(self, use: bytes) -> tuple[bytes, bytes, bytes]:
        """A key for one thing: the id of the kept one that it comes from, its salt, and itself."""
        key, salt = self.ring.newest(), secrets.token_bytes(SALT)
        return key.kid, salt, _derived(key.secret, use, salt)

    def derived(self, kid: bytes, salt: bytes, use: bytes) -> bytes:
        """That key again. Raises Unreadable when its kept one is not here."""
        try:
            kept = self.ring.every()
        except (OSError, ValueError) as error:
            raise Unreadable(f"the keys in {self.ring.folder} cannot be read: {error}") from error
        for key in kept:
            if key.kid == kid:
                return _derived(key.secret, use, salt)
        raise Unreadable(
            f"what is stored was encrypted with the key {kid.hex()}, which is not in {self.ring.folder}"
        )

    # -- texts

    def seal(self, text: bytes | str, place: str) -> bytes:
        """`text` as it is kept at `place`: encrypted, if that is wanted."""
        raw = text.encode() if isinstance(text, str) else text
        if not self.seals:
            return raw
        kid, salt, key = self.fresh(_USE)
        nonce = secrets.token_bytes(NONCE)
        return MARK + kid + salt + nonce + AESGCM(key).encrypt(nonce, raw, place.encode())

    def open(self, kept: bytes, place: str) -> bytes:
        """The text that is kept at `place`. Raises Unreadable."""
        if kept[:2] != MARK:
            return kept
        at = len(MARK)
        kid, salt = kept[at : at + KID], kept[at + KID : at + KID + SALT]
        at += KID + SALT
        key = self.derived(kid, salt, _USE)
        try:
            return AESGCM(key).decrypt(kept[at : at + NONCE], kept[at + NONCE :], place.encode())
        except (InvalidTag, ValueError):
            raise Unreadable(f"{place} was changed in Redis: it does not decrypt") from None

    def is_current(self, kept: bytes) -> bool:
        """Whether a text is kept as a new one would be."""
        if not self.seals:
            return True
        return kept[: len(MARK) + KID] == MARK + self.newest_id()

    def seal_word(self, text: str, place: str) -> str:
        """`seal` for what stands within JSON."""
        if not self.seals:
            return text
        return "\0" + base64.b64encode(self.seal(text, place)).decode()

    def open_word(self, kept: str, place: str) -> str:
        """`open` for what stands within JSON."""
        if not kept.startswith("\0"):
            return kept
        try:
            raw = base64.b64decode(kept[1:], validate=True)
        except ValueError:
            raise Unreadable("what is kept encrypted was changed, and does not open") from None
        return self.open(raw, place).decode()

    def seal_json(self, value: Any, place: str) -> bytes:
        """`value` as JSON, kept at `place`."""
        return self.seal(json.dumps(value, ensure_ascii=False), place)


KEYLESS = Vault(Path(os.devnull) / "keys")
"""For who has no keys: reads what is not encrypted."""


def _derived(secret: bytes, use: bytes, salt: bytes) -> bytes:
    return hmac.digest(secret, use + b"\0" + salt, "sha256")
