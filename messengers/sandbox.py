"""The sandbox: a messenger that needs no account. Its messages land in a local inbox.

Any uuid works. A few answer with the failures that real messengers give, so that one can see how retries and failures
look: `FAILURES`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from messengers.base import (
    File,
    Identity,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Unclear,
    by_status,
)
from messengers.reading import words


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sandbox does with a note: whether it keeps it, and what it says after `after_s` seconds."""

    reply: Reply | NoReply
    keeps: bool
    after_s: float = 0.0


def _says(status: int, **body: object) -> Reply:
    return Reply(status, json.dumps(body).encode())


def _accepts(note: Note, after_s: float = 0.0) -> Answer:
    return Answer(_says(200, ok=True, id=note.key), keeps=True, after_s=after_s)


def _refuses(status: int, error: str, **more: object) -> Answer:
    return Answer(_says(status, ok=False, error=error, **more), keeps=False)


def _at_first(count: int, answer: Answer) -> Callable[[Note], Answer]:
    return lambda note: answer if note.nth <= count else _accepts(note)


MAX_WAIT_S = 86_400
FAILURES: dict[str, tuple[str, Callable[[Note], Answer]]] = {
    "429": (
        "asks to wait 3 s, then takes it",
        _at_first(1, _refuses(429, "Too Many Requests: retry after 3", retry_after=3)),
    ),
    "blocked": (
        "refuses for good: the recipient has blocked the sender",
        lambda _: _refuses(403, "Forbidden: bot was blocked by the user"),
    ),
    "unknown": (
        "refuses for good: no such recipient",
        lambda _: _refuses(400, "Bad Request: chat not found"),
    ),
    "down": (
        "answers 503 every time, until the retries are used up",
        lambda _: _refuses(503, "Service Unavailable"),
    ),
    "flaky": (
        "answers 503 twice, then takes it",
        _at_first(2, _refuses(503, "Service Unavailable")),
    ),
    "refused": (
        "cannot be connected to once, then takes it",
        _at_first(1, Answer(NoReply(left=False, reason="connection refused"), keeps=False)),
    ),
    "slow": ("takes it, and says so after 5 s", lambda note: _accepts(note, after_s=5)),
    "lost": (
        "takes it, but its first answer is lost: the delivery is unknown, then sent again",
        _at_first(1, Answer(NoReply(left=True, reason="no answer"), keeps=True)),
    ),
    "junk": (
        "takes it, but its first answer makes no sense",
        _at_first(1, Answer(Reply(200, b"<html>It works!</html>"), keeps=True)),
    ),
}
"""uuid -> (what it does, how). Shown at /sandbox."""


def answer(note: Note) -> Answer:
    """What the sandbox does with `note`: keep it and say so, unless its uuid stands in `FAILURES`."""
    _, how = FAILURES.get(note.to, ("", _accepts))
    return how(note)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox's adapter. It keeps one note per key, so a repeated send is dropped."""

    name: ClassVar[str] = "sandbox"
    needs: ClassVar[tuple[str, ...]] = ()
    idempotent: ClassVar[bool] = True
    has_receipts: ClassVar[bool] = False
    slower: ClassVar[Mapping[str, float]] = {}
    TEXT_LIMIT: ClassVar[int] = 10_000
    UUID_LIMIT: ClassVar[int] = 200
    takes_links: ClassVar[bool] = True

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        return cls() if env.get("SANDBOX", "on") == "on" else None

    def check_recipient(self, uuid: str) -> str | None:
        if not uuid or len(uuid) > self.UUID_LIMIT:
            return f"must have 1 to {self.UUID_LIMIT} characters"
        return None

    def check_text(self, text: str) -> str | None:
        if len(text) > self.TEXT_LIMIT:
            return f"has {len(text)} characters; sandbox takes {self.TEXT_LIMIT}"
        return None

    def request(self, out: Outbound) -> Note:
        return Note(out.to, out.text, out.key, out.nth, out.files)

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        return None

    def notices(self, files: Sequence[File]) -> list[str]:  # noqa: ARG002
        return []

    def read(self, reply: Reply) -> Outcome:
        match reply.object():
            case {"ok": True, "id": str(key)} if key.isascii() and 0 < len(key) < 100:
                return Sent(key)
            case {"retry_after": int(wait_s), "error": str(why)} if (
                wait_s is not True and 0 <= wait_s < MAX_WAIT_S
            ):
                return Retry(words(why), after_s=float(wait_s), pauses="recipient")
            case {"error": str(why)}:
                return by_status(reply, words(why))
        return by_status(reply)

    def whoami(self) -> Request | None:
        return None

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        return Unclear(f"the sandbox is never asked, yet HTTP {reply.status} came")
