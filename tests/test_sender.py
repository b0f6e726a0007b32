"""Attempts through adapters that break, at each of their steps: what has not left is tried again, what may have is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import redis

from messengers.base import (
    Errand,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Piece,
    Reply,
    Sent,
    Steps,
    Taken,
    unanswered,
)
from messengers.letters import Letter, Mailbox, Server
from messengers.sandbox import Sandbox
from postrider.errands import Errands
from postrider.model import Attachment, Attempt, NewMessage, Recipient
from postrider.service import Service
from postrider.settings import Settings
from postrider.store import Store
from tests.test_files import PNG, keep
from tests.test_sending_files import state, turn


class InPieces(Sandbox):
    """Each file by a call of its own."""

    reuses_s: ClassVar[float] = 0.0

    def pieces(self, out: Outbound) -> list[Piece]:
        return [Piece((n,), text=not n) for n in range(len(out.files))]

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:  # noqa: ARG002
        reply = yield self.request(out)
        return Taken(unanswered(reply) if isinstance(reply, NoReply) else self.read(reply))


class CutsNothing(InPieces):
    def pieces(self, out: Outbound) -> list[Piece]:  # noqa: ARG002
        raise ZeroDivisionError


class AsksNothing(InPieces):
    def send_piece(self, out: Outbound, piece: Piece) -> Steps:  # noqa: ARG002
        raise ZeroDivisionError
        yield self.request(out)


class ReadsNothing(InPieces):
    def send_piece(self, out: Outbound, piece: Piece) -> Steps:  # noqa: ARG002
        yield self.request(out)
        raise ZeroDivisionError


class Two(Sandbox):
    """Two places, which take everything."""

    def several(self) -> int:
        return 2

    def request_to(self, out: Outbound, which: Sequence[int]) -> Note:  # noqa: ARG002
        return self.request(out)

    def read_each(self, reply: Reply | NoReply, which: Sequence[int]) -> list[Outcome]:  # noqa: ARG002
        return [Sent(f"id {n}") for n in which]


class CountsNothing(Two):
    def several(self) -> int:
        raise ZeroDivisionError


class NamesNothing(Two):
    def request_to(self, out: Outbound, which: Sequence[int]) -> Note:  # noqa: ARG002
        raise ZeroDivisionError


class TellsOfOne(Two):
    def read_each(self, reply: Reply | NoReply, which: Sequence[int]) -> list[Outcome]:  # noqa: ARG002
        return [Sent("id")]


def accepted(adapter: Sandbox, client: redis.Redis, settings: Settings) -> tuple[Service, str]:
    """A message with a file that waits to be sent so."""
    service = Service(Store(client), settings, {("sandbox", "default"): adapter})
    attachments = (Attachment(keep(service, PNG, "a.png").file.id),)
    new = NewMessage("x", (Recipient("ana", "sandbox"),), attachments=attachments)
    return service, service.accept(new)[0].id


def tried(service: Service, message: str) -> Attempt:
    (attempt,) = service.store.attempts([f"{message}-0"])[f"{message}-0"]
    return attempt


@pytest.mark.parametrize(
    ("adapter", "ends"),
    [
        (CutsNothing, "retrying"),
        (AsksNothing, "retrying"),
        (ReadsNothing, "unknown"),
        (NamesNothing, "retrying"),
        (TellsOfOne, "unknown"),
    ],
)
def test_a_step_that_breaks_ends_the_attempt_alone(
    client: redis.Redis, settings: Settings, adapter: type[Sandbox], ends: str
) -> None:
    service, message = accepted(adapter(), client, settings)
    turn(service)
    assert state(service, message) == ends
    found = tried(service, message)
    assert found.outcome == ("retry" if ends == "retrying" else "unclear")
    assert found.reason == "internal error"
    assert {part and part.outcome for part in found.parts} <= {found.outcome}
    assert len(service.notes(10)) == (ends == "unknown")


def test_places_that_cannot_be_counted_are_tried_again(
    client: redis.Redis, settings: Settings
) -> None:
    service, message = accepted(Two(), client, settings)
    service.sender.attempts.accounts = {("sandbox", "default"): CountsNothing()}
    turn(service)
    assert (state(service, message), tried(service, message).outcome) == ("retrying", "retry")


def test_what_every_place_has_had_is_sent_and_goes_nowhere_again(
    client: redis.Redis, settings: Settings
) -> None:
    service, message = accepted(Two(), client, settings)
    client.set(f"pr:parts:{message}-0", '[["sent", "id 0"], ["sent", "id 1"]]')
    turn(service)
    assert (state(service, message), tried(service, message).provider_id) == ("sent", "id 1")
    assert service.notes(10) == []


def test_an_errand_always_comes_back() -> None:
    @dataclass(frozen=True, slots=True)
    class Unknown(Errand):
        pass

    carrier = Errands()
    assert carrier.carry(Unknown()) == NoReply(left=False, reason="internal error")
    server, box = Server.read("smtp://127.0.0.1:1"), Mailbox("a@example.org")
    letter = Letter(server, box, box, "id", "Hi", "Hi", files=(None,))  # type: ignore[arg-type]
    assert carrier.carry(letter) == NoReply(left=True, reason="internal error")
