"""Upload, then send: a client hands files over, says later where they go, and asks what has become of them.

Each upload becomes one message, which is accepted like any other. What was handed over without a word for 24 h is forgotten,
and so is what has ended and was not asked about for 24 h.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

from messengers.base import FileKind, Heading
from postrider.errors import IdempotencyConflict, InvalidRequest, NotFound, PostriderError
from postrider.files import Files, Incoming
from postrider.finding import Summary
from postrider.handovers import Handed, Handover, Handovers
from postrider.model import Attachment, Message, NewMessage, Recipient
from postrider.repeats import Once

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
STATES = {
    "scheduled": "queued",
    "sending": "queued",
    "delivered": "delivered",
    "partially_delivered": "partially delivered",
    "failed": "failed",
    "cancelled": "failed",
}
"""A message's own state -> what clients are told."""
MAIL = "mail"
OPTIONS = {
    **{name: name for name in ("subject", "reply_to", "cc", "bcc")},
    "from": "sender",
}
"""What `info` may say of a mail -> our name for it."""
LISTS = frozenset({"cc", "bcc"})
PREPROCESS = "preprocess"
QUEUED = "queued"
DELIVERED = "delivered"
KEY = "key"
"""The part of an upload that holds the key of the others."""
TEXT_BYTES = 1024 * 1024
"""More is no messenger's text."""
NAME_LIMIT = 1_000
"""Characters of a name that a file is known by here."""
KEPT = timedelta(hours=24)
LOOK = timedelta(seconds=60)
SWEEP_S = 2.0
"""Seconds that one sweep takes at most."""

Opener = Callable[[Incoming, bytes | None], Incoming]
"""Gives what an encrypted file holds, by its encrypted key. Raises InvalidRequest when it does not open."""


class NotOpened(InvalidRequest):
    """An encrypted file that does not open."""


@dataclass(frozen=True, slots=True)
class Asked:
    """With what parameters an upload is to be sent; '' for what was left out."""

    id: str = ""
    serv: str = ""
    dest: str = ""
    type: str = ""
    sender: str = ""
    info: str = field(default="", repr=False)


class Engine(Protocol):
    """What the desk needs of the service."""

    files: Files

    def accept(
        self, new: NewMessage, once: Once | None = None
    ) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes a message. Raises InvalidRequest, IdempotencyConflict, Unavailable."""

    def message(self, id_: str, owner: str | None) -> Summary:
        """One message and its counts. Raises NotFound."""


class Desk:
    """Takes uploads, sends them, and tells how they stand.

    `opener` opens encrypted files, `public_pem` gives the key that they are encrypted for; `look`: how often it looks whether a
    message has ended.
    """

    def __init__(
        self,
        handovers: Handovers,
        engine: Engine,
        clock: Callable[[], datetime],
        *,
        services: Mapping[str, str] = SERVICES,
        opener: Opener | None = None,
        public_pem: Callable[[], str] | None = None,
        look: timedelta = LOOK,
    ) -> None:
        self.handovers = handovers
        self.engine = engine
        self.clock = clock
        self.services = services
        self.opener = opener
        self.public_pem = public_pem
        self.look = look

    # -- asked by clients

    def take(
        self,
        owner: str,
        files: Sequence[tuple[str, str, Incoming]],
        fields: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Handover:
        """Keeps an upload, all of it or nothing: (name of its part, its own name, the file), and parts that are no files.

        A field but `key`, which opens the others, is a small file. What came in stays the caller's to close. Raises
        InvalidRequest; NotOpened for an encrypted file that does not open.
        """
        with ExitStack() as stack:
            # A browser sends an empty one without a name where no file was chosen.
            arrived = [(part, name or part, one) for part, name, one in files if name or one.size]
            for part, content in fields.items():
                if part != KEY:
                    incoming = stack.enter_context(closing(self.engine.files.incoming()))
                    incoming.write(content)
                    arrived.append((part, part, incoming))
            if not arrived:
                raise InvalidRequest("", "there is no file in the upload")
            if any(max(len(part), len(name)) > NAME_LIMIT for part, name, _ in arrived):
                raise InvalidRequest("", f"a file's name is over {NAME_LIMIT} characters")
            plain = [
                (part, name, stack.enter_context(closing(self._opened(one, name, fields.get(KEY)))))
                for part, name, one in arrived
            ]
            return self._keep(owner, plain)

    def _opened(self, incoming: Incoming, name: str, key: bytes | None) -> Incoming:
        if self.opener is None:
            if key is not None:
                raise NotOpened(name, "this server opens no encrypted files")
            return incoming
        try:
            return self.opener(incoming, key)
        except InvalidRequest as error:
            raise NotOpened(name, error.reason) from None

    def _keep(self, owner: str, files: Sequence[tuple[str, str, Incoming]]) -> Handover:
        kept: list[Handed] = []
        now = self.clock()
        try:
            for part, name, incoming in files:
                stored = self.engine.files.keep(incoming, name, owner, now)
                kept.append(Handed(part, name, stored.file.id))
            new = self.handovers.put(owner, kept, now + KEPT)
        except BaseException:
            for file in kept:
                with suppress(PostriderError):  # else they go when nobody has needed them for a day
                    self.engine.files.delete(file.file, owner, now)
            raise
        if new is None:
            raise InvalidRequest("", "the files were deleted meanwhile; upload them again")
        return new

    def send(self, owner: str, asked: Asked) -> Handover:
        """Sends what was uploaded; doing the same twice sends it once. Raises InvalidRequest: the files are kept then."""
        held = self._handover(owner, asked.id)
        digest = hashlib.sha256(json.dumps(astuple(asked)[1:]).encode()).hexdigest()
        taken = InvalidRequest("id", "is being sent already, with other parameters")
        if held.message:
            if held.asked != digest:
                raise taken
            return held
        new = self._message(held, asked)
        try:
            # No header can hold such a key: no client's own is ever the same.
            message, _ = self.engine.accept(new, Once(f"handover\n{held.id}", digest.encode()))
        except IdempotencyConflict:
            raise taken from None
        except InvalidRequest as error:
            raise self._in_their_words(error, new, held) from None
        self.handovers.sent(held.id, message.id, digest, self.clock() + self.look)
        return held

    def key(self) -> str:
        """The public key that files can be encrypted for, as PEM. Raises InvalidRequest when there is none."""
        if self.public_pem is None:
            raise InvalidRequest("", "this server has no key; send files as they are")
        return self.public_pem()

    def state(self, owner: str, id_: str) -> str:
        """How an upload stands. Told that it was delivered, its client has no more to ask. Raises InvalidRequest."""
        if not id_:
            raise InvalidRequest("id", "is missing")
        held = self._handover(owner, id_)
        if not held.message:
            return PREPROCESS
        if not (state := self._ended(held)):
            return QUEUED
        if state == DELIVERED:
            there = self.handovers.drop(held)
        else:
            there = self.handovers.note(held.id, state, self.clock() + KEPT)
        if not there:
            raise _unknown(id_)
        return state

    def _handover(self, owner: str, id_: str) -> Handover:
        if not id_:
            if (held := self.handovers.latest(owner)) is None:
                raise InvalidRequest("id", "is missing, and no upload of yours is there")
            return held
        held = self.handovers.get(id_)
        if held is None or held.owner != owner:
            raise _unknown(id_)
        return held

    # -- what is to be sent

    def _message(self, held: Handover, asked: Asked) -> NewMessage:
        """The message that is asked for. Raises InvalidRequest."""
        for name in ("serv", "dest", "type"):
            if not getattr(asked, name):
                raise InvalidRequest(name, "is missing")
        if asked.serv not in self.services:
            raise InvalidRequest(
                "serv", f"unknown service {asked.serv[:40]!r}; there are {', '.join(self.services)}"
            )
        service = self.services[asked.serv]
        types = _types(held, asked.type)
        info = _info(asked.info)
        texts = [body] if (body := info.get("body")) else []
        texts += [self._text(file, held.owner) for file in held.files if types[file] == "text"]
        return NewMessage(
            body="\n\n".join(texts),
            recipients=(Recipient(asked.dest, service, asked.sender or "default"),),
            owner=held.owner,
            attachments=tuple(
                Attachment(file.file, kind=TYPES[types[file]])
                for file in held.files
                if types[file] != "text"
            ),
            **_heading(mail_options(info) if service == MAIL else {}),
        )

    def _text(self, file: Handed, owner: str) -> str:
        """What a file of type `text` says."""
        with suppress(NotFound, OSError, UnicodeDecodeError):
            if self.engine.files.get(file.file, owner).file.size > TEXT_BYTES:
                raise InvalidRequest(file.name, "is too long for a text")
            with self.engine.files.open(file.file) as opened:
                return opened.read(TEXT_BYTES + 1).decode("utf-8-sig")
        raise InvalidRequest(file.name, "is no text in UTF-8")

    def _in_their_words(
        self, error: InvalidRequest, new: NewMessage, held: Handover
    ) -> InvalidRequest:
        """The same, named by what the client knows."""
        names = {"uuid": "dest", "service": "serv", "account": "sender", "body": "text"}
        found = error.field
        if at := re.match(r"attachments\[(\d+)\]", found):
            id_ = new.attachments[int(at[1])].file
            found = next(file.name for file in held.files if file.file == id_)
        else:
            found = found.rpartition(".")[2]
        reason = error.reason.replace("(recipients[0], ", "(")
        return InvalidRequest(names.get(found, found), reason)

    # -- how it ended

    def _ended(self, held: Handover) -> str:
        """How the message has ended; '' when it has not. Once it is purged, what was last known."""
        try:
            state = STATES[self.engine.message(held.message, None).state]
        except NotFound:
            if not held.ended:
                raise _unknown(held.id) from None
            return held.ended
        return "" if state == QUEUED else state

    def settle(self) -> None:
        """Writes down what has ended, before it is purged."""
        for id_ in self.handovers.open():
            with suppress(InvalidRequest):
                if (held := self.handovers.get(id_)) and (state := self._ended(held)):
                    self.handovers.note(held.id, state, self.clock() + KEPT)

    def sweep(self, most: int = 100) -> None:
        """Forgets what nobody has asked for in 24 h, and finds out what has ended. Any process may do so."""
        until = time.monotonic() + SWEEP_S
        now = self.clock()
        while time.monotonic() < until and (found := self.handovers.due(now, most)):
            for held in found:
                self._look_at(held, now)

    def _look_at(self, held: Handover, now: datetime) -> None:
        try:
            state = self._ended(held) if held.message else None
        except InvalidRequest:  # its message is gone, and nobody saw how it ended
            state = None
        if state is None or (state and held.ended):
            self.handovers.drop(held, now)
        else:
            self.handovers.note(held.id, state, now + (KEPT if state else self.look))


def mail_options(info: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """What a mail has besides its text: subject, sender, reply_to, cc, bcc, as far as `info` says. Raises InvalidRequest."""
    found: dict[str, str | tuple[str, ...]] = {}
    for name, value in info.items():
        option = name.lower().replace("-", "_")
        match OPTIONS.get(option), value:
            case None, _:
                pass
            case str(ours), str() if ours in LISTS:
                found[ours] = (value,)
            case str(ours), list() if ours in LISTS and all(isinstance(v, str) for v in value):
                found[ours] = tuple(value)
            case str(ours), str() if ours not in LISTS:
                found[ours] = value
            case _:
                raise InvalidRequest("info", f"{name[:40]!r} must be a text")
    return found


def _heading(options: Mapping[str, str | tuple[str, ...]]) -> dict[str, Any]:
    """The same as fields of NewMessage."""
    return {"heading": Heading(**options)} if options else {}  # type: ignore[arg-type]


def _unknown(id_: str) -> InvalidRequest:
    return InvalidRequest("id", f"unknown id {id_[:40]!r}")


def _types(held: Handover, asked: str) -> dict[Handed, str]:
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
        files = [f for f in held.files if f.name == name] or [
            f for f in held.files if f.part == name
        ]
        if not files:
            there = ", ".join(repr(file.name[:40]) for file in held.files[:10])
            raise InvalidRequest("type", f"unknown file {name[:40]!r}; there are {there}")
        if len(files) > 1:
            raise InvalidRequest("type", f"{name[:40]!r} is the name of {len(files)} files")
        found[files[0]] = type_
    for file in held.files:
        if file not in found:
            raise InvalidRequest("type", f"says nothing of {file.name[:40]!r}")
    return found


def _info(text: str) -> dict[str, Any]:
    """What else is said of a message; what is not known among it is left aside. Raises InvalidRequest."""
    if not text:
        return {}
    named = _object("info", text, 'must be JSON like {"subject": "Hello"}')
    if not isinstance(named.get("body", ""), str):
        raise InvalidRequest("info", "'body' must be a text")
    return named


def _object(name: str, text: str, wrong: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(name, wrong)
    return found
