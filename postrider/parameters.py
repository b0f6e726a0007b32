"""What a client of the upload-then-send interface says of an upload: where to, what each file is, what a mail has. Pure functions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from messengers.base import FileKind, Heading
from postrider.errors import InvalidRequest
from postrider.handovers import Handed, Handover

SERVICES: Mapping[str, str] = {"wpp1": "whatsapp", "mail": "mail"}
"""What clients call a messenger -> our name for it."""
TYPES: Mapping[str, FileKind | None] = {
    "text": None,  # what the file holds is the message's text
    "image": "image",
    "video": "video",
    "audio": "audio",
    "document": "document",
}
"""What clients call a file -> as what it is shown. A line more is a type more."""
OPTIONS = {
    **{name: name for name in ("subject", "reply_to", "cc", "bcc")},
    "from": "sender",
}
"""What `info` may say of a mail -> our name for it."""
LISTS = frozenset({"cc", "bcc"})


@dataclass(frozen=True, slots=True)
class Asked:
    """With what parameters an upload is to be sent; '' for what was left out."""

    id: str = ""
    serv: str = ""
    dest: str = ""
    type: str = ""
    sender: str = ""
    info: str = field(default="", repr=False)

    def demand(self) -> None:
        """Raises InvalidRequest for what may not be left out."""
        for name in ("serv", "dest", "type"):
            if not getattr(self, name):
                raise InvalidRequest(name, "is missing")


def types(held: Handover, asked: str) -> dict[Handed, str]:
    """What each file is, by `{"file": "type"}` or by one word for all. Raises InvalidRequest."""
    if asked == "text":
        return dict.fromkeys(held.files, asked)
    named = _object("type", asked, 'must be text, or JSON like {"file": "image"}')
    found: dict[Handed, str] = {}
    for name, type_ in named.items():
        if not isinstance(type_, str) or type_ not in TYPES:
            raise InvalidRequest(
                "type", f"unknown type {str(type_)[:40]!r}; there are {', '.join(TYPES)}"
            )
        if found.setdefault(file := _file_called(name, held), type_) != type_:
            raise InvalidRequest("type", f"says two things of {file.name[:40]!r}")
    for file in held.files:
        if file not in found:
            raise InvalidRequest("type", f"says nothing of {file.name[:40]!r}")
    return found


def _file_called(name: str, held: Handover) -> Handed:
    """By its own name, or by that of its part in the form. Raises InvalidRequest."""
    files = [f for f in held.files if f.name == name] or [f for f in held.files if f.part == name]
    if not files:
        there = ", ".join(repr(file.name[:40]) for file in held.files[:10])
        raise InvalidRequest("type", f"unknown file {name[:40]!r}; there are {there}")
    if len(files) > 1:
        raise InvalidRequest("type", f"{name[:40]!r} is the name of {len(files)} files")
    return files[0]


def info(text: str) -> dict[str, Any]:
    """What else is said of a message; what is not known among it is left aside. Raises InvalidRequest."""
    if not text:
        return {}
    named = _object("info", text, 'must be JSON like {"subject": "Hello"}')
    if not isinstance(named.get("body", ""), str):
        raise InvalidRequest("info", "'body' must be a text")
    return named


def heading(said: Mapping[str, Any]) -> Heading | None:
    """What stands above a mail's text, as far as `info` says; None when it says nothing of that. Raises InvalidRequest."""
    found: dict[str, Any] = {}
    for name, value in said.items():
        ours = OPTIONS.get(name.lower().replace("-", "_"))
        match value:
            case _ if ours is None:
                pass
            case str() if ours in LISTS:
                found[ours] = (value,)
            case list() if ours in LISTS and all(isinstance(v, str) for v in value):
                found[ours] = tuple(value)
            case str() if ours not in LISTS:
                found[ours] = value
            case _:
                raise InvalidRequest("info", f"{name[:40]!r} must be a text")
    return Heading(**found) if found else None


def _object(name: str, text: str, wrong: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(name, wrong)
    return found
