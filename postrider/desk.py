"""Upload, then send: a client hands files over, says later where they go, and asks what has become of them.

Each upload becomes one message, which is accepted like any other. What was handed over without a word for 24 h is forgotten,
and so is what has ended and was not asked about for 24 h.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol

from postrider import parameters
from postrider.arriving import Arriving
from postrider.errors import IdempotencyConflict, InvalidRequest, NotFound, Unavailable
from postrider.files import Files, Stored
from postrider.finding import Finder
from postrider.handovers import Handed, Handover, Handovers
from postrider.model import Attachment, Message, NewMessage, Recipient
from postrider.parameters import TYPES, Asked
from postrider.repeats import Once

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


class Engine(Protocol):
    """What the desk needs of the service."""

    files: Files
    finder: Finder

    def keep(
        self, owner: str, arrived: Sequence[tuple[str, Arriving]], key: bytes | None = None
    ) -> list[Stored]:
        """Keeps files under their names, all of them or none. Raises InvalidRequest, TooManyRequests, Unavailable."""

    def accept(
        self, new: NewMessage, once: Once | None = None
    ) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes a message. Raises InvalidRequest, IdempotencyConflict, Unavailable."""


class Desk:
    """Takes uploads, sends them, and tells how they stand.

    `services`: what clients call a messenger -> our name for it. `look`: how often it looks whether a message has ended.
    """

    def __init__(
        self,
        handovers: Handovers,
        engine: Engine,
        clock: Callable[[], datetime],
        services: Mapping[str, str] = parameters.SERVICES,
        look: timedelta = LOOK,
    ) -> None:
        self.handovers = handovers
        self.engine = engine
        self.clock = clock
        self.services = services
        self.look = look

    # -- asked by clients

    def take(
        self,
        owner: str,
        files: Sequence[tuple[str, str, Arriving]],
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
            named = [(name, one) for _, name, one in arrived]
            stored = self.engine.keep(owner, named, fields.get(KEY))
        ids = [one.file.id for one in stored]
        kept = [Handed(part, name, id_) for (part, name, _), id_ in zip(arrived, ids, strict=True)]
        new, now = None, self.clock()
        try:
            new = self.handovers.put(owner, kept, now + KEPT)
        finally:
            if new is None:
                self.engine.files.forget(ids, now)
        if new is None:
            raise InvalidRequest("", "the files were deleted meanwhile; upload them again")
        return new

    def send(self, owner: str, asked: Asked) -> Handover:
        """Sends what was uploaded; doing the same twice sends it once. Raises InvalidRequest: the files are kept then;
        Unavailable, with `accepted_unknown` when it may be sent all the same."""
        held = self._held(owner, asked.id) if asked.id else self._latest(owner)
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
        except IdempotencyConflict as error:
            if error.runs:
                raise InvalidRequest("id", "is being sent already; ask how it stands") from None
            raise taken from None
        except InvalidRequest as error:
            raise self._in_their_words(error, new, held) from None
        try:
            noted = self.handovers.sent(held.id, message.id, digest, self.clock() + self.look)
        except Unavailable as error:  # said again, it is not sent again
            raise Unavailable(
                str(error), retry_after_s=error.retry_after_s, accepted_unknown=True
            ) from error
        if not noted:
            raise _unknown(held.id)  # told that it was delivered, or a day old: just now
        return held

    def state(self, owner: str, id_: str) -> str:
        """How an upload stands. Told that it was delivered, its client has no more to ask. Raises InvalidRequest."""
        if not id_:
            raise InvalidRequest("id", "is missing")
        held = self._held(owner, id_)
        if not held.message:
            return PREPROCESS
        end = self._ends([held])[id_]
        if end is None:
            raise _unknown(id_)
        if not end:
            return QUEUED
        if end == DELIVERED:
            there = self.handovers.drop(held)
        else:
            there = self.handovers.note(id_, end, self.clock() + KEPT)
        if not there:
            raise _unknown(id_)
        return end

    def _held(self, owner: str, id_: str) -> Handover:
        held = self.handovers.get(id_)
        if held is None or held.owner != owner:
            raise _unknown(id_)
        return held

    def _latest(self, owner: str) -> Handover:
        if (held := self.handovers.latest(owner)) is None:
            raise InvalidRequest("id", "is missing, and no upload of yours is there")
        return held

    # -- what is to be sent

    def _message(self, held: Handover, asked: Asked) -> NewMessage:
        """The message that is asked for. Raises InvalidRequest."""
        asked.demand()
        if asked.serv not in self.services:
            raise InvalidRequest(
                "serv", f"unknown service {asked.serv[:40]!r}; there are {', '.join(self.services)}"
            )
        service = self.services[asked.serv]
        types = parameters.types(held, asked.type)
        info = parameters.info(asked.info)
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
            heading=parameters.heading(info) if service == MAIL else None,
        )

    def _text(self, file: Handed, owner: str) -> str:
        """What a file of type `text` says."""
        try:
            if self.engine.files.get(file.file, owner).file.size > TEXT_BYTES:
                raise InvalidRequest(file.name, "is too long for a text")
            with self.engine.files.open(file.file) as opened:
                return opened.read(TEXT_BYTES + 1).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidRequest(file.name, "is no text in UTF-8") from None
        except (NotFound, FileNotFoundError):
            raise InvalidRequest(file.name, "is gone; upload it again") from None
        except OSError as error:  # of our disk, and nothing that the client could mend
            raise Unavailable(f"a file cannot be read: {error}") from error

    def _in_their_words(
        self, error: InvalidRequest, new: NewMessage, held: Handover
    ) -> InvalidRequest:
        """The same, named by what the client knows."""
        names = {"uuid": "dest", "service": "serv", "account": "sender", "body": "text"}
        names["reply_to"] = "reply-to"
        found = error.field
        if at := re.match(r"attachments\[(\d+)\]", found):
            id_ = new.attachments[int(at[1])].file
            found = next(file.name for file in held.files if file.file == id_)
        else:
            found = found.rpartition(".")[2]
        reason = error.reason.replace("(recipients[0], ", "(")
        return InvalidRequest(names.get(found, found), reason)

    # -- how it ended

    def _ends(self, found: Sequence[Handover]) -> dict[str, str | None]:
        """How the message of each has ended; '' when it has not, None when there is none, or nobody saw how.

        Once it is purged, what was last known.
        """
        ends: dict[str, str | None] = {}
        states = self.engine.finder.states([held.message for held in found if held.message])
        for held in found:
            if state := states.get(held.message):
                told = STATES[state]
                ends[held.id] = "" if told == QUEUED else told
            else:
                ends[held.id] = held.ended or None
        return ends

    def settle(self) -> None:
        """Writes down what has ended, before it is purged, as far as it comes in `SWEEP_S` seconds."""
        until = time.monotonic() + SWEEP_S
        for found in self.handovers.open():
            due = self.clock() + KEPT
            ends = self._ends(found).items()
            self.handovers.note_all([(id_, end, due) for id_, end in ends if end])
            if time.monotonic() > until:
                return

    def sweep(self, most: int = 100) -> None:
        """Forgets what nobody has asked for in 24 h, and finds out what has ended. Any process may do so."""
        until = time.monotonic() + SWEEP_S
        now = self.clock()
        while time.monotonic() < until and (found := self.handovers.due(now, most)):
            self._look_at(found, now)

    def _look_at(self, found: Sequence[Handover], now: datetime) -> None:
        ends = self._ends(found)
        notes, over = [], []
        for held in found:
            end = ends[held.id]
            if end is None or (end and held.ended):
                over.append(held)
            else:
                notes.append((held.id, end, now + (KEPT if end else self.look)))
        self.handovers.drop_all(over, now)
        self.handovers.note_all(notes)


def _unknown(id_: str) -> InvalidRequest:
    return InvalidRequest("id", f"unknown id {id_[:40]!r}")
