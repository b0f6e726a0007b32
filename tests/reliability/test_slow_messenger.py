"""A messenger that is slow in every way there is."""

import itertools
import socket
from collections.abc import Iterator

import pytest

from postrider.model import Recipient
from postrider.selftest.fake import Answer, Call, FakeMessenger, yes
from tests.conftest import wait_until
from tests.reliability.rig import Rig

LONGEST_S = 31


@pytest.fixture
def hangs() -> Iterator[str]:
    """The URL of one whom nobody can reach: what knocks is never let in."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        queue = [socket.socket() for _ in range(4)]
        for each in queue:  # once it is full, the kernel drops what comes
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for each in queue:
            each.close()


def byte_by_byte(call: Call) -> Iterator[bytes]:
    body = yes(call, 1).body
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    return (bytes([each]) for each in whole)


def slow(call: Call) -> Answer:
    if call.service == "telegram":
        return Answer(parts=byte_by_byte(call), every_s=1.0)
    headers = itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X-More: to come\r\n"))
    return Answer(parts=headers, every_s=1.0)


@pytest.fixture
def fleet_env(fleet_env: dict[str, str], hangs: str) -> dict[str, str]:
    return fleet_env | {"WHATSAPP_API_URL": hangs}


@pytest.mark.minutes
def test_no_attempt_lasts_longer_than_its_limit(
    rig: Rig, messenger: FakeMessenger, long: bool
) -> None:
    """Telegram answers 1 byte a second, Viber's headers never end, WhatsApp lets nobody connect; 20 each, long: 100.

    Every attempt ends within 31 s, and none of them as sent.
    """
    count = 100 if long else 20
    messenger.script = slow
    rig.start(workers=1)
    for n in range(count):
        addresses = ((f"{n + 1}", "telegram"), (f"{n}==", "viber"), (f"+49151{n:08}", "whatsapp"))
        rig.post([Recipient(*address) for address in addresses])
    found: list[float] = []

    def all_tried() -> bool:
        tried = rig.store.attempts(rig.ids)
        found[:] = [
            (attempt.ended_at - attempt.started_at).total_seconds()
            for attempts in tried.values()
            for attempt in attempts
        ]
        outcomes = {attempt.outcome for attempts in tried.values() for attempt in attempts}
        assert "sent" not in outcomes
        return all(tried.values())

    wait_until(all_tried, 300 if long else 45, "an attempt at each on record")
    print(f"{len(found)} attempts, the longest {max(found):.2f} s")
    messenger.shut()  # else the worker waits for the next attempts at its end
    assert max(found) <= LONGEST_S
