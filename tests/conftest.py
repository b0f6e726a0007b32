"""What tests stand on: a real Redis of their own, the real application, real worker processes, a messenger on loopback."""

import base64
import contextlib
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import coverage
import pytest
import redis
import requests
from werkzeug.serving import make_server

from postrider import cli, embedded
from postrider.link import connect
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.web import create_app
from tests.fake import FakeMessenger

logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a failure drowns in access lines
PASSWORD = "planted-api-secret"
ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
POSTRIDER = BIN / "postrider"
CTRL_C = b"\x03"
patience = 1
"""How many times as long as they say waits wait."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="what takes long, too")


def pytest_configure(config: pytest.Config) -> None:
    """Beside other tests a wait may take longer, as they need the machine, too; alone, and in the long form, it may not."""
    global patience  # noqa: PLW0603 - asked for where no fixture reaches
    beside_others = hasattr(config, "workerinput")
    patience = 3 if beside_others and not config.getoption("--long", default=False) else 1


def names_tests(config: pytest.Config) -> bool:
    """Whether the command line says which tests it is about; a process of pytest-xdist is told by who started it."""
    if (told := getattr(config, "workerinput", None)) is not None:
        return bool(told["names_tests"])
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return named or bool(config.option.keyword or config.option.markexpr)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """What the process behind `node` could not know: it gets all paths spelled out."""
    node.workerinput["names_tests"] = names_tests(node.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes, unless the command line names tests or asks for the long form."""
    if config.getoption("--long") or names_tests(config):
        return
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("minutes")])
    items[:] = [i for i in items if not i.get_closest_marker("minutes")]


def pytest_sessionfinish() -> None:
    """Saves what was measured at once: pytest-xdist kills a worker that is slow to exit, and its figures with it."""
    if (measured := coverage.Coverage.current()) is not None:
        measured.save()


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form is asked for."""
    return bool(request.config.getoption("--long", default=False))


def wait_until(
    condition: Callable[[], object], within_s: float = 10.0, what: str = "", *, figure: bool = False
) -> None:
    """Polls `condition` until it holds; fails loudly when it does not in time. A `figure` is asked for as it stands."""
    limit_s = within_s if figure else within_s * patience
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s} s: {what or condition}")
        time.sleep(0.01)


def leases_run_out(client: redis.Redis, jobs: Iterable[bytes] | None = None) -> None:
    """Who held these jobs, or all, has died so long ago that the next sweep takes them over."""
    held = client.zrange("pr:leases", 0, -1) if jobs is None else jobs
    for job in held:
        client.zadd("pr:leases", {job: 1})
    client.set("pr:swept", time.time())  # Redis was not away meanwhile
    client.delete("pr:patience")


@contextlib.contextmanager
def redis_with(folder: Path, *flags: str) -> Iterator[str]:
    """The URL of a Redis of its own, with these flags, that works in `folder`."""
    sock = folder / "s.sock"
    command = [embedded.find_server(), "--port", "0", "--unixsocket", sock, "--save", "", *flags]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log)
    try:
        wait_until(lambda: answers(sock), what="Redis")
        yield f"unix://{sock}"
    finally:
        server.terminate()
        server.wait(10 * patience)


def answers(sock: Path) -> bool:
    """Whether a Redis serves this socket: it is there a moment before anybody listens."""
    with redis.Redis(unix_socket_path=str(sock)) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that belongs to this session alone; in memory where that can be: a slow disk would stop it."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        redis_with(Path(folder), "--appendonly", "yes") as url,
    ):
        yield url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of that Redis, empty."""
    with connect(redis_url) as found:
        found.flushall()
        yield found


@pytest.fixture
def messenger() -> Iterator[FakeMessenger]:
    """Telegram, Viber and WhatsApp, all on loopback."""
    with FakeMessenger() as fake:
        yield fake


@pytest.fixture
def mailserver() -> Iterator[Any]:
    """A mail server that takes everything."""
    from tests.mailserver import MailServer  # noqa: PLC0415 - for those few who ask for it

    with MailServer() as server:
        yield server


@pytest.fixture
def env(
    redis_url: str, client: redis.Redis, messenger: FakeMessenger, tmp_path: Path
) -> dict[str, str]:
    """The environment of a whole service; a test may change it before it uses what builds on it."""
    return {
        "REDIS_URL": redis_url,
        "API_PASSWORD": PASSWORD,
        "DATA_DIR": str(tmp_path),
        "RETRY_INTERVAL": "0.2",
        "UNKNOWN_GRACE": "0.2",
        **messenger.env(),
    }


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    return Settings.from_env(env, None)


@pytest.fixture
def service(settings: Settings, client: redis.Redis) -> Service:
    return Service(Store(client), settings, open_accounts(settings))


class Api(requests.Session):
    """A client of the API, logged in. Paths instead of URLs; `auth=None` logs it out."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.auth = ("postrider", PASSWORD)
        self.trust_env = False  # a .netrc of whoever runs the tests is of no concern

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 30)
        return super().request(method, self.url + url, **kwargs)


def post_head(path: str, *lines: str, password: str = PASSWORD) -> bytes:
    """The head of a POST with a login, whose body is still to come."""
    login = base64.b64encode(f"postrider:{password}".encode()).decode()
    given = (f"POST {path} HTTP/1.1", "Host: here", f"Authorization: Basic {login}")
    return "\r\n".join((*given, *lines, "", "")).encode()


def connected_to(url: str, timeout_s: float = 30.0) -> socket.socket:
    """A bare connection to who serves there."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout_s)


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """The API over real HTTP, in a thread."""
    server = make_server("127.0.0.1", 0, create_app(settings, sweeps=False), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with Api(f"http://127.0.0.1:{server.server_port}") as found:
        yield found
    server.shutdown()
    thread.join(10)
    server.server_close()


def ended(process: subprocess.Popen[bytes], within_s: float = 10.0) -> int:
    """The exit code of one that is ending."""
    return process.wait(within_s * patience)


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts real processes (`start("postrider", "worker")`), and ends them with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(command: str, *args: str, **more_env: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [BIN / command, *args],
                env={**os.environ, **env, **more_env},
                cwd=tmp_path,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def worker(start: Start, client: redis.Redis) -> subprocess.Popen[bytes]:
    """One worker of ours, at work."""
    process = start("postrider", "worker")
    wait_until(lambda: client.scard("rq:workers"), 15, "a worker in RQ's books")
    return process


Postrider = Callable[..., int]


def _no_execv(path: str, _words: object) -> None:
    pytest.fail(f"{path} would have taken the place of the tests")


@pytest.fixture
def postrider(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postrider:
    """Runs `postrider ...` in this process and gives its exit code. Keywords are settings; None takes one away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", _no_execv)

    def run(*argv: str, **settings: str | None) -> int:
        for name, value in (env | settings).items():
            monkeypatch.setenv(name, value or "")
        return cli.main(argv)

    return run


AtTerminal = Callable[..., tuple[int, str]]


@pytest.fixture
def at_terminal(env: dict[str, str], tmp_path: Path) -> AtTerminal:
    """Runs `postrider ...` at a terminal; gives its exit code and the screen. `answer` goes to its question."""

    def run(*argv: str, answer: bytes = b"", columns: int = 130) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [POSTRIDER, *argv],
            env={**os.environ, **env, "TERM": "xterm-256color", "COLUMNS": str(columns)},
            cwd=tmp_path,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        screen = b""
        while True:
            try:
                screen += os.read(ours, 65_536)
            except OSError:  # EIO: the other side is closed
                break
            if answer and screen.endswith(b"[y/N] "):
                if answer == CTRL_C:  # it has no controlling terminal to make a signal of it
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, answer)
                answer = b""
        os.close(ours)
        return process.wait(10 * patience), screen.decode()

    return run
