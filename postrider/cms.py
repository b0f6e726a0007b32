"""CMS AuthEnvelopedData (RFC 5083, RFC 5084) of one kind: AES-256-GCM under RSA-OAEP-SHA256, as `openssl cms` makes it.

A reader of our own, since those that there are take the whole file into memory, and since not all of the structure is
authenticated: what is not is compared byte for byte with what it must be, so that nothing can be changed in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

OID = bytes.fromhex("060b2a864886f70d0109100117")
"""id-ct-authEnvelopedData, 1.2.840.113549.1.9.16.1.23"""
ENVELOPED = bytes.fromhex("06092a864886f70d010703")
"""id-envelopedData, 1.2.840.113549.1.7.3: nothing in it shows a change."""
HEAD = 32
"""Bytes that tell."""
_DATA = bytes.fromhex("06092a864886f70d010701")
_AES_256_GCM = bytes.fromhex("060960864801650304012e")
_SEQUENCE, _SET, _INTEGER, _OCTETS, _ZERO, _ONE = 0x30, 0x31, 0x02, 0x04, 0xA0, 0x80
_SMALL = 1 << 20
"""Bytes at most of what is not content."""
_LARGEST = 1 << 40
"""Bytes of anything."""
_MOST_RECIPIENTS = 100
_PIECE = 256
"""Bytes that pieces of streamed content have on average at least; openssl makes them of 4,096."""


class Malformed(Exception):
    """This is no such structure, or is not whole."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A content key for one recipient. `rid`: who that is, as DER."""

    rid: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around the content. `pieces`: where to find it, (from, length)."""

    recipients: tuple[Wrapped, ...]
    nonce: bytes
    tag: bytes
    content_at: int
    streamed: bool
    content_ends: int


def is_envelope(head: bytes) -> bool:
    """Whether a file that begins so is meant as one; also with a fault or two where it would say so."""
    return any(
        sum(a != b for a, b in zip(head[at:], OID, strict=False)) <= 2
        for at in range(2, 8)
        if len(head) >= at + len(OID)
    )


def is_unauthenticated(head: bytes) -> bool:
    """Whether a file that begins so is the older kind, which shows no change."""
    return head[:1] == b"\x30" and any(head[at:].startswith(ENVELOPED) for at in range(2, 8))


def tlv(tag: int, value: bytes) -> bytes:
    """DER of one value."""
    size = len(value)
    if size < 128:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def _oaep_sha256() -> frozenset[bytes]:
    """The ways to write RSA-OAEP with SHA-256, MGF1 with SHA-256 and no label."""
    sha256 = bytes.fromhex("0609608648016503040201")
    found = set()
    for null in (b"", b"\x05\x00"):
        digest = tlv(_SEQUENCE, sha256 + null)
        mgf1 = tlv(_SEQUENCE, bytes.fromhex("06092a864886f70d010108") + digest)
        both = tlv(0xA0, digest) + tlv(0xA1, mgf1)
        for label in (b"", bytes.fromhex("a20f300d06092a864886f70d0101090400")):
            oid = bytes.fromhex("06092a864886f70d010107")
            found.add(tlv(_SEQUENCE, oid + tlv(_SEQUENCE, both + label)))
    return frozenset(found)


_OAEP = _oaep_sha256()


class _Reader:
    """Reads values one after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def take(self, size: int) -> bytes:
        read = self.file.read(size)
        if len(read) != size:
            raise Malformed
        return read

    def header(self) -> tuple[int, int | None]:
        """Tag and length; None: it ends where it says so. Only the shortest way to write a length will do."""
        tag, first = self.take(2)
        if first < 0x80:
            return tag, first
        if first == 0x80:
            return tag, None
        if first > 0x88:
            raise Malformed
        raw = self.take(first & 0x7F)
        size = int.from_bytes(raw, "big")
        if raw[0] == 0 or size < 0x80 or size > _LARGEST:
            raise Malformed
        return tag, size

    def enter(self, tag: int) -> int | None:
        """Goes into a structured value; where it ends, None: where it says so."""
        found, size = self.header()
        if found != tag:
            raise Malformed
        return None if size is None else self.file.tell() + size

    def leave(self, end: int | None) -> None:
        """Out of it, at its very end."""
        if end is None:
            self.expect(b"\0\0")
        elif self.file.tell() != end:
            raise Malformed

    def value(self, tag: int) -> bytes:
        """A simple value."""
        found, size = self.header()
        if found != tag or size is None or size > _SMALL:
            raise Malformed
        return self.take(size)

    def whole(self) -> bytes:
        """A value with its header."""
        tag, size = self.header()
        if size is None or size > _SMALL:
            raise Malformed
        return tlv(tag, self.take(size))

    def expect(self, these: bytes) -> None:
        if self.take(len(these)) != these:
            raise Malformed


def read(file: IO[bytes], size: int) -> Envelope:
    """What stands around the content of a file of `size` bytes. Raises Malformed."""
    file.seek(0)
    of = _Reader(file)
    outer = of.enter(_SEQUENCE)
    of.expect(OID)
    explicit = of.enter(_ZERO)
    body = of.enter(_SEQUENCE)
    of.expect(b"\x02\x01\x00")
    recipients = tuple(_recipients(of))
    content = of.enter(_SEQUENCE)
    of.expect(_DATA)
    nonce = _nonce(of)
    tag, length = of.header()
    streamed = length is None
    if tag != (_ZERO if streamed else _ONE):
        raise Malformed
    at = file.tell()
    if length is None:
        ends = _skip_pieces(file, at)
    else:
        ends = at + length
        file.seek(ends)
    of.leave(content)
    # Attributes, which would stand before or behind it, are none of openssl's.
    mac = of.value(_OCTETS)
    for end in (body, explicit, outer):
        of.leave(end)
    if len(mac) != 16 or file.tell() != size:
        raise Malformed
    return Envelope(recipients, nonce, mac, at, streamed, ends)


def content(file: IO[bytes], envelope: Envelope) -> Iterator[tuple[int, int]]:
    """Where the content stands: (from, length), one after the other."""
    if not envelope.streamed:
        yield envelope.content_at, envelope.content_ends - envelope.content_at
        return
    yield from _pieces(file, envelope.content_at)


def _pieces(file: IO[bytes], at: int) -> Iterator[tuple[int, int]]:
    of, first, count = _Reader(file), at, 0
    while True:
        file.seek(at)
        tag, size = of.header()
        if (tag, size) == (0, 0):
            return
        count += 1
        if tag != _OCTETS or size is None or count > 1_000 + (at - first) // _PIECE:
            raise Malformed
        at = file.tell()
        yield at, size
        at += size


def _skip_pieces(file: IO[bytes], at: int) -> int:
    """Where the content ends, behind its end mark."""
    for start, size in _pieces(file, at):
        at = start + size
    file.seek(at + 2)
    return at


def _recipients(of: _Reader) -> Iterator[Wrapped]:
    end = of.enter(_SET)
    if end is None or end - of.file.tell() > _SMALL:
        raise Malformed
    count = 0
    while of.file.tell() < end:
        count += 1
        if count > _MOST_RECIPIENTS:
            raise Malformed
        tag, size = of.header()
        if size is None or (behind := of.file.tell() + size) > end:
            raise Malformed
        if tag == _SEQUENCE:  # those that do not take a key of RSA have other tags
            version, rid, algorithm = of.whole(), of.whole(), of.whole()
            key = of.value(_OCTETS)
            of.leave(behind)
            numbered = b"\x02\x01\x00" if rid[0] == _SEQUENCE else b"\x02\x01\x02"
            if algorithm in _OAEP and version == numbered:
                yield Wrapped(rid, key)
        else:
            of.file.seek(behind)
    of.leave(end)


def _nonce(of: _Reader) -> bytes:
    algorithm = of.enter(_SEQUENCE)
    of.expect(_AES_256_GCM)
    parameters = of.enter(_SEQUENCE)
    nonce = of.value(_OCTETS)
    # Bytes of the tag: 16; RFC 5084's default of 12 is none of openssl's.
    of.expect(b"\x02\x01\x10")
    of.leave(parameters)
    of.leave(algorithm)
    if len(nonce) != 12:
        raise Malformed
    return nonce
