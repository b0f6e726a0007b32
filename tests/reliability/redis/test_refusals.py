"""A Redis that cannot keep a promise: no start on it, one clear line each; and a running service that waits until it can."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field

import pytest

from postrider.link import connect
from postrider.selftest.fleet import free_port
from tests.conftest import Api, Postrider, wait_until
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

KEEPS = ("--appendonly", "yes")
Older = Callable[[int, int], int]


@dataclass(frozen=True)
class Case:
    """A Redis with these flags, reached at `host`, and what is said of it."""

    says: str
    flags: tuple[str, ...] = KEEPS
    host: str = "127.0.0.1"
    settings: dict[str, str] = field(default_factory=dict)
    older: bool = False
    """Said to be of 7.0, whatever it is."""


CASES = {
    "no file": Case("CONFIG SET appendonly yes", ()),
    "evicts": Case(
        "CONFIG SET maxmemory-policy noeviction", (*KEEPS, "--maxmemory-policy", "allkeys-lru")
    ),
    "no password": Case(
        "0.0.0.0 is another machine and the URL holds no password",
        (*KEEPS, "--bind", "0.0.0.0", "--protected-mode", "no"),
        host="0.0.0.0",  # no loopback address, and yet this machine
    ),
    "never fsyncs": Case(
        "CONFIG SET appendfsync everysec, and the same", (*KEEPS, "--appendfsync", "no")
    ),
    "a replica": Case(
        "is a replica, which takes no writes", (*KEEPS, "--replicaof", "127.0.0.1 1")
    ),
    "always, and cannot say": Case(
        "CONFIG SET appendfsync always, and the same in redis.conf, or take 7.2 or newer",
        settings={"DURABILITY": "always"},
        older=True,
    ),
    "wrong password": Case(
        "refuses us", (*KEEPS, "--requirepass", "right"), host=":wrong@127.0.0.1"
    ),
}


@pytest.mark.parametrize("command", ["preflight", "api", "worker"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_redis_that_cannot_keep_a_promise_is_refused(
    case: Case,
    command: str,
    serve: Serve,
    older: Older,
    postrider: Postrider,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Started on such a Redis. Figure: all refused, exit code 2, one line each, with what to do."""
    server = serve(*case.flags) if case.flags else serve("--appendonly", "no")
    no_password(server)
    port = older(server.port, 7) if case.older else server.port
    url = f"redis://{case.host}:{port}"
    assert postrider(command, REDIS_URL=url, BIND=f"127.0.0.1:{free_port()}", **case.settings) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert case.says in said
    assert "planted" not in said


def no_password(server: Server) -> None:
    """Starts one that may want a password of which the test's own questions know nothing."""
    server.answers = lambda: reachable(server.port)  # type: ignore[method-assign]
    server.start()


def reachable(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.parametrize("case", ["no file", "never fsyncs"])
def test_a_loss_accepted_in_so_many_words_is_no_reason(
    case: str, serve: Serve, postrider: Postrider
) -> None:
    server = serve(*(CASES[case].flags or ("--appendonly", "no"))).start()
    free = f"127.0.0.1:{free_port()}"
    assert postrider("preflight", REDIS_URL=server.url, DURABILITY="none", BIND=free) == 0


def test_a_newer_one_is_asked_instead_of_refused(serve: Serve, postrider: Postrider) -> None:
    """appendfsync everysec and DURABILITY=always, on a Redis that knows WAITAOF."""
    server = serve(*KEEPS, program=newer_server()).start()
    free = f"127.0.0.1:{free_port()}"
    assert postrider("preflight", REDIS_URL=server.url, DURABILITY="always", BIND=free) == 0


class OlderThanItIs:
    """Carries bytes between a client and Redis, and tells the client that Redis is of version MAJOR.0."""

    def __init__(self, port: int, major: int) -> None:
        self._there = port
        self._major = str(major)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                redis = socket.create_connection(("127.0.0.1", self._there))
                for ends in ((client, redis), (redis, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                sink.sendall(re.sub(rb"(?<=redis_version:)\d+\.\d+", self._version, data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _version(self, found: re.Match[bytes]) -> bytes:
        major, minor = found[0].decode().split(".")  # as many bytes as there were
        return f"{self._major.zfill(len(major))}.{'0' * len(minor)}".encode()


@pytest.fixture
def older() -> Iterator[Older]:
    """Gives the port of a Redis that seems to be of that version, for the port of any."""
    with ExitStack() as stack:

        def there(port: int, major: int) -> int:
            return stack.enter_context(closing(OlderThanItIs(port, major))).port

        yield there


@pytest.mark.parametrize("command", ["preflight", "api", "worker", "doctor"])
def test_too_old_a_redis_is_refused(
    command: str,
    serve: Serve,
    older: Older,
    postrider: Postrider,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Figure: refused, one clear line."""
    words = [command, "--json"] if command == "doctor" else [command]
    url = f"redis://127.0.0.1:{older(serve(*KEEPS).start().port, 6)}"
    code = postrider(*words, REDIS_URL=url, BIND=f"127.0.0.1:{free_port()}")
    out, err = capsys.readouterr()
    if command == "doctor":
        (check,) = [c for c in json.loads(out)["checks"] if c["name"] == "durability"]
        assert (code, check["state"]) == (1, "fault")
        assert check["detail"].endswith("is too old")
    else:
        assert code == 2
        assert re.fullmatch(r"postrider: Redis 6\S+ is too old: 7\.0 or newer is needed\n", err)


# -- while it runs


def becomes_a_replica(server: Server) -> None:
    server.ask("REPLICAOF", "127.0.0.1", "1")


def becomes_a_master(server: Server) -> None:
    server.ask("REPLICAOF", "NO", "ONE")


def wants_a_replica(server: Server) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", "1")


def wants_none(server: Server) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("turn", "back", "says"),
    [
        (becomes_a_replica, becomes_a_master, "can't write against a read only replica"),
        (wants_a_replica, wants_none, "NOREPLICAS Not enough good replicas"),
    ],
)
def test_a_redis_that_takes_no_writes_is_waited_for(
    turn: Callable[[Server], None],
    back: Callable[[Server], None],
    says: str,
    server: Server,
    run: Run,
    live: Api,
    messenger: FakeMessenger,
    postrider: Postrider,
    capsys: pytest.CaptureFixture[str],
    long: bool,
) -> None:
    """Redis made a replica, or left without one that it must have, under load, and back; 10 times (short: 2).

    Figure: 503 in words, not ready, the doctor says it; ready and accepting <= 5 s after; lost 0, silent doubles 0.
    """
    run()
    with Load(live) as load:
        for _ in range(10 if long else 2):
            load.wait_for_accepted(20)
            turn(server)
            wait_until(lambda: says in live.get("/readyz").text)
            refused = len(load.posts)
            wait_until(lambda before=refused: len(load.posts) > before + 20)
            assert {p.status for p in load.posts[refused + 4 :]} == {503}
            assert says in load.posts[-1].answer["error"]
            assert postrider("doctor") == 1
            assert says in capsys.readouterr().out
            back(server)
            wait_until(lambda: status(live, "/readyz") == 200, 5, figure=True)
        load.wait_for_accepted(20)
    with connect(server.url) as client:
        found = match(load.posts, messenger, client)
    print(found)
    assert nothing_wrong(found), found


def test_a_worker_that_starts_before_redis_takes_writes_waits(
    server: Server, run: Run, live: Api, messenger: FakeMessenger
) -> None:
    """Figure: it is at work <= 5 s after Redis takes writes, without a restart."""
    wants_a_replica(server)
    api, worker = run("api"), run("worker", ready=False)[0]
    with Load(live, clients=1) as load:
        wait_until(lambda: len(load.posts) > 20, GENEROUS_S)
        assert not any(post.accepted for post in load.posts)
        wants_none(server)
        wait_until(lambda: status(live, "/readyz") == 200, GENEROUS_S)
        load.wait_for_accepted(5)
    assert (api[0].poll(), worker.poll()) == (None, None)
    with connect(server.url) as client:
        assert nothing_wrong(match(load.posts, messenger, client))
