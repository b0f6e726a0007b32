"""Redis runs out of memory, or out of disk: nothing more is accepted, what was accepted goes out."""

import contextlib
import itertools
import resource
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postrider.errors import Unavailable
from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.room import FULL
from postrider.service import Service
from tests.conftest import Api, Start, wait_until
from tests.fake import FakeMessenger
from tests.reliability.redis.conftest import (
    GENEROUS_S,
    Load,
    Run,
    Serve,
    Server,
    match,
    newer_server,
    nothing_wrong,
    status,
)

SMALL = ("--appendonly", "yes", "--maxmemory", "16mb")
SANDBOX = {"uuid": "1", "service": "sandbox"}


@pytest.fixture
def server(serve: Serve, env: dict[str, str]) -> Server:
    """A Redis of 16 MB, the one of this service."""
    found = serve(*SMALL).start()
    env["REDIS_URL"] = found.url
    return found


def fill(server: Server, share: float) -> None:
    """Puts ballast in until that share of the memory is used."""
    limit = int(server.info("maxmemory"))
    with server.client as client:
        number = 0
        while server.info("used_memory") < share * limit:
            client.set(f"ballast{number}", "x" * 100_000)
            number += 1


def empty(server: Server) -> None:
    with server.client as client:
        client.delete(*client.scan_iter("ballast*"))


@pytest.mark.minutes
def test_from_85_percent_on_nothing_is_accepted_and_what_was_goes_out(
    server: Server, run: Run, live: Api, messenger: FakeMessenger, long: bool
) -> None:
    """Redis filled to 90 % under load, with deliveries still to come, and emptied again; 10 times (short: 2).

    Figure: from then on each POST is a 503 with Retry-After; the drain goes on; accepted again <= 10 s after there is
    room; accepted and lost 0, half-written 0.
    """
    # Newer Redis count Lua's garbage as memory in use, of which there may be a megabyte now and none in a moment.
    server.ask("CONFIG", "SET", "maxmemory", "64mb")
    run()
    posts = []
    for _ in range(10 if long else 2):
        later = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
        waits = Load(live, clients=1, recipients=300, send_at=later)
        posts.append(waits.post(live))
        with Load(live) as load:
            load.wait_for_accepted(20)
            fill(server, FULL + 0.05)
            full_at = time.monotonic()
            wait_until(lambda at=full_at: any(p.at > at + 1 and p.refused for p in load.posts))
            said = [p for p in load.posts if p.at > full_at + 1]  # it looks a few times a second
            assert all(p.refused and "Redis is full" in p.answer["error"] for p in said)
            asked = live.post("/send_message", json={"body": "x", "recipients": [SANDBOX]})
            assert (asked.status_code, asked.headers["Retry-After"]) == (503, "5")
            ready = live.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["error"].startswith("Redis is full, ")
            # The drain: what fell due meanwhile goes out.
            wait_until(lambda to=posts[-1].to: set(to) <= {c.to for c in messenger.calls}, 30)
            empty(server)
            room_at = time.monotonic()
            wait_until(lambda at=room_at: load.accepted_since(at), 10, figure=True)
            load.wait_for_accepted(10)
        posts += load.posts
    with connect(server.url) as client:
        found = match(posts, messenger, client)
    print(found)
    assert nothing_wrong(found), found


@pytest.mark.parametrize("recipients", [1, 2500])
def test_whatever_fits_in_can_be_sent(
    recipients: int,
    start: Start,
    service: Service,
    server: Server,
    messenger: FakeMessenger,
    long: bool,
) -> None:
    """Messages are accepted until Redis is full of nothing else; only then a worker starts.

    Figure: all that was accepted goes out and is recorded, and Redis never refuses a write; half-written 0.
    """
    if long:
        server.ask("CONFIG", "SET", "maxmemory", "64mb")
    accepted = set()
    numbers = itertools.count(1_000_000)
    with contextlib.suppress(Unavailable):
        while True:
            to = [str(next(numbers)) for _ in range(recipients)]
            service.accept(NewMessage("Hello", tuple(Recipient(uuid, "telegram") for uuid in to)))
            accepted.update(to)
    share = server.info("used_memory") / server.info("maxmemory")
    start("postrider", "worker")
    finished = 10 * GENEROUS_S if long else 2 * GENEROUS_S
    wait_until(lambda: service.finished(1, None).total == len(accepted), finished, "all is sent")
    peak = server.info("used_memory_peak") / server.info("maxmemory")
    print(len(accepted), f"accepted; {share:.0%} used when refused, {peak:.0%} at most")
    assert Counter(call.to for call in messenger.calls) == dict.fromkeys(accepted, 1)
    assert "errorstat_OOM" not in server.ask("INFO", "errorstats")
    assert not list(service.store.redis.scan_iter("pr:accepting"))


def stored(server: Server) -> set[str]:
    """All keys but those that count and log what is asked."""
    aside = ("pr:audit", "pr:metrics", "pr:tries")
    return {key for key in server.ask("KEYS", "*") if not key.startswith(aside)}


def test_a_message_that_would_cross_the_line_is_refused_before_it_is_written(
    server: Server, run: Run, live: Api
) -> None:
    """A message to 50,000 while there is room for a small one, in a Redis of 16 MB.

    Figure: 503, and not a key more than before; the small one is taken.
    """
    run("api")
    small = Load(live, recipients=1, send_at="2030-10-05 13:48:00")
    assert small.post(live).accepted
    keys = stored(server)
    large = Load(live, recipients=50_000, send_at="2030-10-05 13:48:00").post(live)
    assert large.refused
    assert "this message is too large to be accepted" in large.answer["error"]
    assert stored(server) == keys
    assert small.post(live).accepted


def test_a_full_redis_is_no_reason_not_to_come_up(server: Server, run: Run, start: Start) -> None:
    """./run.sh takes back what it started when `await-ready` fails, and then nothing could make room."""
    fill(server, FULL + 0.05)
    run("api", "worker", ready=False)
    assert start("postrider", "await-ready").wait(GENEROUS_S) == 0


def test_one_that_knows_no_limit_is_never_full(
    serve: Serve, run: Run, live: Api, env: dict[str, str]
) -> None:
    """maxmemory 0. Figure: none; messages are taken."""
    env["REDIS_URL"] = serve().start().url
    run("api")
    assert Load(live, recipients=5000, send_at="2030-10-05 13:48:00").post(live).accepted


@pytest.mark.minutes
@pytest.mark.parametrize("newer", [False, True])
def test_a_full_disk_stops_accepting_and_loses_nothing(
    newer: bool,
    serve: Serve,
    run: Run,
    live: Api,
    env: dict[str, str],
    messenger: FakeMessenger,
    long: bool,
) -> None:
    """Redis may not write more to its file (as on a full disk), then may again; 10 times (short: 2).

    Figure: 503, not ready, in words; accepted again <= 5 s after there is room; accepted then lost 0.
    """
    more: dict[str, Any] = {"program": newer_server()} if newer else {}
    server = serve("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0", **more).start()
    env["REDIS_URL"] = server.url
    run()
    with Load(live) as load:
        for _ in range(10 if long else 2):
            load.wait_for_accepted(20)
            (file,) = server.folder.glob("appendonlydir/*.incr.aof")
            server.limit_files(file.stat().st_size + 4096)
            wait_until(lambda: "MISCONF" in live.get("/readyz").text, GENEROUS_S)
            full_at = time.monotonic()
            wait_until(lambda at=full_at: len([p for p in load.posts if p.at > at]) > 10)
            assert not load.accepted_since(full_at)
            server.limit_files(resource.RLIM_INFINITY)
            room_at = time.monotonic()
            wait_until(lambda at=room_at: load.accepted_since(at), GENEROUS_S)
            assert time.monotonic() - room_at <= 5
            wait_until(lambda: status(live, "/readyz") == 200)
    said = {p.answer["error"].partition(" file")[0] for p in load.posts if p.refused}
    assert said == {"Redis takes no writes: MISCONF Errors writing to the AOF"}
    server.kill()
    server.start()  # the file has it all
    with connect(server.url) as client:
        found = match(load.posts, messenger, client)
    print(found)
    assert nothing_wrong(found), found
