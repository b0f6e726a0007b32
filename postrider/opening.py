"""Opening what clients encrypted for this service: as a stream, and nothing of it is used before all of it is proved.

Two ways: a 12-byte nonce, what AES-256-GCM made of the file and its 16-byte tag, with the AES key under RSA-OAEP-SHA256 beside
it; or a CMS AuthEnvelopedData, which holds its key itself.
"""

import base64
import binascii
import secrets
from collections.abc import Iterator
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.x509 import ExtensionNotFound, SubjectKeyIdentifier

from postrider import cms
from postrider.arriving import Arriving
from postrider.errors import InvalidRequest
from postrider.files import Files
from postrider.keys import Key, Keys

NONCE, TAG, AES_KEY = 12, 16, 32
"""Bytes of each."""
MOST = 2**36 - 32
"""Bytes that AES-GCM may encrypt under one nonce. NIST SP 800-38D, 5.2.1.1"""
PART = 1 << 20
HEAD = 8192
"""Bytes that tell what a file is, and who for."""
DOES_NOT_OPEN = "does not open: its key is not for this service, or it was cut or changed; encrypt it anew for GET /key"
"""For every fault alike: which one it was would help who guesses."""
UNAUTHENTICATED = "is encrypted in a way that shows no change; use openssl cms -encrypt -aes-256-gcm, or zip what is meant for others"


class NotOpened(InvalidRequest):
    """An encrypted file that does not open."""


def opened(
    incoming: Arriving,
    files: Files,
    keys: Keys,
    wrapped_key: bytes | None,
    *,
    field: str = "file",
) -> Arriving:
    """`incoming` itself if it is not encrypted; else what was in it, as a new one, while `incoming` stays the caller's to close.

    `wrapped_key`: as raw bytes, or in base64. Raises NotOpened(field), and then leaves nothing behind.
    """
    if wrapped_key is None:
        with incoming.reading() as file:
            head = file.read(HEAD)
        if cms.is_unauthenticated(head):
            raise NotOpened(field, UNAUTHENTICATED)
        # By who it is for, too: what was changed where it says what it is would else pass as a plain file.
        if not (cms.is_envelope(head) or any(name in head for name in _ours(keys))):
            return incoming
    plain = files.incoming()
    try:
        with incoming.reading() as file:
            if wrapped_key is None:
                _open_envelope(file, incoming.size, keys, plain)
            else:
                _open_pair(file, incoming.size, _unwrapped(keys, wrapped_key), plain)
    except (InvalidTag, cms.Malformed):
        plain.close()
        raise NotOpened(field, DOES_NOT_OPEN) from None
    except BaseException:
        plain.close()
        raise
    return plain


def _open_pair(file: IO[bytes], size: int, key: bytes, plain: Arriving) -> None:
    if size < NONCE + TAG:
        raise InvalidTag
    file.seek(size - TAG)
    tag = file.read(TAG)
    file.seek(0)
    nonce = file.read(NONCE)
    decryptor = Cipher(AES(key), GCM(nonce)).decryptor()
    for part in _parts(file, iter(((NONCE, size - NONCE - TAG),))):
        plain.write(decryptor.update(part))
    decryptor.finalize_with_tag(tag)


def _open_envelope(file: IO[bytes], size: int, keys: Keys, plain: Arriving) -> None:
    envelope = cms.read(file, size)
    decryptor = Cipher(AES(_key_of(envelope, keys)), GCM(envelope.nonce)).decryptor()
    for part in _parts(file, cms.content(file, envelope)):
        plain.write(decryptor.update(part))
    decryptor.finalize_with_tag(envelope.tag)


def _parts(file: IO[bytes], pieces: Iterator[tuple[int, int]]) -> Iterator[bytes]:
    """What stands there in `file`, in parts that memory holds. Raises InvalidTag."""
    total = 0
    for at, length in pieces:
        file.seek(at)
        left = length
        while left > 0:
            part = file.read(min(PART, left))
            left -= len(part)
            total += len(part)
            if not part or total > MOST:
                raise InvalidTag
            yield part


def _unwrapped(keys: Keys, wrapped: bytes) -> bytes:
    """The AES key; one that opens nothing when there is none, so that a wrong key takes as long as a changed file."""
    found = None
    for key in keys.every() or (keys.newest(),):
        raw = _raw(wrapped, key)
        unwrapped = key.unwrap(raw) if raw else None
        if unwrapped is not None and len(unwrapped) == AES_KEY and found is None:
            found = unwrapped
    return found or secrets.token_bytes(AES_KEY)


def _raw(wrapped: bytes, key: Key) -> bytes | None:
    """`wrapped` as the bytes that it must be for `key`; base64 may have lines, as `base64` and `openssl` write it."""
    if len(wrapped) == key.size:
        return wrapped
    try:
        raw = base64.b64decode(b"".join(wrapped.split()), validate=True)
    except binascii.Error:
        return None
    return raw if len(raw) == key.size else None


def _key_of(envelope: cms.Envelope, keys: Keys) -> bytes:
    """The content key, from the part that is meant for one of our keys."""
    ours = _ours(keys)
    for wrapped in envelope.recipients:
        if key := ours.get(wrapped.rid):
            found = key.unwrap(wrapped.key) if len(wrapped.key) == key.size else None
            if found is not None and len(found) == AES_KEY:
                return found
    return secrets.token_bytes(AES_KEY)


def _ours(keys: Keys) -> dict[bytes, Key]:
    """Our keys, by how a sender may name them."""
    return {name: key for key in keys.every() for name in _names(key)}


def _names(key: Key) -> Iterator[bytes]:
    """How a sender may name a key: by its certificate's issuer and number, or by its identifier."""
    number = key.certificate.serial_number
    serial = cms.tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
    yield cms.tlv(0x30, key.certificate.issuer.public_bytes() + serial)
    try:
        identifier = key.certificate.extensions.get_extension_for_class(SubjectKeyIdentifier)
    except ExtensionNotFound:
        return
    yield cms.tlv(0x80, identifier.value.digest)
