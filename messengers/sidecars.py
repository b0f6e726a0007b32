"""What the programs that hold WhatsApp sessions have in common: WhatsApp's own words in their answers, and its addresses."""

import re
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from messengers.base import NoReply, Rejected, Reply, Retry, Unclear, by_status
from messengers.phones import Trouble
from messengers.reading import words

LIMITED = re.compile(r"\b463\b|reach.?out.?time.?lock|rate.?over.?limit|error 429", re.IGNORECASE)
"""WhatsApp's own words for an account that it restricts. https://github.com/WhiskeySockets/Baileys/issues/2441"""
UNSURE = re.compile(
    r"timed?.?out|deadline.?exceeded|context canceled|websocket disconnected|connection (dropped|reset)",
    re.IGNORECASE,
)
"""Of a send that may have reached WhatsApp, which did not confirm it."""
AGAIN_S = 3.0
"""Seconds until a session that is not linked is asked for again by a send; by then it is known not to be there."""
CHAT = re.compile(r"[0-9-]{5,40}@(c\.us|s\.whatsapp\.net|lid|g\.us)")
MESSAGE_ID = re.compile(r"[!-~]{1,200}")
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
IMAGES = frozenset({"image/jpeg", "image/png"})
VIDEOS = frozenset({"video/mp4"})
VOICES = frozenset({"audio/ogg", "audio/opus"})


def is_done(reply: Reply | NoReply) -> bool:
    """Whether it did what it was asked."""
    return isinstance(reply, Reply) and 200 <= reply.status <= 299


def trouble_of(reply: Reply, reason: str) -> Trouble:
    """What is left to say by the HTTP status."""
    match reply.status:
        case 408 | 429:
            return Trouble("later", reason)
        case status if 400 <= status <= 499:
            return Trouble("refused", reason)
        case status if 500 <= status <= 599:
            return Trouble("later", reason)
    return Trouble("away", f"HTTP {reply.status} with an answer that could not be read")


def not_sent(trouble: Trouble, reply: Reply) -> Retry | Rejected | Unclear:
    """What it means for a message that it was not sent."""
    match trouble.kind:
        case "limited":
            return Retry(trouble.reason, pauses="account", refused=True, stops=True)
        case "missing" | "unlinked":
            return Retry(trouble.reason, after_s=AGAIN_S, pauses="account")
        case "refused" if reply.status in {401, 403}:
            return Retry(trouble.reason, pauses="account", refused=True)
        case "later" if reply.status in {408, 504} or UNSURE.search(trouble.reason):
            return Unclear(trouble.reason)
    return by_status(reply, trouble.reason if trouble.kind != "away" else "")


def address(chat: str) -> str:
    """How we write the address of a chat: a person is a number."""
    number, _, place = chat.partition("@")
    return number if place in {"c.us", "s.whatsapp.net"} else chat


def number_of(jid: object) -> str:
    """The phone number in `4915...:12@s.whatsapp.net`; '' where there is none."""
    number = jid.partition("@")[0].partition(":")[0] if isinstance(jid, str) else ""
    return number if number.isascii() and number.isdigit() and len(number) <= 20 else ""


def path_of(url: object, folder: str) -> str:
    """The part of `url` from `folder` on, whatever host it names; '' when it leads elsewhere."""
    if not isinstance(url, str) or len(url) > 2_000:
        return ""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    at = path.find(folder)
    found = path[at:] if at >= 0 else ""
    return "" if ".." in unquote(found) or "\\" in found else found


def place(latitude: object, longitude: object) -> str:
    """A point on earth, as text; '' when it is none."""
    found = [one for one in (latitude, longitude) if isinstance(one, int | float | str)]
    return words(f"{found[0]},{found[1]}") if len(found) == 2 else ""


def seconds(value: object, unit_s: float = 1.0) -> datetime | None:
    """A number of `unit_s` since the epoch, perhaps with a fraction, as a time; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        at_s = float(value) * unit_s
    except OverflowError:
        return None
    return datetime.fromtimestamp(at_s, UTC) if 0 < at_s < 4e9 else None


def instant(text: object) -> datetime | None:
    """An RFC 3339 time; None for anything else."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None
