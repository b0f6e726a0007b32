"""What WAHA posts to our webhook, and says of messages. Total: anything may come.

https://waha.devlike.pro/docs/how-to/events/
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from messengers.inward import Incoming, Kind, Media, Receipt, said
from messengers.message_ids import key_of
from messengers.phones import Link, LinkState
from messengers.reading import parsed, words
from messengers.sidecars import (
    CHAT,
    MESSAGE_ID,
    SESSION,
    address,
    number_of,
    path_of,
    place,
    seconds,
)

EVENTS = ("session.status", "message", "message.reaction", "message.ack", "message.ack.group")
"""What the sidecar is to tell us."""
STATES: Mapping[str, LinkState] = {
    "STOPPED": "stopped",
    "STARTING": "starting",
    "SCAN_QR_CODE": "scan",
    "PASSKEY_REQUIRED": "passkey",
    "PASSKEY_CONFIRMATION_REQUIRED": "passkey",
    "WORKING": "linked",
    "FAILED": "failed",
}
"""https://waha.devlike.pro/docs/how-to/sessions/#session-status"""
_ACKS: Mapping[int, Literal["sent", "delivered", "read", "failed"]] = {
    -1: "failed",
    1: "sent",
    2: "delivered",
    3: "read",
    4: "read",
}
"""https://waha.devlike.pro/docs/how-to/events/#messageack"""
_FILES = "/api/files/"
_KINDS: Mapping[str, Kind] = {"image": "image", "video": "video", "audio": "audio"}


def session_of(body: bytes) -> str:
    """The session that it is about; ''."""
    session = parsed(body).get("session")
    return session if isinstance(session, str) and SESSION.fullmatch(session) else ""


def links(body: bytes) -> Sequence[Link]:
    """How its session stands, where it tells that."""
    match parsed(body):
        case {"event": "session.status", "payload": {"status": str(status)}, **rest} if (
            status in STATES
        ):
            return [Link(STATES[status], *me(rest.get("me")))]
    return []


def me(told: object, secret: str = "") -> tuple[str, str]:
    """Number and name of the linked phone, which may quote `secret`."""
    match told:
        case {"id": str(id_), **more}:
            return number_of(id_), words(more.get("pushName"), secret)
    return "", ""


def receipts(body: bytes) -> list[Receipt]:
    """What became of a message of ours. One reader of a group is not all: that proves no more than that it was sent."""
    match parsed(body):
        case {
            "event": "message.ack" | "message.ack.group",
            "payload": {"ack": int(ack), "fromMe": True, **told},
            **rest,
        } if type(ack) is int and ack in _ACKS and (id_ := message_id(told)):
            state = _ACKS[ack]
            chat = told.get("from")
            if state != "failed" and isinstance(chat, str) and chat.endswith("@g.us"):
                state = "sent"
            reason = "WhatsApp did not take it" if state == "failed" else ""
            at = seconds(rest.get("timestamp"), 0.001)
            return [Receipt(id_, state, at, reason, key=key_of(id_))]
    return []


def incoming(body: bytes) -> list[Incoming]:
    """What somebody sent."""
    match parsed(body):
        case {
            "event": "message" | "message.reaction",
            "payload": {"from": str(chat), **told},
        } if told.get("fromMe") is not True and CHAT.fullmatch(chat):
            if id_ := _whole_id(told):
                return [_incoming(id_, chat, told)]
    return []


def message_id(told: Mapping[Any, Any]) -> str:
    """WhatsApp's own id: what else stands in WAHA's, the chat, is spelt in more than one way.

    GOWS writes `true_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA`, in a group with `_` and the participant behind; WEBJS an object
    with that as `_serialized`; NOWEB answers a send with WhatsApp's own `key`.
    """
    id_ = told.get("id")
    key = told.get("key")
    if isinstance(id_, dict):
        id_ = id_.get("id") or id_.get("_serialized")
    elif id_ is None and isinstance(key, dict):
        id_ = key.get("id")
    parts = id_.split("_") if isinstance(id_, str) and len(id_) <= 400 else []
    found = parts[2] if len(parts) > 2 else parts[0] if len(parts) == 1 else ""
    return found if MESSAGE_ID.fullmatch(found) else ""


def _whole_id(told: Mapping[Any, Any]) -> str:
    id_ = told.get("id")
    if isinstance(id_, dict):
        id_ = id_.get("_serialized") or id_.get("id")
    return id_ if isinstance(id_, str) and MESSAGE_ID.fullmatch(id_) else ""


def _incoming(id_: str, chat: str, told: Mapping[Any, Any]) -> Incoming:
    kind, text = _kind(told)
    return Incoming(
        id=id_,
        at=seconds(told.get("timestamp")),
        sender=address(chat),
        name=_name(told.get("_data")),
        text=text,
        kind=kind,
        group=chat.endswith("@g.us"),
        media=_media(told),
    )


def _name(data: object) -> str:
    """What its sender is called, as each engine has it: GOWS, NOWEB, WEBJS."""
    match data:
        case (
            {"Info": {"PushName": str(name)}} | {"pushName": str(name)} | {"notifyName": str(name)}
        ):
            return words(name)
    return ""


def _kind(told: Mapping[Any, Any]) -> tuple[Kind, str]:
    """What sort of message it is, and its text."""
    text = said(told.get("body"))
    match told:
        case {"reaction": {"text": str(reaction)}}:
            return "reaction", said(reaction)
        case {"location": {"latitude": latitude, "longitude": longitude}}:
            return "location", place(latitude, longitude)
        case {"vCards": [str(card), *_]}:
            return "contact", said(card)
        case {"media": {"mimetype": str(media_type)}}:
            if media_type == "image/webp":  # a picture comes as JPEG
                return "sticker", text
            return _KINDS.get(media_type.partition("/")[0], "file"), text
        case {"hasMedia": True}:
            return "file", text
    return ("text" if text else "other"), text


def _media(told: Mapping[Any, Any]) -> Media | None:
    """Where its file is, if it is kept by WAHA itself."""
    match told:
        case {"media": {"url": url, **more}} if path := path_of(url, _FILES):
            media_type = more.get("mimetype")
            return Media(
                path, words(media_type) or "application/octet-stream", words(more.get("filename"))
            )
    return None
