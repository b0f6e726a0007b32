"""What WhatsApp does with files: how each is shown, what it may weigh. Pure functions.

https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media/
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from messengers.base import UNSEEN, File, FileKind, Piece, utf16, with_text

Shown = Literal["image", "video", "audio", "sticker", "document"]

CAPTION_LIMIT = 1024
"""In UTF-16 units, the strictest reading."""
KB = 1000
MB = 1_000_000
"""The strictest reading of Meta's «MB», so never refused late."""
STILL_STICKER_BYTES = 100 * KB
LIMITS: dict[Shown, int] = {
    "image": 5 * MB,
    "video": 16 * MB,
    "audio": 16 * MB,
    "sticker": 500 * KB,
    "document": 100 * MB,
}
_TYPES: dict[Shown, tuple[str, ...]] = {
    "image": ("image/jpeg", "image/png"),
    "video": ("video/mp4", "video/3gpp", "video/x-m4v"),
    "audio": (
        *("audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/m4a", "audio/x-m4a"),
        *("audio/ogg", "audio/opus"),
    ),
    "sticker": ("image/webp",),
}
_VOICE = ("audio/ogg", "audio/opus")
_AS: dict[FileKind, Shown] = {
    "image": "image",
    "video": "video",
    "animation": "video",
    "audio": "audio",
    "voice": "audio",
    "sticker": "sticker",
    "document": "document",
}
_MEDIA_ID = re.compile(r"[!-~]{1,500}")


def shown_as(file: File) -> tuple[Shown, str]:
    """As what it goes, and why that is not what was asked for; or ''."""
    shown = _AS[file.kind]
    if shown == "document":
        return shown, ""
    if file.media_type not in _TYPES[shown] and (file.id or file.media_type != UNSEEN):
        return "document", f"whatsapp shows no {file.media_type} as {file.kind}"
    if file.size > LIMITS[shown]:
        return "document", f"it has {file.size} bytes; as {shown} it may have {LIMITS[shown]}"
    return shown, ""


def notice(file: File) -> str | None:
    """What whoever sends it should know, or None."""
    shown, why = shown_as(file)
    if why:
        return f"{file.name} goes as a {shown}: {why}"
    if file.kind == "voice" and file.media_type not in _VOICE:
        return f"{file.name} goes as audio: whatsapp takes only Ogg for voice"
    if shown == "sticker" and file.size > STILL_STICKER_BYTES:
        return f"{file.name} is shown only if it moves: a still one may have {STILL_STICKER_BYTES} bytes"
    return None


def unsendable(file: File) -> str | None:
    """Why Meta would refuse it, or None."""
    shown, _ = shown_as(file)
    if not file.id and not file.link:
        return "is neither uploaded nor a link"
    if file.id and not file.size:
        return "is empty; whatsapp takes no empty file"
    if file.size > LIMITS[shown]:
        return f"has {file.size} bytes; whatsapp takes {LIMITS[shown]}"
    return None


def pieces_of(files: Sequence[File], text: str) -> list[Piece]:
    """One for each file; the text goes under the first, or ahead where it cannot."""
    takes_one = shown_as(files[0])[0] not in {"audio", "sticker"}
    captioned = takes_one and utf16(text) <= CAPTION_LIMIT
    return with_text([Piece((n,)) for n in range(len(files))], text, captioned=captioned)


def media(file: File, media_id: str, caption: str) -> dict[str, Any]:
    """What a message says of it: its type, and that type's object."""
    shown, _ = shown_as(file)
    said: dict[str, Any] = {"id": media_id} if media_id else {"link": file.link}
    if caption:
        said["caption"] = caption
    if shown == "document":
        said["filename"] = file.name
    if file.kind == "voice" and shown == "audio" and file.media_type in _VOICE:
        said["voice"] = True
    return {"type": shown, shown: said}


def media_id(answer: Mapping[str, Any]) -> str | None:
    """Meta's id of what was uploaded."""
    id_ = answer.get("id")
    return id_ if isinstance(id_, str) and _MEDIA_ID.fullmatch(id_) else None


def refuses_id(error: Mapping[str, Any]) -> bool:
    """Whether it is about a media id, so that the same may go when it is uploaded again.

    131052 and 131053 are about media alone, the others about any parameter: there the words count.
    https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
    """
    code, data = error.get("code"), error.get("error_data")
    details = data.get("details") if isinstance(data, dict) else data
    told = f"{error.get('message')} {details}".lower()
    return code in {131052, 131053} or (code in {100, 131008, 131009} and "media" in told)
