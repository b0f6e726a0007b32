"""What a linked phone does with files: as what each is shown, and what it may weigh. Pure functions.

WhatsApp publishes no sizes for linked devices. Its apps send up to 16 MB to be looked at or played, which is also what the
Cloud API takes of video and audio (https://www.usecarly.com/blog/whatsapp-file-size-limit/); whatever is over it goes as a
document, which keeps every byte.
"""

from collections.abc import Mapping, Sequence

from messengers.base import File, FileKind, Piece, utf16
from messengers.phones import Driver

MB = 1_000_000
SHOWN_BYTES = 16 * MB
STICKER_BYTES = 500_000
"""Of a sticker that moves.
https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media/"""
LIMITS: Mapping[FileKind, int] = {
    **dict.fromkeys(("image", "video", "animation", "audio", "voice"), SHOWN_BYTES),
    "sticker": STICKER_BYTES,
}
CAPTIONED = frozenset({"image", "video", "animation", "document"})


def shown_as(driver: Driver, file: File) -> tuple[FileKind, str]:
    """As what it goes, and why that is not what was asked for; or ''."""
    kind = file.kind
    if kind == "document":
        return kind, ""
    if file.media_type not in driver.SHOWS.get(kind, frozenset()):
        if kind == "voice" and file.media_type in driver.SHOWS.get("audio", frozenset()):
            return "audio", "a voice message is Opus in Ogg"
        return "document", f"{driver.name} shows no {file.media_type} as {kind}"
    if file.size > LIMITS[kind]:
        return "document", f"it has {file.size} bytes; as {kind} it may have {LIMITS[kind]}"
    return kind, ""


def notice(driver: Driver, file: File) -> str | None:
    """What whoever sends it should know, or None."""
    shown, why = shown_as(driver, file)
    return f"{file.name} goes as {shown}: {why}" if why else None


def unsendable(driver: Driver, file: File) -> str | None:
    """Why it would be refused, or None."""
    if not file.id:
        return "is not uploaded; a linked phone takes no links"
    if not file.size:
        return "is empty; whatsapp takes no empty file"
    if file.size > driver.DOCUMENT_BYTES:
        return f"has {file.size} bytes; {driver.name} takes {driver.DOCUMENT_BYTES}"
    return None


def pieces_of(driver: Driver, files: Sequence[File], text: str) -> list[Piece]:
    """One for each file; the text goes under the first, or ahead where it cannot."""
    found = [Piece((index,)) for index in range(len(files))]
    if not text:
        return found
    captioned = bool(files) and shown_as(driver, files[0])[0] in CAPTIONED
    if captioned and utf16(text) <= driver.CAPTION_LIMIT:
        return [Piece((0,), text=True), *found[1:]]
    return [Piece(text=True), *found]
