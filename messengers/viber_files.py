"""What Viber does with files, all of which it fetches: how each is shown, what it may weigh. Pure functions.

https://developers.viber.com/docs/api/rest-bot-api/#message-types
"""

import mimetypes
import re
from collections.abc import Sequence
from typing import Any, Literal

from messengers.base import UNSEEN, File, Piece, with_text

Shown = Literal["picture", "video", "file"]

CAPTION_LIMIT = 512
"""The strictest of what is told. https://infobip.com/docs/viber/bots/message-types"""
MB = 1_000_000
"""The strictest reading of Viber's «MB», so never refused late."""
LIMITS: dict[Shown, int] = {"picture": MB, "video": 26 * MB, "file": 50 * MB}
LINK_LIMIT = 2000
NAME_LIMIT = 256
NO_LINK = "viber fetches files itself, and PUBLIC_URL, where it would find them, is not set"
NOT_SIGNED = "no link to the file can be made: its key in DATA_DIR/keys cannot be read"
_PICTURES = ("image/jpeg", "image/png", "image/gif")
_FORBIDDEN = re.compile(
    r"action|apk|app|bat|bin|cab|com|command|cpl|csh|ex_|exe|gadget|inf1?|ins|inx|ipa|isu|job|jse|ksh|lnk|msc|msi|msp|mst"
    r"|osx|out|paf|pif|prg|ps1|reg|rgs|run|sct|shb|shs|u3p|vb|vbe|vbs|vbscript|workflow|ws|wsf",
    re.IGNORECASE,
)
"""Extensions of what runs. https://developers.viber.com/docs/api/rest-bot-api/#forbidden-file-formats (memory)"""


def shown_as(file: File) -> tuple[Shown, str]:
    """As what it goes, and why that is not what was asked for; or ''."""
    if file.kind == "document":
        return "file", ""
    unseen = not file.id and file.media_type == UNSEEN
    shown: Shown
    if file.kind == "image" and (file.media_type in _PICTURES or unseen):
        shown = "picture"
    elif file.kind in {"video", "animation"} and file.media_type in {"video/mp4", "video/x-m4v"}:
        shown = "video"
    else:
        return "file", f"viber shows no {file.media_type} as {file.kind}"
    if file.size > LIMITS[shown]:
        return "file", f"it has {file.size} bytes; a {shown} may have {LIMITS[shown]}"
    return shown, ""


def unsendable(file: File, *, public: bool) -> str | None:
    """Why Viber would refuse it, or None. `public`: whether it can fetch from us."""
    shown, _ = shown_as(file)
    if wrong := _unreachable(file, public=public):
        return wrong
    if file.id and not file.size:
        return "is empty; viber takes no empty file"
    if file.size > LIMITS[shown]:
        return f"has {file.size} bytes; viber takes {LIMITS[shown]}"
    if shown != "picture" and not file.size:
        return f"is of unknown size, which viber must be told of a {shown}; upload it"
    return _misnamed(file_name(file)) if shown == "file" else None


def _unreachable(file: File, *, public: bool) -> str | None:
    if not file.link and not (file.id and public):
        return NO_LINK
    if len(file.link) > LINK_LIMIT:
        return f"has a link of {len(file.link)} characters; viber takes {LINK_LIMIT}"
    return None


def _misnamed(name: str) -> str | None:
    _, dot, extension = name.rpartition(".")
    if not dot or not extension:
        return "has a name without an extension; viber needs one"
    if _FORBIDDEN.fullmatch(extension):
        return f"is called .{extension.lower()}; viber takes nothing that runs"
    if len(name) > NAME_LIMIT:
        return f"has a name of {len(name)} characters; viber takes {NAME_LIMIT}"
    return None


def file_name(file: File) -> str:
    """Its name, with an extension where its type tells one."""
    stem, dot, extension = file.name.rpartition(".")
    if stem and dot and extension:
        return file.name
    return file.name + (mimetypes.guess_extension(file.media_type) or "")


def pieces_of(files: Sequence[File], text: str) -> list[Piece]:
    """One for each file; the text goes with the first if that is a picture, else ahead."""
    captioned = len(text) <= CAPTION_LIMIT and shown_as(files[0])[0] == "picture"
    return with_text([Piece((n,)) for n in range(len(files))], text, captioned=captioned)


def fields_of(file: File, caption: str) -> dict[str, Any]:
    """What a message says of it."""
    match shown_as(file)[0]:
        case "picture":
            return {"type": "picture", "text": caption, "media": file.link}
        case "video":
            return {"type": "video", "media": file.link, "size": file.size}
    return {
        "type": "file",
        "media": file.link,
        "size": file.size,
        "file_name": file_name(file),
    }
