"""What Telegram does with files: how each is shown, what it may weigh, which go out together. Pure functions.

https://core.telegram.org/bots/api#sending-files
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from messengers.base import UNSEEN, File, FileKind, Piece, utf16, with_text

CAPTION_LIMIT = 1024
"""In UTF-16 units, the strictest reading. https://core.telegram.org/bots/api#sendphoto"""
ALBUM_LIMIT = 10
"""https://core.telegram.org/bots/api#sendmediagroup"""
MB = 1_000_000
"""The strictest reading of Telegram's «MB», so never refused late."""
PHOTO_BYTES = 10 * MB
PHOTO_SIDES = 10_000
PHOTO_RATIO = 20
URL_PHOTO_BYTES = 5 * MB
URL_BYTES = 20 * MB

_METHODS: dict[FileKind, tuple[str, str]] = {
    "image": ("sendPhoto", "photo"),
    "video": ("sendVideo", "video"),
    "audio": ("sendAudio", "audio"),
    "voice": ("sendVoice", "voice"),
    "animation": ("sendAnimation", "animation"),
    "sticker": ("sendSticker", "sticker"),
    "document": ("sendDocument", "document"),
}
"""kind -> method and the parameter that names the file, which is also where the answer tells of it."""
_ALBUMS: dict[FileKind, str] = {
    "image": "seen",
    "video": "seen",
    "audio": "audio",
    "document": "document",
}
"""kind -> what it can stand beside in an album; the others go alone."""
_AUDIO = ("audio/mpeg", "audio/mp4", "audio/x-m4a", "audio/m4a")
_TYPES: dict[FileKind, tuple[str, ...]] = {
    "image": ("image/jpeg", "image/png", "image/webp"),
    "video": ("video/mp4", "video/x-m4v"),
    "audio": _AUDIO,
    "voice": ("audio/ogg", "audio/opus", *_AUDIO),
    "animation": ("image/gif", "video/mp4", "video/x-m4v"),
    "sticker": ("image/webp", "video/webm", "application/x-tgsticker", "application/gzip"),
}
"""kind -> what can be shown as such. A sticker that moves is gzip by what it holds.

https://core.telegram.org/bots/api#available-methods
"""
_BY_URL = ("application/pdf", "application/zip", "image/gif", UNSEEN)
"""Documents that Telegram fetches itself; and what nobody has looked at. https://core.telegram.org/bots/api#senddocument"""
_REFUSED_ID = re.compile(
    r"wrong (remote )?file[_ ]?(id|identifier)|FILE_ID_INVALID|FILE_REFERENCE|file is temporarily unavailable"
    r"|can't use file of type|type of file mismatch|wrong padding|wrong string length",
    re.IGNORECASE,
)
"""What the server says of a file_id that it does not take. https://github.com/tdlib/telegram-bot-api"""


def shown_as(file: File) -> tuple[FileKind, str]:
    """The kind as which it goes, and why that is not the one asked for; or ''."""
    kind = file.kind
    if kind == "document":
        return kind, ""
    if file.media_type not in _TYPES[kind] and not (file.link and _unseen(file)):
        return "document", f"telegram shows no {file.media_type} as {kind}"
    if kind != "image":
        return kind, ""
    if file.size > PHOTO_BYTES:
        return "document", f"it has {file.size} bytes; a photo may have {PHOTO_BYTES}"
    width, height = file.width, file.height
    if width + height > PHOTO_SIDES:
        return "document", f"{width} x {height} pixels; a photo's sides may add up to {PHOTO_SIDES}"
    if width and height and max(width, height) > PHOTO_RATIO * min(width, height):
        return (
            "document",
            f"{width} x {height} pixels; one side of a photo may be {PHOTO_RATIO} times the other",
        )
    return kind, ""


def unsendable(file: File, upload_bytes: int) -> str | None:
    """Why Telegram would refuse it, or None."""
    kind, _ = shown_as(file)
    if file.id:
        if not file.size:
            return "is empty; telegram takes no empty file"
        if file.size > upload_bytes:
            return f"has {file.size} bytes; telegram takes {upload_bytes} (TELEGRAM_UPLOAD_MB)"
        return None
    if not file.link:
        return "is neither uploaded nor a link"
    if file.kind == "image" and file.size > URL_PHOTO_BYTES:
        return f"has {file.size} bytes; telegram fetches photos of {URL_PHOTO_BYTES}, so upload it"
    if file.size > URL_BYTES:
        return f"has {file.size} bytes; telegram fetches files of {URL_BYTES}, so upload it"
    if kind == "document" and file.media_type not in _BY_URL:
        return f"is {file.media_type}; telegram fetches documents only as pdf, zip and gif, so upload it"
    if kind == "sticker" and file.media_type != "image/webp" and not _unseen(file):
        return "moves; telegram fetches only stickers that stand still, so upload it"
    return None


def pieces_of(files: Sequence[File], text: str, upload_bytes: int) -> list[Piece]:
    """Neighbours that can stand in one album do; the text goes under the first file, or ahead where it cannot."""
    groups: list[list[int]] = []
    for index in range(len(files)):
        if groups and _fits(groups[-1], index, files, upload_bytes):
            groups[-1].append(index)
        else:
            groups.append([index])
    found = [Piece(tuple(group)) for group in groups]
    captioned = utf16(text) <= CAPTION_LIMIT and shown_as(files[0])[0] != "sticker"
    return with_text(found, text, captioned=captioned)


def _fits(group: Sequence[int], index: int, files: Sequence[File], upload_bytes: int) -> bool:
    """One upload of an album is not to be larger than that of a file: servers bound the whole request."""
    beside = _ALBUMS.get(shown_as(files[group[0]])[0])
    if len(group) == ALBUM_LIMIT or beside is None:
        return False
    size = sum(files[n].size for n in (*group, index))
    return _ALBUMS.get(shown_as(files[index])[0]) == beside and size <= upload_bytes


Call = tuple[str, dict[str, Any], list[tuple[str, File]]]
"""Method, parameters, and what is uploaded under which name."""


def single(files: Sequence[File], caption: str) -> Call:
    """What sends one file."""
    (file,) = files
    kind, _ = shown_as(file)
    method, name = _METHODS[kind]
    params: dict[str, Any] = {"caption": caption} if caption else {}
    if there := _there(file):
        return method, {**params, name: there}, []
    if kind == "document":
        params["disable_content_type_detection"] = True
    return method, params, [(name, file)]


def album(files: Sequence[File], caption: str) -> Call:
    """What sends several together; the caption stands under the first."""
    media: list[dict[str, Any]] = []
    uploads: list[tuple[str, File]] = []
    for n, file in enumerate(files):
        kind, _ = shown_as(file)
        there = _there(file)
        entry = {"type": _METHODS[kind][1], "media": there or f"attach://file{n}"}
        if caption and not n:
            entry["caption"] = caption
        media.append(entry)
        if not there:
            uploads.append((f"file{n}", file))
    return "sendMediaGroup", {"media": media}, uploads


def form(
    params: Mapping[str, Any], uploads: Sequence[tuple[str, File]]
) -> list[tuple[str, str | File]]:
    """Both as the fields of a form, in which lists and the like are JSON."""
    said = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in params.items()
    ]
    return [*said, *uploads]


def file_id(file: File, result: object) -> str | None:
    """Telegram's id of `file`, out of the message that it made of it; None when it stands for something else now."""
    _, name = _METHODS[shown_as(file)[0]]
    told = result.get(name) if isinstance(result, dict) else None
    if isinstance(told, list) and told:  # a photo in several sizes, the largest last
        told = told[-1]
    id_ = told.get("file_id") if isinstance(told, dict) else None
    return id_ if isinstance(id_, str) and re.fullmatch(r"[\w-]{1,500}", id_) else None


def refuses_id(reason: str) -> bool:
    """Whether `reason` is about a file_id, so that the same may go when it is uploaded again."""
    return _REFUSED_ID.search(reason) is not None


def _there(file: File) -> str:
    """What names it to Telegram without an upload, if anything does."""
    return file.known or ("" if file.id else file.link)


def _unseen(file: File) -> bool:
    return file.media_type == UNSEEN
