"""Redis stops answering without going away: frozen, or still reading its file."""

import threading
import time
from pathlib import Path

import pytest

from postrider.link import connect
from tests.conftest import Api, wait_until
from tests.fake import FakeMessenger
from tests.reliability.redis.conftest import (
    GENEROUS_S,
    Load,
    Post,
    Run,
    Serve,
    Server,
    match,
    nothing_wrong,
)

CLIENTS = 50
THREADS = 1 + 2 * (1 + 64 + 5)
"""gunicorn's own, and in each of its processes one that hands out, 64 that answer, one each that sweeps, writes down counts,
raises alerts, asks for Redis, and hangs up on slow clients."""
ASKED_S = 3.0
ROOM_S = 1.0
"""For the test's own 50 threads, which ask for nothing else at the same moment."""


def all_at_once(load: Load, live: Api) -> list[Post]:
    """One POST of each of the clients, all at the same moment."""
    ready = threading.Barrier(CLIENTS)
    found: list[Post] = []

    def post() -> None:
        with Api(live.url) as api:
            ready.wait()
            found.append(load.post(api))

    threads = [threading.Thread(target=post) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GENEROUS_S)
    return found


def threads_of(pid: int) -> int:
    """How many threads the processes of this session have."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        count += int(fields[17]) if int(fields[3]) == pid else 0
    return count


@pytest.mark.minutes
def test_a_hung_redis_keeps_nobody_waiting(
    server: Server, run: Run, live: Api, messenger: FakeMessenger, long: bool
) -> None:
    """Redis frozen (SIGSTOP) under load for 20 s (short: 6), and 50 clients who post at once, twice.

    Figure: each POST, and /readyz, is answered <= 3 s, without more threads; accepted again <= 5 s after Redis goes on;
    lost 0, silent doubles 0.
    """
    api, _ = run()
    crowd: list[Post] = []
    with Load(live) as load:
        load.wait_for_accepted(100)
        crowd += all_at_once(load, live)
        server.hang()
        hung_at = time.monotonic()
        hung = all_at_once(load, live)
        while time.monotonic() < hung_at + (20 if long else 6):
            hung += all_at_once(load, live)
            asked_at = time.monotonic()
            ready = live.get("/readyz")
            assert time.monotonic() - asked_at <= ASKED_S
            assert ready.status_code == 503
            assert ready.json() == {"error": "Redis does not answer; try again"}
            assert live.get("/healthz").status_code == 200
            assert threads_of(api.pid) <= THREADS
        server.go_on()
        on_at = time.monotonic()
        wait_until(lambda: load.accepted_since(on_at), GENEROUS_S)
        back_after_s = (
            min(p.at + p.took_s for p in load.posts if p.accepted and p.at > on_at) - on_at
        )
        load.wait_for_accepted(50)
    during = hung + [p for p in load.posts if hung_at < p.at < on_at - ASKED_S - ROOM_S]
    slowest_s = max(post.took_s for post in during)
    with connect(server.url) as client:
        found = match(load.posts + crowd + hung, messenger, client)
    print(
        len(during), "answers, slowest", round(slowest_s, 2), "s; back after", back_after_s, found
    )
    assert {post.status for post in during} == {503}
    assert slowest_s <= ASKED_S + ROOM_S
    assert back_after_s <= 5
    assert nothing_wrong(found), found


@pytest.mark.minutes
def test_a_redis_that_reads_its_file_is_waited_for(
    serve: Serve, run: Run, live: Api, env: dict[str, str], messenger: FakeMessenger, long: bool
) -> None:
    """Redis restarted under load with a file that takes it seconds to read.

    Figure: 503 in words meanwhile; accepted again <= 5 s after it has read; lost 0.
    """
    server = serve("--appendonly", "yes", "--aof-use-rdb-preamble", "no").start()
    env["REDIS_URL"] = server.url
    run()
    with server.client as client, client.pipeline() as many:
        for number in range(200_000 if long else 15_000):
            many.set(f"ballast{number}", "x")
        many.execute()
    with Load(live) as load:
        load.wait_for_accepted(50)
        server.kill()
        # It looks up from its file every 1,024 commands.
        restart = threading.Thread(target=server.start, args=["--key-load-delay", "50"])
        restart.start()
        wait_until(
            lambda: any(p.answer.get("error") == "Redis still reads its file" for p in load.posts),
            GENEROUS_S,
        )
        restart.join(GENEROUS_S)
        there_at = time.monotonic()
        wait_until(lambda: load.accepted_since(there_at), 5, figure=True)
        load.wait_for_accepted(20)
    with connect(server.url) as client:
        found = match(load.posts, messenger, client)
    assert nothing_wrong(found), found
