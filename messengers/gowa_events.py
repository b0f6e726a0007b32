"""What gowa posts to our webhook. Total: anything may come.

https://github.com/aldinokemal/go-whatsapp-web-multidevice/blob/main/docs/webhook-payload.md
"""

import mimetypes
from collections.abc import Mapping
from typing import Any, Literal

from messengers.inward import Incoming, Kind, Media, Receipt, said
from messengers.reading import parsed, words
from messengers.sidecars import CHAT, MESSAGE_ID, SESSION, address, instant, path_of, place

EVENTS = ("message", "message.reaction", "message.ack")
"""What the sidecar is to tell us; it posts nothing of how a session stands."""
_ACKS: Mapping[object, Literal["delivered", "read"]] = {
    "delivered": "delivered",
    "read": "read",
    "played": "read",
}
"""https://github.com/aldinokemal/go-whatsapp-web-multidevice/blob/main/docs/webhook-payload.md#receipt-events"""
_MOST = 1_000
"""Messages of one receipt."""
_FILES: Mapping[str, Kind] = {
    "image": "image",
    "video": "video",
    "video_note": "video",
    "audio": "audio",
    "document": "file",
    "sticker": "sticker",
}


def session_of(body: bytes) -> str:
    """The session that it is about; '' also for what came before it had a phone, which is nothing we ask for."""
    session = parsed(body).get("session_id")
    return session if isinstance(session, str) and SESSION.fullmatch(session) else ""


def receipts(body: bytes) -> list[Receipt]:
    """What became of messages of ours. One reader of a group is not all: that proves no more than that it was sent."""
    match parsed(body):
        case {
            "event": "message.ack",
            "payload": {"ids": [*ids], "receipt_type": str(kind), **told},
            **rest,
        } if kind in _ACKS:
            chat = told.get("chat_id")
            in_group = isinstance(chat, str) and chat.endswith("@g.us")
            at = instant(rest.get("timestamp"))
            return [
                Receipt(id_, "sent" if in_group else _ACKS[kind], at)
                for id_ in ids[:_MOST]
                if isinstance(id_, str) and MESSAGE_ID.fullmatch(id_)
            ]
    return []


def incoming(body: bytes) -> list[Incoming]:
    """What somebody sent."""
    match parsed(body):
        case {
            "event": "message" | "message.reaction",
            "payload": {"id": str(id_), "chat_id": str(chat), **told},
        } if told.get("is_from_me") is not True and CHAT.fullmatch(chat):
            if MESSAGE_ID.fullmatch(id_):
                return [_incoming(id_, chat, told)]
    return []


def _incoming(id_: str, chat: str, told: Mapping[Any, Any]) -> Incoming:
    kind, text = _kind(told)
    group, lid = chat.endswith("@g.us"), told.get("from_lid")
    hidden = isinstance(lid, str) and not group and lid != chat and CHAT.fullmatch(lid)
    return Incoming(
        id=id_,
        at=instant(told.get("timestamp")),
        sender=address(chat),
        name=words(told.get("from_name")) or words(told.get("sender_display_name")),
        text=text,
        kind=kind,
        also=(str(lid),) if hidden else (),
        group=group,
        media=_media(told),
    )


def _kind(told: Mapping[Any, Any]) -> tuple[Kind, str]:
    """What sort of message it is, and its text."""
    text = said(told.get("body"))
    for name, kind in _FILES.items():
        if told.get(name):
            return kind, text
    match told:
        case {"reaction": str(reaction)}:
            return "reaction", said(reaction)
        case {"location": {"degreesLatitude": latitude, "degreesLongitude": longitude}}:
            return "location", place(latitude, longitude)
        case {"live_location": {"degreesLatitude": latitude, "degreesLongitude": longitude}}:
            return "location", place(latitude, longitude)
        case {"contact": {"vcard": str(card)}} | {"contacts_array": [{"vcard": str(card)}, *_]}:
            return "contact", said(card)
    return ("text" if text else "other"), text


def _media(told: Mapping[Any, Any]) -> Media | None:
    """Where its file is, if gowa has fetched it (WHATSAPP_AUTO_DOWNLOAD_MEDIA, its default)."""
    for name in _FILES:
        found = told.get(name)
        where = found.get("path") if isinstance(found, dict) else found
        if path := path_of(where, "statics/"):
            guessed, _ = mimetypes.guess_type(path)
            return Media(path, guessed or "application/octet-stream", path.rpartition("/")[2])
    return None
