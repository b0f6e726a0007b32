"""What a file is, by what it holds: its type, as what it is shown, and a picture's size. Nobody's word for it counts."""

import codecs
import mimetypes
from dataclasses import dataclass
from typing import IO

import filetype  # type: ignore[import-untyped]
import imagesize  # type: ignore[import-untyped]

from messengers.base import UNSEEN, FileKind

HEAD = 8192
"""Bytes that tell."""
UNKNOWN = UNSEEN
_OF_TEXT = frozenset(
    {"text/csv", "text/html", "text/markdown", "text/calendar", "text/vcard", "application/json"}
)
_PICTURES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
_ANIMATED = b"NETSCAPE2.0"
"""Stands in a GIF that moves. https://en.wikipedia.org/wiki/GIF#Animated_GIF"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file turned out to be."""

    media_type: str
    kind: FileKind
    width: int = 0
    height: int = 0


def look(file: IO[bytes], name: str) -> Seen:
    """What `file` is; of its name no more than which kind of text. It is left at its end."""
    file.seek(0)
    head = file.read(HEAD)
    media_type = _media_type(head, name, goes_on=bool(file.read(1)))
    kind = _kind(media_type, head)
    width = height = 0
    if media_type.startswith("image/"):
        file.seek(0)
        width, height = (max(0, n) for n in imagesize.get(file))
    file.seek(0, 2)
    return Seen(media_type, kind, width, height)


def _media_type(head: bytes, name: str, *, goes_on: bool) -> str:
    """`goes_on`: there is more than `head`, whose last character may be cut in two."""
    if (found := filetype.guess(head)) is not None:
        mime: str = found.mime
        return mime
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=not goes_on)
    except UnicodeDecodeError:
        return UNKNOWN
    if "\0" in text or not text:
        return UNKNOWN
    said, _ = mimetypes.guess_type(name)
    return said if said in _OF_TEXT else "text/plain"


def _kind(media_type: str, head: bytes) -> FileKind:
    return "animation" if media_type == "image/gif" and _ANIMATED in head else kind_of(media_type)


def kind_of(media_type: str) -> FileKind:
    """As what a file of this type is shown."""
    match media_type.partition("/")[0]:
        case "image" if media_type in _PICTURES:
            return "image"
        case "video":
            return "video"
        case "audio":
            return "audio"
    return "document"
