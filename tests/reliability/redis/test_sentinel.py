"""Redis behind Sentinel: three of them, a master and two replicas, and the master lost in more than one way."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import redis

from postrider import link
from postrider.link import connect
from tests.conftest import Api, Postrider, wait_until
from tests.fake import FakeMessenger
from tests.reliability.redis.conftest import (
    GENEROUS_S,
    Load,
    Run,
    Server,
    match,
    nothing_wrong,
    status,
)

MAX_LAG_S = 3
DOWN_AFTER_S = 2
PASSWORD = "planted-redis-secret"


@dataclass
class Trio:
    """Three Sentinels, and the servers that they watch."""

    servers: list[Server]
    sentinels: list[Server]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/post.rider-1/0?sentinel_password={PASSWORD}"

    def master(self) -> Server | None:
        """The one that all Sentinels name."""
        ports = {sentinel.ask("SENTINEL", *ADDRESS)[1] for sentinel in self.sentinels}
        return next((s for s in self.servers if {str(s.port)} == ports), None)


ADDRESS = ("GET-MASTER-ADDR-BY-NAME", "post.rider-1")


class Guarded(Server):
    """A server that wants a password."""

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port, password=PASSWORD, decode_responses=True, socket_timeout=30
        )

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, password=PASSWORD, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    """All of it, once every replica and every Sentinel knows of every other."""
    flags = (
        *("--appendonly", "yes", "--requirepass", PASSWORD, "--masterauth", PASSWORD),
        *("--min-replicas-to-write", "1", "--min-replicas-max-lag", str(MAX_LAG_S)),
        *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
    )
    servers = [Guarded(tmp_path / f"server{n}", flags) for n in range(3)]
    first = servers[0]
    sentinels = []
    for n in range(3):
        folder = tmp_path / f"sentinel{n}"
        folder.mkdir()
        name = "post.rider-1"
        (folder / "sentinel.conf").write_text(
            f"requirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n"
            f"sentinel monitor {name} 127.0.0.1 {first.port} 2\nsentinel auth-pass {name} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {name} {DOWN_AFTER_S * 1000}\n"
            f"sentinel failover-timeout {name} 6000\n"
        )
        sentinels.append(Sentinel(folder))
    found = Trio(list(servers), list(sentinels))
    try:
        first.start()
        for replica in servers[1:]:
            replica.start("--replicaof", "127.0.0.1", str(first.port))
        wait_until(lambda: first.info("connected_slaves") == 2, GENEROUS_S, "both replicas")
        for sentinel in sentinels:
            sentinel.start()
        wait_until(lambda: all(s.knows_all() for s in sentinels), GENEROUS_S, "Sentinels meet")
        yield found
    finally:
        for each in (*sentinels, *servers):
            each.end()


class Sentinel(Guarded):
    """One Sentinel; its folder holds its file."""

    def start(self, *more: str) -> Self:
        command = [self.program, "sentinel.conf", "--sentinel", "--port", str(self.port), *more]
        with (self.folder / "sentinel.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log)
        wait_until(self.answers, GENEROUS_S, "a Sentinel answers")
        return self

    def knows_all(self) -> bool:
        (master,) = self.ask("SENTINEL", "MASTERS")
        return (master["num-slaves"], master["num-other-sentinels"]) in {("2", "2"), (2, 2)}


@pytest.mark.minutes
@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_failover_loses_no_more_than_the_lag(
    how: str,
    trio: Trio,
    run: Run,
    live: Api,
    env: dict[str, str],
    messenger: FakeMessenger,
    long: bool,
) -> None:
    """The master killed, or frozen for 30 s (short: until it is replaced), under load; then it is back, as a replica.

    Figure: acknowledged and lost <= what was accepted within the largest lag before it (min-replicas-max-lag), each
    found by comparing; nothing sent though refused; accepted again without a restart.
    """
    env["REDIS_URL"] = trio.url
    run()
    master = trio.servers[0]
    with Load(live) as load:
        load.wait_for_accepted(200)
        lost_at = time.monotonic()
        master.kill() if how == "killed" else master.hang()
        wait_until(lambda: trio.master() not in {None, master}, GENEROUS_S, "a new master")
        new_at = time.monotonic()
        wait_until(lambda: load.accepted_since(new_at), GENEROUS_S, "accepted by the new one")
        back_after_s = time.monotonic() - new_at
        load.wait_for_accepted(100)
        if how == "hung":
            while long and time.monotonic() < lost_at + 30:
                load.wait_for_accepted(10)
            master.go_on()
        else:
            master.start()
        wait_until(lambda: master.info("role") == "slave", GENEROUS_S, "the old one is a replica")
        load.wait_for_accepted(100)
        wait_until(lambda: status(live, "/readyz") == 200, GENEROUS_S)
    with connect(trio.url) as client:
        found = match(load.posts, messenger, client, 20)
    late = {
        to
        for post in load.posts
        if post.accepted and lost_at - MAX_LAG_S <= post.at + post.took_s
        for to in post.to
    }
    slowest_s = max(post.took_s for post in load.posts)
    print(found, f"; back {back_after_s:.2f} s after the new master, slowest {slowest_s:.2f} s")
    assert set(found.lost) <= late, found
    assert set(found.silent_doubles) <= late, found  # only the old master had the first on record
    assert (found.sent_though_refused, found.halves) == ([], [])
    assert back_after_s <= 5
    assert {p.status for p in load.posts} <= {200, 503}


@pytest.mark.minutes
def test_without_a_replica_nothing_is_accepted(
    trio: Trio, run: Run, live: Api, env: dict[str, str], messenger: FakeMessenger
) -> None:
    """Both replicas frozen under load, then woken.

    Figure: from MAX_LAG_S (and Redis's own second) on each POST is a 503 that says so; accepted again <= 5 s after they
    are back; lost 0.
    """
    env["REDIS_URL"] = trio.url
    run()
    with Load(live) as load:
        load.wait_for_accepted(50)
        for replica in trio.servers[1:]:
            replica.hang()
        hung_at = time.monotonic()
        wait_until(lambda: "NOREPLICAS" in live.get("/readyz").text, GENEROUS_S)
        assert time.monotonic() - hung_at <= MAX_LAG_S + 2 + 1
        refused_at = time.monotonic()
        wait_until(lambda: len([p for p in load.posts if p.at > refused_at]) > 10, GENEROUS_S)
        assert not load.accepted_since(refused_at)
        for replica in trio.servers[1:]:
            replica.go_on()
        on_at = time.monotonic()
        wait_until(lambda: load.accepted_since(on_at), 5, figure=True)
        load.wait_for_accepted(20)
    with connect(trio.url) as client:
        found = match(load.posts, messenger, client)
    print(found)
    assert nothing_wrong(found), found


def test_a_hung_and_a_dead_sentinel_are_passed_over(trio: Trio) -> None:
    """The first Sentinel of the URL frozen, the second killed. Figure: a new client writes <= 3 s."""
    trio.sentinels[0].hang()
    trio.sentinels[1].kill()
    started = time.monotonic()
    with connect(trio.url) as client:
        client.set("written", "yes")
    assert time.monotonic() - started <= 3
    assert trio.servers[0].ask("GET", "written") == "yes"


def test_asyncio_finds_the_same_master(trio: Trio) -> None:
    async def write() -> None:
        async with await link.connect_async(trio.url) as client:
            await client.set("written", "yes")

    asyncio.run(write())
    assert trio.servers[0].ask("GET", "written") == "yes"


def test_it_is_looked_at_before_the_start(
    trio: Trio, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("preflight", REDIS_URL=trio.url) == 0
    trio.servers[0].ask("CONFIG", "SET", "min-replicas-to-write", "0")
    assert postrider("preflight", REDIS_URL=trio.url) == 0
    assert "min-replicas-to-write 0" in capsys.readouterr().err
    trio.servers[0].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert postrider("preflight", REDIS_URL=trio.url) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "CONFIG SET maxmemory-policy noeviction" in said
    assert postrider("preflight", REDIS_URL=trio.url.replace("post.rider-1", "other")) == 2
    said = capsys.readouterr().err
    assert "knows no other" in said
    wrong = trio.url.replace(f"={PASSWORD}", "=planted-wrong")
    assert postrider("preflight", REDIS_URL=wrong) == 2
    said += capsys.readouterr().err
    assert "planted" not in said
