"""Replies that no messenger should give."""

import gzip
import itertools
import json
from collections.abc import Callable, Iterator

from postrider.model import Recipient
from postrider.selftest.fake import Answer, Call, FakeMessenger
from tests.conftest import wait_until
from tests.reliability.rig import Rig, memory_mb

GROWS_MB = 20
MEGABYTE = 1024 * 1024


def huge() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MEGABYTE)
    yield from itertools.repeat(b"x" * MEGABYTE, 100)


def raw(text: bytes) -> Answer:
    return Answer(parts=[text])


def as_json(value: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


BOMB = gzip.compress(b"\0" * (50 * MEGABYTE))
UNCLEAR: dict[str, Callable[[], Answer]] = {
    "empty": lambda: Answer(200, b""),
    "HTML": lambda: Answer(200, b"<html>OK</html>", {"Content-Type": "text/html"}),
    "half JSON": lambda: Answer(200, b'{"ok": true, "result": {"mess'),
    "another kind of JSON": lambda: as_json([1, "two", None]),
    "wrong types": lambda: as_json(
        {"ok": "yes", "result": 7, "status": "0", "message_token": {}, "messages": {"id": 1}}
    ),
    "ok without an id": lambda: as_json({"ok": True, "status": 0, "messages": []}),
    "100 MB": lambda: Answer(parts=huge()),
    "gzip bomb": lambda: Answer(200, BOMB, {"Content-Encoding": "gzip"}),
    "bad charset": lambda: Answer(200, b'{"ok": \xff\xfe}', {"Content-Type": "text/x; charset=?"}),
    "deep JSON": lambda: Answer(200, b"[" * 60_000),
    "no HTTP": lambda: raw(b"banana\r\n\r\n"),
    "shorter than it says": lambda: raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"),
}
REJECTED: dict[str, dict[str, object]] = {
    "telegram": {"ok": False, "error_code": 403, "description": "Forbidden: bot was kicked"},
    "viber": {"status": 6, "status_message": "receiverNotSubscribed"},
    "whatsapp": {"error": {"code": 131026, "message": "Message undeliverable"}},
}
"""A refusal that comes with a 200."""
ADDRESS: dict[str, Callable[[int], str]] = {
    "telegram": lambda n: f"{n + 1}",
    "viber": lambda n: f"{n}==",
    "whatsapp": lambda n: f"+49151{n:08}",
}


def test_a_malformed_reply_kills_no_worker_and_counts_as_what_it_is(
    rig: Rig, messenger: FakeMessenger, long: bool
) -> None:
    """Empty, HTML, half JSON, 200 with ok:false, wrong types, 100 MB, gzip bomb, bad charset and others, from each
    messenger; long: 20 times over. A good one after each, as no messenger is bad all the time.

    Worker deaths 0; each in the right class; the worker's memory never grows by more than 20 MB.
    """
    kinds = [*UNCLEAR, "refused with a 200"]
    expected: dict[str, str] = {}
    answers: dict[str, Callable[[], Answer]] = {}

    def script(call: Call) -> Answer | None:
        return answers[call.to]() if call.to in answers else None

    messenger.script = script
    worker = rig.fleet.start("worker", RETRY_COUNT="0", WORKER_CONCURRENCY="1")
    rig.fleet.wait_ready()
    pid = worker.pid
    rig.post([Recipient(address(0), service) for service, address in ADDRESS.items()])
    wait_until(lambda: len(messenger.calls) == 3, 15, "warm")
    before = memory_mb(pid, "VmHWM")
    numbers = itertools.count(1)
    for _ in range(20 if long else 1):
        for kind, service in itertools.product(kinds, ADDRESS):
            to = ADDRESS[service](next(numbers))
            if kind in UNCLEAR:
                answers[to], expected[to] = UNCLEAR[kind], "unclear"
            else:
                refusal = REJECTED[service]
                answers[to], expected[to] = (lambda said=refusal: as_json(said)), "rejected"
            rig.post([Recipient(to, service)])
            good = ADDRESS[service](next(numbers))
            expected[good] = "sent"
            rig.post([Recipient(good, service)])
    found: dict[str, str] = {}

    def all_judged() -> bool:
        tried = rig.store.attempts(rig.ids[3:])
        addresses = [each.uuid for post in rig.posts[1:] for each in post.recipients]
        outcomes = zip(addresses, tried.values(), strict=True)
        found.update({to: attempts[0].outcome for to, attempts in outcomes if attempts})
        return len(found) == len(expected)

    wait_until(all_judged, 300 if long else 60, "an attempt at each on record")
    grown = memory_mb(pid, "VmHWM") - before
    print(f"{len(answers)} malformed replies, memory at its highest +{grown:.1f} MB")
    assert found == expected
    assert worker.pid == pid
    assert grown <= GROWS_MB
